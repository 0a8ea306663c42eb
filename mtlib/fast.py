"""A BERT encoder's forward and backward pass, fast: the same sums as in transformers, in half the time.

What it does otherwise than transformers' modules under autocast: the weights of all layers are cast to bfloat16 once
an optimizer step, queries, keys and values as one matrix. Between the layers everything stays float32: residuals,
LayerNorm, softmax; only matrix products and GELU are bfloat16, with one cast before each. Attention is two plain
products, for a softmax in bfloat16 and torch's fused attention are slower on short sentences. On a CPU dropout masks
are 16-bit words of NumPy's fastest bit generator, whose seed is one draw from torch's: so they are a function of
torch's seed as ordinary dropout is, at a tenth of its cost. A layer is one autograd function (`mtlib.fast_layer`), and
its weights' gradients are written where they are kept from step to step (`Gradients`). On a GPU, where a small
encoder's step is mostly the launching of kernels, that means fewer of them.

Without autocast the same code computes in float32. Encoders and devices that it does not know are left to
transformers. The environment variable MTLIB_FAST=0 turns it off; a run records which it was.
"""

import copy
import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mtlib.fast_layer import JOINED, Cast, Layer, Pass, Weights, computed
from mtlib.gradients import Place, Rows

SWITCH = "MTLIB_FAST"
"""Environment variable: 0 leaves every encoder to transformers."""

ATTENTION = {
    "BertModel": ("self.query", "self.key", "self.value", "output.dense", "output.LayerNorm"),
    "RobertaModel": ("self.query", "self.key", "self.value", "output.dense", "output.LayerNorm"),
    "MPNetModel": ("attn.q", "attn.k", "attn.v", "attn.o", "LayerNorm"),
}
"""Encoders it knows -> where in a layer's attention the four products and the LayerNorm are."""


def enabled(device: torch.device) -> bool:
    """Whether encoders on `device` take the fast path, if it knows them."""
    return device.type in ("cpu", "cuda") and os.environ.get(SWITCH, "1") != "0"


def known(encoder: nn.Module) -> bool:
    """Whether the fast path computes what this encoder computes: post-LayerNorm, GELU, plain linear layers."""
    kind, config = type(encoder).__name__, encoder.config
    if kind not in ATTENTION or config.hidden_act != "gelu" or getattr(config, "is_decoder", False):
        return False
    if getattr(config, "position_embedding_type", None) not in (None, "absolute"):
        return False
    for layer in encoder.encoder.layer:
        modules = _modules(kind, layer)
        if [type(module) for module in modules] != [nn.Linear] * 6 + [nn.LayerNorm] * 2:
            return False
        if any(module.bias is None for module in modules) or len(list(layer.parameters())) != 2 * len(modules):
            return False
    return True


def _modules(kind: str, layer: nn.Module) -> list[nn.Module]:
    """A layer's products (query, key, value, output, up, down), then its LayerNorms after attention and at its end."""
    *products, norm = (layer.attention.get_submodule(name) for name in ATTENTION[kind])
    return [*products, layer.intermediate.dense, layer.output.dense, norm, layer.output.LayerNorm]


class FastEncoder:
    """Computes the last hidden state of an encoder that is `known` from the output of its embedding block.

    It holds no weights of its own but, within `fixed`, the cast ones.
    """

    def __init__(self, encoder: nn.Module):
        self.encoder = encoder
        modules = list(encoder.modules())
        self._parts = [(each._modules, list(each._modules.values())) for each in modules if each._modules]
        self._hooks = [
            hooks for each in modules for hooks in (each._forward_hooks, each._forward_pre_hooks, each._backward_hooks)
        ]
        self.places: dict[int, list[Place | None]] = {}
        """By layer, where its gradients go while a step collects them (`Gradients`)."""
        self.rows: Rows | None = None
        """Where the word embeddings' gradient goes then."""
        self._fixed: dict | None = None

    def __deepcopy__(self, memo: dict) -> "FastEncoder | None":
        copied = copy.deepcopy(self.encoder, memo)
        return FastEncoder(copied) if known(copied) else None

    @property
    def unchanged(self) -> bool:
        """Whether the encoder has the modules it had, and no hooks: what was put in later is left to transformers."""
        return not any(self._hooks) and all([*parts.values()] == before for parts, before in self._parts)

    def embed(self, **inputs: Tensor) -> Tensor:
        """Output of the embedding block, [batch, tokens, hidden]: the block's own, with fast lookup and dropout."""
        block = self.encoder.embeddings
        words, dropped = block.word_embeddings, block.dropout.p if block.training else 0.0
        if words.weight.device.type != "cpu" or not (dropped or torch.is_grad_enabled()):
            return block(**inputs)

        def look_up(ids: Tensor) -> Tensor:
            return Lookup.apply(words.weight, ids, words.padding_idx, lambda: self.rows)

        def drop(x: Tensor) -> Tensor:
            return x * Masks().draw(x.shape, dropped) if dropped else x

        with computing(words, look_up), computing(block.dropout, drop):
            return block(**inputs)

    def __call__(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Last hidden state [batch, tokens, hidden], float32.

        embeddings: [batch, tokens, hidden]. mask: 1 on tokens and 0 on padding, [batch, tokens].
        """
        device = embeddings.device
        dtype = torch.bfloat16 if torch.is_autocast_enabled(device.type) else embeddings.dtype
        config, draw = self.encoder.config, Masks().draw if device.type == "cpu" else drawn(device)
        training = self.encoder.training
        dropped = (config.attention_probs_dropout_prob, config.hidden_dropout_prob) if training else (0.0, 0.0)
        with torch.autocast(device.type, enabled=False):
            bias = (1 - mask[:, None, None, :].to(embeddings.dtype)) * torch.finfo(torch.bfloat16).min
            if hasattr(self.encoder.encoder, "compute_position_bias"):
                bias = bias + self.encoder.encoder.compute_position_bias(embeddings[:1])
            given = Pass(config.num_attention_heads, config.layer_norm_eps, draw, *dropped)
            x = embeddings
            for number, weights in enumerate(self.layers(dtype)):
                if torch.is_grad_enabled():
                    x = Layer.apply(x, bias, given, self._place_of(number), *weights.all())
                else:
                    x, _ = computed(x, bias, given, weights)
        return x

    def _place_of(self, number: int) -> Callable[[], list[Place | None]]:
        none: list[Place | None] = [None] * len(JOINED)
        return lambda: self.places.get(number, none)

    @contextmanager
    def fixed(self) -> Iterator[None]:
        """Within this context no weight changes, so that they are cast once for all passes of a step or a split.

        It has to be said: torch's fused AdamW does not count up a parameter's version.
        """
        self._fixed = {}
        try:
            yield
        finally:
            self._fixed = None

    def layers(self, dtype: torch.dtype) -> list[Weights]:
        """The layers' weights in `dtype`, part of the graph where gradients are on."""
        fixed = self._fixed
        if fixed is None:
            return self._cast(dtype)
        key = dtype, torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        if key not in fixed:
            fixed[key] = self._cast(dtype)
        return fixed[key]

    def _cast(self, dtype: torch.dtype) -> list[Weights]:
        return [Weights(*Cast.apply(dtype, *chain.from_iterable(fields))) for fields in self.parameters()]

    @property
    def table_of_words(self) -> nn.Parameter:
        """The word embeddings, [words, hidden]."""
        block: Any = self.encoder.embeddings
        return block.word_embeddings.weight

    def parameters(self) -> list[list[list[nn.Parameter]]]:
        """By layer and field of `Weights`, the parameters that it joins."""
        found: list[list[list[Any]]] = []
        for layer in self.encoder.encoder.layer:
            query, key, value, out, up, down, norm, last = _modules(type(self.encoder).__name__, layer)
            joined = [[part.weight for part in (query, key, value)], [part.bias for part in (query, key, value)]]
            rest = [each for module in (out, norm, up, down, last) for each in (module.weight, module.bias)]
            found.append(joined + [[each] for each in rest])
        return found


class Lookup(torch.autograd.Function):
    """Rows of the word embeddings, whose gradient goes to `Rows` where there are some, or to the table's own."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor, padding: int | None, rows: Callable[[], Rows | None]) -> Tensor:
        """Rows of the table [words, hidden], [batch, tokens, hidden]."""
        ctx.save_for_backward(table, ids)
        ctx.padding, ctx.rows = padding, rows
        return F.embedding(ids, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The table's gradient, or none where it was added to what is kept."""
        table, ids = ctx.saved_tensors
        if ctx.padding is not None:
            gradient = gradient.masked_fill((ids == ctx.padding).unsqueeze(-1), 0)
        ids, gradient, rows = ids.flatten(), gradient.flatten(0, -2), ctx.rows()
        if rows is not None:
            rows.add(ids, gradient)
            return None, None, None, None
        return torch.zeros_like(table).index_add_(0, ids, gradient), None, None, None


class Masks:
    """Inverted-dropout masks of one pass, from a bit generator that is seeded by one draw of torch's at the first."""

    def __init__(self) -> None:
        self.bits = None

    def draw(self, shape: Sequence[int], dropped: float) -> Tensor:
        """Float32 mask: 0 with probability `dropped` (to 1/65536), else the factor that keeps the mean."""
        if self.bits is None:
            self.bits = np.random.SFC64(int(torch.randint(2**63 - 1, ())))
        size, threshold = int(np.prod(shape)), round(dropped * 65536)
        words = self.bits.random_raw(-(-size // 4)).view(np.uint16)[:size]
        return torch.from_numpy(words >= threshold).float().mul_(65536 / (65536 - threshold)).view(*shape)


def drawn(device: torch.device) -> Callable[[Sequence[int], float], Tensor]:
    """Draws masks as `Masks` does, by torch's own generator of the device."""
    return lambda shape, dropped: torch.empty(*shape, device=device).bernoulli_(1 - dropped).div_(1 - dropped)


@contextmanager
def computing(module: nn.Module, function: Callable) -> Iterator[None]:
    """Within this context the module's forward pass is `function`."""
    module.forward = function
    try:
        yield
    finally:
        del module.forward


def keep_memory() -> None:
    """Tell glibc to keep the memory of freed tensors below 32 MiB: else their pages are faulted in anew each step.

    Elsewhere than on Linux with glibc, and where the switch is off, it changes nothing.
    """
    if sys.platform != "linux" or os.environ.get(SWITCH, "1") == "0":
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, mmap_threshold = -1, -3  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD (at most 32 MiB)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(mmap_threshold, 2**25)
