"""A BERT encoder's forward pass, fast on a CPU: the same sums as in transformers, in half the time.

What it does otherwise than transformers' modules under autocast: the weights of all layers are cast to bfloat16 once
an optimizer step, queries, keys and values as one matrix. Between the layers everything stays float32: residuals,
LayerNorm, softmax; only matrix products and GELU are bfloat16, with one cast before each. Attention is two plain
products, for a softmax in bfloat16 and torch's fused attention are slower on short sentences. Dropout masks are 16-bit
words of NumPy's fastest bit generator, whose seed is one draw from torch's: so they are a function of torch's seed as
ordinary dropout is, at a tenth of its cost.

Without autocast the same code computes in float32. Encoders and devices that it does not know are left to
transformers. The environment variable MTLIB_FAST=0 turns it off; a run records which it was.
"""

import copy
import ctypes
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

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
    return device.type == "cpu" and os.environ.get(SWITCH, "1") != "0"


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


@dataclass(frozen=True)
class Layer:
    """One layer's weights as they are multiplied: matrices [out, in] and biases [out] of the four products."""

    qkv: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    up: tuple[Tensor, Tensor]
    down: tuple[Tensor, Tensor]
    norms: tuple[nn.LayerNorm, nn.LayerNorm]


class FastEncoder:
    """Computes the last hidden state of an encoder that is `known` from the output of its embedding block.

    It holds no weights of its own but, within `fixed`, the cast ones.
    """

    def __init__(self, encoder: nn.Module):
        self.encoder = encoder
        self._fixed: dict | None = None

    def __deepcopy__(self, memo) -> "FastEncoder":
        return FastEncoder(copy.deepcopy(self.encoder, memo))

    def embed(self, **inputs: Tensor) -> Tensor:
        """Output of the embedding block, [batch, tokens, hidden]: the block's own, with fast lookup and dropout."""
        block = self.encoder.embeddings
        words, dropped = block.word_embeddings, block.dropout.p if block.training else 0.0

        def look_up(ids: Tensor) -> Tensor:
            return Lookup.apply(words.weight, ids, words.padding_idx)

        def drop(x: Tensor) -> Tensor:
            return x * Masks().draw(x.shape, dropped) if dropped else x

        with computing(words, look_up), computing(block.dropout, drop):
            return block(**inputs)

    def __call__(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Last hidden state [batch, tokens, hidden], float32.

        embeddings: [batch, tokens, hidden]. mask: 1 on tokens and 0 on padding, [batch, tokens].
        """
        dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else embeddings.dtype
        config, masks = self.encoder.config, Masks()
        training = self.encoder.training
        dropped = (config.attention_probs_dropout_prob, config.hidden_dropout_prob) if training else (0.0, 0.0)
        with torch.autocast("cpu", enabled=False):
            bias = (1 - mask[:, None, None, :].to(embeddings.dtype)) * torch.finfo(torch.bfloat16).min
            if hasattr(self.encoder.encoder, "compute_position_bias"):
                bias = bias + self.encoder.encoder.compute_position_bias(embeddings[:1])
            x = embeddings
            for layer in self.layers(dtype):
                x = _layer(x, layer, bias, config.num_attention_heads, dtype, masks, dropped)
        return x

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

    def layers(self, dtype: torch.dtype) -> list[Layer]:
        """The layers' weights in `dtype`, part of the graph where gradients are on."""
        if self._fixed is None:
            return self._cast(dtype)
        key = dtype, torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        if key not in self._fixed:
            self._fixed[key] = self._cast(dtype)
        return self._fixed[key]

    def _cast(self, dtype: torch.dtype) -> list[Layer]:
        layers = [_modules(type(self.encoder).__name__, layer) for layer in self.encoder.encoder.layer]
        groups = []
        for query, key, value, *products, _, _ in layers:
            groups += [[part.weight for part in (query, key, value)], [part.bias for part in (query, key, value)]]
            groups += [[weight] for product in products for weight in (product.weight, product.bias)]
        if dtype == torch.bfloat16:
            sizes, parameters = [len(group) for group in groups], [weight for group in groups for weight in group]
            cast = iter(Bfloat16.apply(sizes, *parameters))
        else:
            cast = (torch.cat(group) if len(group) > 1 else group[0] for group in groups)
        pairs = [[(next(cast), next(cast)) for _ in range(4)] for _ in layers]
        return [Layer(*four, tuple(modules[-2:])) for four, modules in zip(pairs, layers, strict=True)]


class Bfloat16(torch.autograd.Function):
    """Parameters cast to bfloat16, `sizes[i]` successive ones joined to output i.

    A parameter's gradient is added to the one it has, if it has one: a float32 copy would be made only to be added.
    """

    @staticmethod
    def forward(ctx, sizes: Sequence[int], *parameters: Tensor):
        """The joined casts, one a size."""
        ctx.parameters, ctx.rows = parameters, []
        remaining, outputs = iter(parameters), []
        for size in sizes:
            group = [next(remaining) for _ in range(size)]
            rows = [len(part) for part in group]
            output = torch.empty(sum(rows), *group[0].shape[1:], dtype=torch.bfloat16)
            for target, part in zip(output.split(rows), group, strict=True):
                target.copy_(part)
            outputs.append(output)
            ctx.rows.append(rows)
        return tuple(outputs)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        """Gradients of the parameters, or none where they were added to what is there."""
        parts = [part for gradient, rows in zip(gradients, ctx.rows, strict=True) for part in gradient.split(rows)]
        for index, parameter in enumerate(ctx.parameters):
            if parameter.grad is None:
                parts[index] = parts[index].float()
            else:
                parameter.grad.add_(parts[index])
                parts[index] = None
        return None, *parts


class Lookup(torch.autograd.Function):
    """Rows of the word embeddings, whose gradient is added to the table's where there is one.

    A dense gradient of its own would be 30,522 rows for the few hundred of a batch.
    """

    @staticmethod
    def forward(ctx, table: Tensor, ids: Tensor, padding: int | None) -> Tensor:
        """Rows of the table [words, hidden], [batch, tokens, hidden]."""
        ctx.save_for_backward(table, ids)
        ctx.padding = padding
        return F.embedding(ids, table)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        """The table's gradient, or none where it was added to what is there."""
        table, ids = ctx.saved_tensors
        if ctx.padding is not None:
            gradient = gradient.masked_fill((ids == ctx.padding).unsqueeze(-1), 0)
        given = table.grad is not None
        total = table.grad if given else torch.zeros_like(table)
        total.index_add_(0, ids.flatten(), gradient.flatten(0, -2))
        return None if given else total, None, None


class Masks:
    """Inverted-dropout masks of one pass, from a bit generator that is seeded by one draw of torch's at the first."""

    def __init__(self):
        self.bits = None

    def draw(self, shape: Sequence[int], dropped: float) -> Tensor:
        """Float32 mask: 0 with probability `dropped` (to 1/65536), else the factor that keeps the mean."""
        if self.bits is None:
            self.bits = np.random.SFC64(int(torch.randint(2**63 - 1, ())))
        size, threshold = int(np.prod(shape)), round(dropped * 65536)
        words = self.bits.random_raw(-(-size // 4)).view(np.uint16)[:size]
        return torch.from_numpy(words >= threshold).float().mul_(65536 / (65536 - threshold)).view(*shape)


def _layer(
    x: Tensor, layer: Layer, bias: Tensor, heads: int, dtype: torch.dtype, masks: Masks, dropped: tuple[float, float]
) -> Tensor:
    """One post-LayerNorm transformer layer of x [batch, tokens, hidden]; bias is added to the scores of attention."""
    batch, tokens, hidden = x.shape
    size = hidden // heads
    of_attention, of_hidden = dropped
    qkv = F.linear(x.to(dtype), *layer.qkv).view(batch, tokens, 3, heads, size)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).contiguous().unbind()  # [batch, heads, tokens, size] each
    probabilities = torch.add(bias, q @ k.mT, alpha=size**-0.5).softmax(-1)  # [batch, heads, tokens, tokens], float32
    if of_attention:
        probabilities = probabilities * masks.draw(probabilities.shape, of_attention)
    context = (probabilities.to(dtype) @ v).transpose(1, 2).reshape(batch, tokens, hidden)
    x = _add_norm(x, F.linear(context, *layer.out), layer.norms[0], masks, of_hidden)
    inner = F.gelu(F.linear(x.to(dtype), *layer.up))
    return _add_norm(x, F.linear(inner, *layer.down), layer.norms[1], masks, of_hidden)


def _add_norm(x: Tensor, output: Tensor, norm: nn.LayerNorm, masks: Masks, dropped: float) -> Tensor:
    """LayerNorm of the residual x plus the sublayer's output, which is dropped out."""
    output = output.to(x.dtype)
    added = torch.addcmul(x, output, masks.draw(x.shape, dropped)) if dropped else x + output
    return F.layer_norm(added, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


class Gradients:
    """Gradients of a model's parameters, those of an encoder on the fast path views of one buffer kept between steps.

    Every one of those has a gradient at every step; a head has none where the batch is of another task.
    """

    def __init__(self, model: nn.Module):
        encoder = model.fast.encoder if model.fast else None
        kept = [*encoder.embeddings.parameters(), *encoder.encoder.parameters()] if encoder else []
        self.kept = [parameter for parameter in kept if parameter.requires_grad]
        ids = {id(parameter) for parameter in self.kept}
        self.others = [parameter for parameter in model.parameters() if id(parameter) not in ids]
        self.buffer = torch.zeros(sum(parameter.numel() for parameter in self.kept))

    def clear(self) -> None:
        """Zero the buffer; gradients outside of it become none."""
        parts = self.buffer.zero_().split([parameter.numel() for parameter in self.kept]) if self.kept else ()
        for parameter, part in zip(self.kept, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        for parameter in self.others:
            parameter.grad = None

    def clip(self, largest: float) -> float:
        """Scale all gradients so that their norm is at most `largest`; their norm before."""
        others = [parameter.grad for parameter in self.others if parameter.grad is not None]
        norm = math.hypot(self.buffer.dot(self.buffer).sqrt().item(), get_total_norm(others).item())
        if norm > largest:
            torch._foreach_mul_([self.buffer, *others], largest / (norm + 1e-6))
        return norm


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
