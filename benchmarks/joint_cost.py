"""What a joint step costs with each aggregation, against single steps on as many examples.

The steps are the training loop's own: MiniLM, three tasks, batches of 16. Ways take turns, in an order that rotates;
the figure is the time of all steps over that of as many single steps, a multiple of three, so that each task has its
turn. "logged" measures the conflict log at every step: a run that logs every n-th step pays its surplus divided by n.

    python benchmarks/joint_cost.py [--corpus FOLDER] [--threads 1] [--clock cpu]
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import torch
from contestants import CLOCKS, mtlib_training
from step_cost import timed

from mtlib.data.corpus import load_corpus

TASKS = ("sst", "qqp", "sts")
SINGLE = "single"
WAYS: dict[str, dict] = {
    SINGLE: {},
    "joint": {"step": "joint"},
    "single, logged": {"conflicts": 1},
    "pcgrad": {"step": "joint", "aggregate": "pcgrad"},
    "famo": {"step": "joint", "aggregate": "famo"},
    "joint, logged": {"step": "joint", "conflicts": 1},
    **{kind: {"step": "joint", "aggregate": kind} for kind in ("uncertainty", "nash_mtl", "cagrad", "mgda")},
    **{kind: {"step": "joint", "aggregate": kind} for kind in ("upgrad", "gradvac", "aligned_mtl", "dwa")},
}
"""Name -> settings of a training of three tasks."""

AT_ONCE = 4
"""Trainings in memory at once beside the one they are compared with, of up to 0.7 GB each."""


def report(corpus: str, threads: int, clock: str, steps: int) -> Iterator[str]:
    """Milliseconds a step and the ratio to single steps, a row a way."""
    torch.set_num_threads(threads)
    loaded = load_corpus(corpus, TASKS)
    names = [name for name in WAYS if name != SINGLE]
    for first in range(0, len(names), AT_ONCE):
        with ExitStack() as held:
            some = [SINGLE, *names[first : first + AT_ONCE]]
            ready = {name: mtlib_training(loaded, held, tasks=TASKS, **WAYS[name]) for name in some}
            timed(ready, range(3), CLOCKS[clock])
            seconds = timed(ready, range(3, 3 + steps), CLOCKS[clock])
        for name, values in seconds.items():
            if name != SINGLE or not first:
                mean, ratio = 1000 * values.mean(), values.sum() / seconds[SINGLE].sum()
                yield f"{name:<16}{mean:>8.0f} ms{ratio:>8.2f}"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="sample")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    for line in report(options.corpus, options.threads, options.clock, options.steps):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
