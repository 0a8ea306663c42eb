"""What a training step should take: operations over the machine's peak, plus what the memory has to move.

Passes are counted in forward passes F over the batch: a plain step is 3 F (forward, gradients of activations, of
weights), SMART with one inner step 8 F, the Bregman penalty 4 F, both 9 F, ranking two sentences a pair 3 F of both.
"""

from dataclasses import dataclass

PASSES = {"plain": 3, "SMART": 8, "BPPO": 4, "SMART + BPPO": 9}

BYTES_PER_WEIGHT = 46
"""Float32 traffic of one weight in one step: zeroing (4) and adding (10) its gradient, its norm (4), clipping (8), and
AdamW reading weight, gradient and moments (16) and writing weight and moments (4 of them count as read before)."""


@dataclass(frozen=True)
class Machine:
    """What a machine does at best. product: bfloat16 operations a second. memory: bytes a second read and written.

    share: part of `product` that a layer reaches with everything between its products (GELU, softmax, dropout,
    LayerNorm); the one number that is fitted, on the six-layer encoder.
    """

    product: float
    memory: float
    share: float


def operations(tokens: int, longest: int, layers: int, width: int) -> float:
    """Operations of one forward pass over `tokens` tokens in sentences of `longest`: products of layers and attention.

    A layer has 12 width^2 weights, used twice (multiply, add) a token; attention's two products take 4 width a pair
    of tokens.
    """
    return tokens * layers * (2 * 12 * width**2 + 4 * width * longest)


def seconds(
    machine: Machine, tokens: int, longest: int, layers: int, width: int, vocabulary: int = 30522, method: str = "plain"
) -> float:
    """Seconds of one optimizer step of `method` on a batch of `tokens` tokens, padding included."""
    compute = PASSES[method] * operations(tokens, longest, layers, width) / (machine.share * machine.product)
    weights = layers * 12 * width**2 + vocabulary * width
    return compute + weights * BYTES_PER_WEIGHT / machine.memory
