"""What one optimizer step of each method costs, against plain training on the same batches.

Let F be one forward pass. A plain step is 3F; SMART with one inner step is 8F when it shares the clean logits; the
Bregman penalty adds its teacher's pass, 4F; both together are 9F. Those ratios to 3F are the limits printed here.
The steps are the training loop's own, dropout off, on the generated corpus. Methods take turns on every batch, so
that whatever else the machine does falls on all of them alike; the figure is the median ratio over batches.
`flops` is the same ratio counted, not timed: matrix multiplications and attention alone.

    python benchmarks/step_cost.py [--steps 30] [--encoder minilm] [--batch-size 16]
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from mtlib.data.corpus import Corpus, load_corpus
from mtlib.experiments import experiment, label
from mtlib.objectives.bregman import Bregman
from mtlib.objectives.penalty import Penalty
from mtlib.objectives.smart import Smart
from mtlib.training.distributed import Ranks
from mtlib.training.loop import Training
from mtlib.training.runs import RunStore
from mtlib.training.start import Start

TOLERANCE = 0.15
PLAIN = "plain"
METHODS: dict[str, tuple[tuple[Penalty, ...], int]] = {
    PLAIN: ((Smart(weight=0.0),), 3),
    "SMART, 1 step": ((Smart(weight=1.0),), 8),
    "BPPO": ((Bregman(weight=1.0, decay=0.99),), 4),
    "SMART + BPPO": ((Smart(weight=1.0), Bregman(weight=1.0, decay=0.99)), 9),
}
"""Name -> penalties and forward passes a step. A weight of 0 costs nothing and turns dropout off as for the others."""


def trainings(
    corpus: Corpus, encoder: str, steps: int, batch_size: int, results: str, held: ExitStack
) -> dict[str, Training]:
    """The methods' trainings, ready for their first step, their runs locked in `held`; all draw the same batches."""
    store, ready = RunStore(results), {}
    for name, (penalties, _) in METHODS.items():
        chosen = experiment(
            "tour",
            name=label("cost", name),
            encoder=encoder,
            penalties=penalties,
            epochs=1,
            steps=steps,
            batch_size=batch_size,
        )
        start = Start(chosen, store)
        run = start.run_on(corpus)
        held.enter_context(run.lock())
        ready[name] = Training(chosen, corpus, run, start, progress="none", minutes=10.0, inexact=False, ranks=Ranks())
        ready[name].prepare()
    return ready


def counted(ready: dict[str, Training]) -> dict[str, float]:
    """Floating-point operations of step 0 of each method, over those of plain training."""
    operations = {}
    for name, training in ready.items():
        with FlopCounterMode(display=False) as counter:
            training._step(0)
        operations[name] = counter.get_total_flops()
    return {name: count / operations[PLAIN] for name, count in operations.items()}


def timed(ready: dict[str, Training], numbers: Sequence[int]) -> dict[str, np.ndarray]:
    """Seconds of every step in `numbers`, [steps] a method; the methods take turns, in an order that rotates."""
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    for number in numbers:
        order = list(ready)[number % len(ready) :] + list(ready)[: number % len(ready)]
        for name in order:
            begun = time.perf_counter()
            ready[name]._step(number)
            seconds[name].append(time.perf_counter() - begun)
    return {name: np.array(values) for name, values in seconds.items()}


def main() -> int:
    """Measure and print; 1 when a ratio is more than 15 % above its limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as results, ExitStack() as held:
        ready = trainings(load_corpus("sample"), options.encoder, options.steps, options.batch_size, results, held)
        flops = counted(ready)
        seconds = timed(ready, range(1, options.steps))
    device, threads = ready[PLAIN].device, torch.get_num_threads()
    print(f"{options.encoder}, batches of {options.batch_size}, {device.device}, {device.precision}, {threads} threads")
    print(f"{'method':<14}{'median ms':>10}{'ratio':>8}{'quartiles':>16}{'flops':>8}{'limit':>8}  within 15 %")
    beyond = False
    for name, values in seconds.items():
        low, ratio, high = np.quantile(values / seconds[PLAIN], [0.25, 0.5, 0.75])
        limit = METHODS[name][1] / METHODS[PLAIN][1]
        fits = ratio <= limit * (1 + TOLERANCE)
        beyond |= not fits
        spread = f"{low:.2f} to {high:.2f}"
        row = f"{name:<14}{1000 * np.median(values):>10.0f}{ratio:>8.3f}{spread:>16}{flops[name]:>8.3f}{limit:>8.3f}"
        print(f"{row}  {'yes' if fits else 'NO'}")
    return int(beyond)


if __name__ == "__main__":
    sys.exit(main())
