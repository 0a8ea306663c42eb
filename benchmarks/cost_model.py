"""What a training step should take, and what it takes: operations, what lies between them, and memory traffic.

Passes are counted in forward passes F over the batch: a plain step is 3 F (forward, gradients of activations, of
weights), SMART with one inner step adds 5 F, the Bregman penalty F.

The two numbers that are no property of the machine, `share` and `between`, are fitted to six layers of both widths;
the other encoders are predicted. Measure with

    python benchmarks/cost_model.py [--corpus FOLDER] [--threads 2] [--clock wall]
"""

import argparse
import os
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
import transformers
from contestants import BFLOAT16, CLOCKS, mtlib_training, pairs_of

from mtlib.encoders import minilm_folder

PLAIN, MORE = 3.0, {"smart": 5.0, "bregman": 1.0, "rdrop": 3.0, "freelb": 7.0}
"""Passes of a plain step, and what each kind of penalty adds to them; FreeLB with two steps of ascent."""

BYTES_PER_WEIGHT = 50
"""Float32 traffic of one weight in one step: its gradient is zeroed (4), added to (10), taken the norm of (4) and
clipped (8); AdamW reads weight, gradient and moments (16) and writes all but the gradient, of which 8 go unseen."""

ENCODERS = [(2, 384), (6, 384), (12, 384), (2, 768), (6, 768), (12, 768)]
FITTED = [(6, 384), (6, 768)]
STEPS, ROUNDS = 6, 3


@dataclass(frozen=True)
class Machine:
    """product: operations a second at best, in the faster precision. memory: bytes a second copied at best.

    share: part of `product` that the products of a layer reach. between: seconds a pass, token, layer and unit of
    width that everything between them takes (GELU, softmax, dropout, LayerNorm, casts).
    """

    product: float
    memory: float
    share: float = 1.0
    between: float = 0.0


def operations(tokens: int, longest: int, layers: int, width: int) -> float:
    """Operations of one forward pass over `tokens` tokens in sentences of `longest`: products of layers and attention.

    A layer has 12 width^2 weights, each multiplied and added once a token; attention's two products take 4 width a
    pair of tokens.
    """
    return tokens * layers * (2 * 12 * width**2 + 4 * width * longest)


def parts(tokens: int, longest: int, layers: int, width: int, passes: float = PLAIN) -> tuple[float, float, float]:
    """Operations, token-layer-widths between them, and bytes of weights moved, in one step of so many passes."""
    weights = layers * 12 * width**2 + 30522 * width
    forward = operations(tokens, longest, layers, width)
    return passes * forward, passes * tokens * layers * width, weights * BYTES_PER_WEIGHT


def seconds(machine: Machine, tokens: int, longest: int, layers: int, width: int, passes: float = PLAIN) -> float:
    """Seconds of one optimizer step of so many passes over a batch of `tokens` tokens, padding included."""
    products, others, moved = parts(tokens, longest, layers, width, passes)
    return products / (machine.share * machine.product) + others * machine.between + moved / machine.memory


def fitted(machine: Machine, measured: dict[tuple[int, int], float], shapes: list[tuple[int, int]]) -> Machine:
    """The machine with `share` and `between` that explain the two encoders of FITTED exactly."""
    rows, left = [], []
    for layers, width in FITTED:
        products, others, moved = np.mean([parts(a * b, b, layers, width) for a, b in shapes], axis=0)
        rows.append([products / machine.product, others])
        left.append(measured[layers, width] - moved / machine.memory)
    slowness, between = np.linalg.solve(rows, left)
    return Machine(machine.product, machine.memory, 1 / slowness, between)


def best(clock, function, repeats: int = 5) -> float:
    """Seconds of the fastest of a few calls."""
    found = []
    for _ in range(repeats):
        begun = clock()
        function()
        found.append(clock() - begun)
    return min(found)


def peaks(clock) -> Machine:
    """This machine's product and memory."""
    kind = torch.bfloat16 if BFLOAT16 else torch.float32
    a, x = torch.randn(2048, 2048, dtype=kind), torch.randn(12_000_000)
    y = torch.zeros_like(x)
    return Machine(2 * 2048**3 / best(clock, lambda: a @ a), 2 * x.nbytes / best(clock, lambda: y.copy_(x)))


def measured_step(corpus, layers: int, width: int, clock) -> tuple[float, list[tuple[int, int]]]:
    """Seconds of a plain step, the fastest of ROUNDS on each of STEPS batches, and the batches' shapes."""
    with ExitStack() as held:
        folder = held.enter_context(tempfile.TemporaryDirectory())
        transformers.AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(folder)
        settings = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": 4 * width}
        config = transformers.BertConfig(num_attention_heads=12, **settings)
        transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
        training = mtlib_training(corpus, held, encoder=folder)
        times = np.empty((ROUNDS, STEPS))
        for index in np.ndindex(times.shape):
            begun = clock()
            training._step(index[1])
            times[index] = clock() - begun
        shapes = [tuple(training._batch(number).inputs["input_ids"].shape) for number in range(STEPS)]
        return float(times.min(0).mean()), shapes


def main() -> int:
    """Measure the encoders, fit two numbers, and print prediction beside measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="sample")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock, corpus, measured = CLOCKS[options.clock], pairs_of(options.corpus), {}
    machine = peaks(clock)
    for layers, width in ENCODERS:
        measured[layers, width], shapes = measured_step(corpus, layers, width, clock)
    machine = fitted(machine, measured, shapes)
    print(f"product {machine.product / 1e9:.0f} GFLOP/s, memory {machine.memory / 1e9:.0f} GB/s, ", end="")
    print(f"share {machine.share:.2f}, between {machine.between * 1e9:.1f} ns")
    for (layers, width), found in measured.items():
        predicted = np.mean([seconds(machine, a * b, b, layers, width) for a, b in shapes])
        fit = " (fitted)" if (layers, width) in FITTED else ""
        print(f"{layers:>3} x {width}  {1000 * found:>6.0f} ms  {1000 * predicted:>6.0f} ms  ", end="")
        print(f"{100 * (predicted / found - 1):>+4.0f} %{fit}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
