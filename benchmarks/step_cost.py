"""What one optimizer step of each method costs, against plain training on the same batches.

Let F be one forward pass. A plain step is 3F; SMART with one inner step is 8F when it shares the clean logits (9F in
attention's own products, few here: both of their factors need a gradient, also in the inner step); the
Bregman penalty adds its teacher's pass, 4F; both together are 9F. Ranking has no clean counterpart: its limit is a
plain step on a batch of as many sentences. The steps are the training loop's own. "plain" is training as users run
it, with dropout; "no dropout" is the same with the methods' policy. Methods take turns on every batch, so that
whatever else the machine does falls on all of them alike; the figure is the median ratio over batches. `flops` is the
same ratio counted, not timed: matrix multiplications and attention alone.

    python benchmarks/step_cost.py [--corpus FOLDER] [--threads 2] [--clock wall]
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import torch
from contestants import CLOCKS, mtlib_training, pairs_of
from torch.utils.flop_counter import FlopCounterMode

import mtlib
from mtlib.data.corpus import Corpus, Splits, load_corpus
from mtlib.objectives.bregman import Bregman
from mtlib.objectives.freelb import FreeLB
from mtlib.objectives.penalty import Penalty
from mtlib.objectives.rdrop import RDrop
from mtlib.objectives.smart import Smart
from mtlib.tasks import SST
from mtlib.training.distributed import Ranks
from mtlib.training.loop import Training
from mtlib.training.pretraining import Ranking
from mtlib.training.runs import RunStore
from mtlib.training.start import Start

PLAIN = "plain"
METHODS: dict[str, tuple[tuple[Penalty, ...], int, float]] = {
    PLAIN: ((), 3, 1.0),
    "no dropout": ((Smart(weight=0.0),), 3, 1.0),
    "SMART, 1 step": ((Smart(weight=1.0),), 8, 2.2),
    "BPPO": ((Bregman(weight=1.0, decay=0.99),), 4, 1.3),
    "R-Drop": ((RDrop(weight=1.0),), 6, 2.2),
    "FreeLB": ((FreeLB(weight=1.0),), 10, 3.7),
    "SMART + BPPO": ((Smart(weight=1.0), Bregman(weight=1.0, decay=0.99)), 9, 3.0),
}
"""Name -> penalties, forward passes a step, and the target of its time over a plain step's."""

RANKING, PAIRS = "ranking", 8
STEPS = 12


def added(total: torch.Size, a: torch.Size, b: torch.Size, **_) -> int:
    """Operations of a product [m, k] [k, n] that is added to what is there, which torch's counter does not know."""
    return 2 * a[0] * a[1] * b[1]


def counted(ready: dict[str, Training]) -> dict[str, float]:
    """Floating-point operations of step 0 of each method, over those of plain training."""
    operations = {}
    for name, training in ready.items():
        with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: added}) as counter:
            training._step(0)
        operations[name] = counter.get_total_flops()
    return {name: count / operations[PLAIN] for name, count in operations.items()}


def timed(ready: dict[str, Training], numbers: Sequence[int], clock) -> dict[str, np.ndarray]:
    """Seconds of every step in `numbers`, [steps] a method; the methods take turns, in an order that rotates."""
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    for number in numbers:
        order = list(ready)[number % len(ready) :] + list(ready)[: number % len(ready)]
        for name in order:
            begun = clock()
            ready[name]._step(number)
            seconds[name].append(clock() - begun)
    return {name: np.array(values) for name, values in seconds.items()}


def rankings(corpus: Corpus, held: ExitStack) -> dict[str, Training]:
    """A pretraining and plain training on the same number of single sentences a step."""
    task = corpus["sst"]
    sentences = Corpus("sentences", (SST,), {"sst": Splits(train=task.train, dev=task.dev, test=None)})
    settings = mtlib.pretraining("tour", batch_size=PAIRS, false_negatives="mask", epochs=1, steps_per_epoch=10_000)
    store = RunStore(held.enter_context(tempfile.TemporaryDirectory()))
    start = Start(settings, sentences, store)
    run = start.run()
    held.enter_context(run.lock())
    ranking = Ranking(start, run, progress="none", minutes=60.0, inexact=False, ranks=Ranks())
    ranking.prepare()
    plain = mtlib_training(sentences, held, tasks=("sst",), batch_size=2 * PAIRS)
    plain._batch = ranking._batch
    return {PLAIN: plain, RANKING: ranking}


def report(corpus: str, threads: int, clock: str) -> str:
    """Median milliseconds, ratio to plain with quartiles, counted operations and target, a row a method."""
    torch.set_num_threads(threads)
    with ExitStack() as held:
        pairs = pairs_of(corpus)
        ready = {name: mtlib_training(pairs, held, penalties=row[0]) for name, row in METHODS.items()}
        flops = counted(ready)
        seconds = timed(ready, range(1, STEPS), CLOCKS[clock])
    with ExitStack() as held:
        two = rankings(load_corpus(corpus, ["sst"]), held)
        timed(two, range(2), CLOCKS[clock])
        ranked = timed(two, range(2, 2 + STEPS), CLOCKS[clock])
    lines = [f"{'method':<14}{'median ms':>10}{'ratio':>8}{'quartiles':>16}{'flops':>8}{'target':>8}"]
    for name, values in seconds.items():
        lines.append(_row(name, values, values / seconds[PLAIN], f"{flops[name]:.2f}", METHODS[name][2]))
    lines.append(_row(RANKING, ranked[RANKING], ranked[RANKING] / ranked[PLAIN], "", 1.15))
    return "\n".join(lines)


def _row(name: str, seconds: np.ndarray, ratios: np.ndarray, flops: str, target: float) -> str:
    low, ratio, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    spread = f"{low:.2f} to {high:.2f}"
    row = f"{name:<14}{1000 * np.median(seconds):>10.0f}{ratio:>8.2f}{spread:>16}{flops:>8}{target:>8.2f}"
    return row + ("  reached" if ratio <= target else "  MISSED")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="sample")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    print(report(options.corpus, options.threads, options.clock))
    return 0


if __name__ == "__main__":
    sys.exit(main())
