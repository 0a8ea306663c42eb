"""One post-LayerNorm transformer layer, its backward pass written by hand: fewer casts, sums, copies than autograd's.

The residual stream, LayerNorm and softmax are float32; products and GELU are of the weights' type, bfloat16 or float32.
Gradients of weights go straight to where they are kept (`Place`), in float32; those of bfloat16 are rounded to
it first, as autocast does.

Shapes: n = batch * tokens rows; x [batch, tokens, hidden]; scores of attention [batch, heads, tokens, tokens].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mtlib.gradients import Place

JOINED = (3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
"""How many of a layer's parameters each field of `Weights` joins."""


@dataclass(frozen=True)
class Weights:
    """A layer's weights as they are multiplied: matrices [out, in] and biases [out] of 4 products, 2 LayerNorms."""

    qkv: Tensor
    qkv_bias: Tensor
    out: Tensor
    out_bias: Tensor
    norm: Tensor
    norm_bias: Tensor
    up: Tensor
    up_bias: Tensor
    down: Tensor
    down_bias: Tensor
    last_norm: Tensor
    last_norm_bias: Tensor

    def all(self) -> list[Tensor]:
        """Every field, in order."""
        return [getattr(self, name) for name in self.__dataclass_fields__]


@dataclass(frozen=True)
class Pass:
    """What a layer needs besides x and weights: the same for all layers of one pass.

    epsilon: of the LayerNorms. draw: mask of inverted dropout of a shape, float32, and its probability's share; None
    without dropout. attention, hidden: probabilities of dropout.
    """

    heads: int
    epsilon: float
    draw: Callable[[Sequence[int], float], Tensor]
    attention: float
    hidden: float

    def mask(self, shape: Sequence[int], dropped: float) -> Tensor | None:
        """A mask of `shape`, or none where nothing is dropped."""
        return self.draw(shape, dropped) if dropped else None


class Kept(NamedTuple):
    """What a layer's backward pass needs of its forward pass; a mask is none where nothing was dropped."""

    inputs: Tensor  # [n, hidden], as it was multiplied
    qkv: Tensor  # [3, batch, heads, tokens, size]
    attention: Tensor  # [batch, heads, tokens, tokens], float32
    mask: Tensor | None
    dropped: Tensor  # attention times mask, as it was multiplied
    context: Tensor  # [n, hidden]
    first: Tensor  # the sum before the first LayerNorm, [batch, tokens, hidden]
    first_mean: Tensor
    first_spread: Tensor  # 1 / its standard deviation
    first_mask: Tensor | None
    middle: Tensor  # [n, hidden]
    up: Tensor  # [n, inner], before GELU
    inner: Tensor  # after it
    last: Tensor  # and before the last
    last_mean: Tensor
    last_spread: Tensor
    last_mask: Tensor | None


class Cast(torch.autograd.Function):
    """A layer's parameters as the fields of `Weights`: joined, and products' in `dtype`."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *parameters: Tensor) -> tuple[Tensor, ...]:
        """One tensor a field."""
        ctx.set_materialize_grads(False)
        ctx.kind, ctx.rows, remaining, fields = parameters[0].dtype, [], iter(parameters), []
        for name, size in zip(Weights.__dataclass_fields__, JOINED, strict=True):
            group = [next(remaining) for _ in range(size)]
            ctx.rows.append([len(part) for part in group])
            kind = ctx.kind if "norm" in name else dtype
            fields.append(torch.cat(group).to(kind) if size > 1 else group[0].to(kind))
        return tuple(fields)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """The parameters' gradients, in their own type; none where they were put into a `Place`."""
        parts: list[Tensor | None] = []
        for gradient, rows in zip(gradients, ctx.rows, strict=True):
            parts += [None] * len(rows) if gradient is None else gradient.to(ctx.kind).split(rows)
        return None, *parts


class Layer(torch.autograd.Function):
    """The layer as one operation; it cannot be differentiated twice."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor, given: Pass, places: Callable[[], Sequence[Place | None]], *weights: Tensor
    ) -> Tensor:
        """x after the layer. places(): where each field's gradient is kept now, or none: it is handed on."""
        y, kept = computed(x, bias, given, Weights(*weights))
        ctx.places = places
        ctx.save_for_backward(*weights, *kept)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, of bias where it is wanted, and of the weights; the last only where the engine goes there.

        SMART's inner step differentiates for the embeddings alone: a third of the work.
        """
        saved = ctx.saved_tensors
        weights, kept = Weights(*saved[: len(JOINED)]), Kept(*saved[len(JOINED) :])
        cast = ctx.next_functions[-1][0]
        into = Into(ctx.places()) if cast and torch._C._will_engine_execute_node(cast) else None
        with torch.autocast(gradient.device.type, enabled=False):
            x, bias = differentiated(gradient, kept, weights, into)
        own = into.handed_on if into else [None] * len(JOINED)
        return x, bias if ctx.needs_input_grad[1] else None, None, None, *own


class Into:
    """Takes a layer's weights' gradients: into their places, or to be handed on."""

    def __init__(self, places: Sequence[Place | None]):
        self.places = dict(zip(Weights.__dataclass_fields__, places, strict=True))
        self.given: dict[str, Tensor] = {}

    @property
    def handed_on(self) -> list[Tensor | None]:
        """By field, what has no place."""
        return [self.given.get(name) for name in self.places]

    def add(self, name: str, gradient: Tensor) -> None:
        """A field's gradient."""
        place = self.places[name]
        if place is None:
            self.given[name] = gradient
        else:
            place.add(gradient)

    def product(self, name: str, gradient: Tensor, inputs: Tensor) -> None:
        """Gradients of a matrix and its bias, from those of the product's output [n, out] and its inputs [n, in]."""
        self.add(f"{name}_bias", gradient.sum(0, dtype=torch.promote_types(gradient.dtype, torch.float32)))
        place = self.places[name]
        if place is None or gradient.dtype != place.total.dtype or not (place.empty or place.filled):
            self.add(name, gradient.T @ inputs)
        elif place.empty:
            torch.mm(gradient.T, inputs, out=place.total)
            place.fill()
        else:
            torch.addmm(place.total, gradient.T, inputs, out=place.total)


def computed(x: Tensor, bias: Tensor, given: Pass, w: Weights) -> tuple[Tensor, Kept]:
    """x after the layer, and what its backward pass needs."""
    batch, tokens, hidden = x.shape
    size = hidden // given.heads
    inputs = x.to(w.qkv.dtype).view(-1, hidden)
    qkv = F.linear(inputs, w.qkv, w.qkv_bias).view(batch, tokens, 3, given.heads, size)
    qkv = qkv.permute(2, 0, 3, 1, 4).contiguous()
    q, k, v = qkv
    attention = torch.add(bias, q @ k.mT, alpha=size**-0.5).softmax(-1)
    mask = given.mask(attention.shape, given.attention)
    dropped = (attention if mask is None else attention * mask).to(w.qkv.dtype)
    context = (dropped @ v).transpose(1, 2).reshape(-1, hidden)
    y, *first = _add_norm(x, F.linear(context, w.out, w.out_bias), given, w.norm, w.norm_bias)
    middle = y.to(w.qkv.dtype).view(-1, hidden)
    up = F.linear(middle, w.up, w.up_bias)
    inner = F.gelu(up)
    y, *last = _add_norm(y, F.linear(inner, w.down, w.down_bias), given, w.last_norm, w.last_norm_bias)
    kept: list[Any] = [inputs, qkv, attention, mask, dropped, context, *first, middle, up, inner, *last]
    return y, Kept(*kept)


def _add_norm(x: Tensor, output: Tensor, given: Pass, weight: Tensor, bias: Tensor) -> tuple[Any, ...]:
    """LayerNorm of x plus a sublayer's output [n, hidden], dropped out; the sum, its mean and spread, and the mask."""
    output = output.to(x.dtype).view_as(x)
    mask = given.mask(x.shape, given.hidden)
    added = x + output if mask is None else torch.addcmul(x, output, mask)
    y, mean, spread = torch.native_layer_norm(added, x.shape[-1:], weight, bias, given.epsilon)
    return y, added, mean, spread, mask


def differentiated(gradient: Tensor, kept: Kept, w: Weights, into: Into | None) -> tuple[Tensor, Tensor]:
    """Gradients of x and of bias; those of the weights go `into`, if it is there."""
    hidden = kept.inputs.shape[-1]
    last, first = (kept.last, kept.last_mean, kept.last_spread), (kept.first, kept.first_mean, kept.first_spread)
    residual, output = _add_norm_back(gradient, last, kept.last_mask, w, into, "last_norm")
    if into:
        into.product("down", output, kept.inner)
    output = torch.ops.aten.gelu_backward(output @ w.down, kept.up)
    if into:
        into.product("up", output, kept.middle)
    residual = _plus_product(residual, output, w.up)
    residual, output = _add_norm_back(residual, first, kept.first_mask, w, into, "norm")
    if into:
        into.product("out", output, kept.context)
    heads = (output @ w.out).view_as(kept.qkv[0].transpose(1, 2)).transpose(1, 2)  # [batch, heads, tokens, size]
    scores, output = _attention_back(heads.contiguous(), kept.qkv, kept.attention, kept.mask, kept.dropped)
    output = output.permute(1, 3, 0, 2, 4).reshape(-1, 3 * hidden)
    if into:
        into.product("qkv", output, kept.inputs)
    return _plus_product(residual, output, w.qkv), scores


def _add_norm_back(
    gradient: Tensor, kept: Sequence[Tensor], mask: Tensor | None, w: Weights, into: Into | None, name: str
) -> tuple[Tensor, Tensor]:
    """Gradients of x [batch, tokens, hidden], float32, and of the sublayer's output [n, hidden]."""
    added, mean, spread = kept
    weight, bias = getattr(w, name), getattr(w, f"{name}_bias")
    wanted = [True, into is not None, into is not None]
    x, of_weight, of_bias = torch.ops.aten.native_layer_norm_backward(
        gradient, added, added.shape[-1:], mean, spread, weight, bias, wanted
    )
    if into:
        into.add(name, of_weight)
        into.add(f"{name}_bias", of_bias)
    return x, (x if mask is None else x * mask).to(w.qkv.dtype).view(-1, x.shape[-1])


def _attention_back(
    gradient: Tensor, qkv: Tensor, attention: Tensor, mask: Tensor | None, dropped: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the scores after scaling, float32, and of queries, keys and values, shaped as these."""
    q, k, v = qkv
    of_dropped = (gradient @ v.mT).to(attention.dtype)
    of_attention = of_dropped if mask is None else of_dropped.mul_(mask)
    scores = torch.ops.aten._softmax_backward_data(of_attention, attention, -1, attention.dtype)
    scaled = (scores * q.shape[-1] ** -0.5).to(q.dtype)
    result, flat = torch.empty_like(qkv), [part.flatten(0, 1) for part in (scaled, q, k, gradient, dropped)]
    of_scores, q, k, gradient, dropped = flat
    torch.bmm(of_scores, k, out=result[0].flatten(0, 1))
    torch.bmm(of_scores.mT, q, out=result[1].flatten(0, 1))
    torch.bmm(dropped.mT, gradient, out=result[2].flatten(0, 1))
    return scores, result


def _plus_product(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """total [batch, tokens, hidden] plus a [n, k] times b [k, hidden], in place: nothing else holds it by now."""
    flat = total.view(-1, total.shape[-1])
    summed = torch.addmm(flat, a, b, out=flat) if a.dtype == flat.dtype else flat.add_(a @ b)
    return summed.view_as(total)
