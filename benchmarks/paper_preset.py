"""The preset `paper` as far as a CPU can prove it: every configuration, two steps of each kind, time and memory.

Plans the preset (which validates every experiment of it), takes two optimizer steps of each kind of run at BERT-base's
size with random weights, and adds up what the cost model says of all of them, for this machine and for one A100.

    python benchmarks/paper_preset.py [--preset paper] [--tokens 48] [--threads 2]

`tokens`: of an average sentence or pair, padding included. What it says of the A100 is arithmetic, not measurement.
"""

import argparse
import math
import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import torch
import transformers
from cost_model import MORE, PLAIN, Machine, peaks, seconds

from mtlib.data.corpus import load_corpus
from mtlib.experiments import Optimisation, Pretraining
from mtlib.packaged import minilm_folder
from mtlib.training.distributed import Ranks
from mtlib.training.loop import Training
from mtlib.training.pretraining import Ranking
from mtlib.training.runs import RunStore
from mtlib.training.start import Start
from mtlib.workbook.plan import Plan

LAYERS, WIDTH, WEIGHTS = 12, 768, 109_482_240
"""BERT-base, and its weights without the pooler's."""

A100 = Machine(product=312e12, memory=1.55e12, share=0.4)
"""NVIDIA's data sheet (bfloat16 with dense matrices, 40 GB of HBM2); the share of the peak is an assumption."""

LAUNCH, KERNELS = 5e-6, 20
"""On a GPU, assumed: seconds to start a kernel, and kernels of a layer in one pass."""

SHARE, BETWEEN = 1.0, 2.0e-9
"""What `cost_model.py` fitted on a CPU: see docs/performance.md."""


def passes(experiment: Optimisation) -> float:
    """Forward passes that a step of an experiment costs: of a plain step, and what its penalties add."""
    return PLAIN + sum(MORE[each.kind] for each in getattr(experiment, "penalties", ()) if each.weight)


def kind(experiment: Optimisation) -> str:
    """What tells the code of one run from another's: sampler, joint steps, penalties, losses, averages; or ranking."""
    if isinstance(experiment, Pretraining):
        return f"ranking, {experiment.batch_size} pairs"
    terms = [f"{each.kind} {getattr(each, 'mode', '')}".strip() for each in experiment.penalties if each.weight]
    terms += [f"joint {experiment.aggregate.kind}"] if experiment.step == "joint" else []
    terms += [each.kind for each in (*experiment.losses.values(), *experiment.averages)]
    terms += ["rates by layer"] if experiment.layer_decay < 1 else []
    terms += ["heads' own rate"] if experiment.head_rate != 1 else []
    return ", ".join([experiment.sampler.kind, *terms, experiment.schedule, f"{experiment.batch_size} a step"])


def two_steps(experiment: Optimisation, encoder: Path, corpus, held: ExitStack) -> tuple[float, float]:
    """Seconds of the second of two optimizer steps from random weights, and its loss; without phrases or teachers."""
    changed = experiment.but(start_from=None, encoder=str(encoder), encoder_revision=None, epochs=1, steps_per_epoch=2)
    if not isinstance(changed, Pretraining):
        changed = changed.but(phrases=0.0, teachers=())
    start = Start(changed, corpus, RunStore(held.enter_context(tempfile.TemporaryDirectory())))
    run = start.run()
    held.enter_context(run.lock())
    made = Ranking if isinstance(experiment, Pretraining) else Training
    training = made(start, run, progress="none", minutes=60.0, inexact=False, ranks=Ranks())
    training.prepare()
    training._step(0)
    begun = time.perf_counter()
    training._step(1)
    return time.perf_counter() - begun, training.sums["train_loss"] / training.counts["train_loss"]


def memory(experiment: Optimisation, tokens: int) -> float:
    """Bytes that training holds at once: weights, gradients, two moments, a teacher, and one batch's activations.

    A layer keeps about 17 widths of 2 bytes a token for its backward pass, and 12 heads of longest x longest in 4.
    """
    copies = 5 if any(each.kind == "bregman" for each in getattr(experiment, "penalties", ())) else 4
    batch = 2 * experiment.batch_size if isinstance(experiment, Pretraining) else experiment.batch_size
    forward = batch * tokens * LAYERS * (17 * WIDTH * 2 + 12 * tokens * 4)
    return 4 * copies * WEIGHTS + forward * math.ceil(passes(experiment) / PLAIN)


def hours(experiments: list[Optimisation], machine: Machine, tokens: int, launch: float = 0.0) -> float:
    """What the cost model predicts for all of the optimizer steps of these runs; launch: seconds a kernel."""
    total = 0.0
    for each in experiments:
        batch = 2 * each.batch_size if isinstance(each, Pretraining) else each.batch_size
        step = seconds(machine, batch * tokens, tokens, LAYERS, WIDTH, passes(each))
        total += each.steps * (step + passes(each) * LAYERS * KERNELS * launch)
    return total / 3600


def prove(preset: str, tokens: int) -> tuple[pd.DataFrame, list[Optimisation]]:
    """A row a kind of run: how many runs and steps the preset has of it, and what two steps of it took; all runs."""
    runs = list(Plan(preset, "sample").experiments.values())
    kinds, rows = {kind(each): each for each in reversed(runs)}, []
    count, steps = Counter(map(kind, runs)), Counter()
    for each in runs:
        steps[kind(each)] += each.steps
    with tempfile.TemporaryDirectory() as folder:
        transformers.AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(folder)
        transformers.BertModel(transformers.BertConfig(), add_pooling_layer=False).save_pretrained(folder)
        corpus = load_corpus("sample")
        for name, each in kinds.items():
            with ExitStack() as held:
                took, loss = two_steps(each, Path(folder), corpus, held)
            size = memory(each, tokens) / 1e9
            rows.append([name, count[name], steps[name], passes(each), took, loss, size])
    columns = ["kind", "runs", "steps", "passes", "seconds, second step", "loss", "GB, predicted"]
    return pd.DataFrame(rows, columns=columns), runs


def main() -> int:
    """Prove, predict and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table, runs = prove(options.preset, options.tokens)
    print(table.to_markdown(index=False, floatfmt=".3g"))
    here = peaks(time.perf_counter)
    here = Machine(here.product, here.memory, SHARE, BETWEEN)
    for name, machine, launch in (("this CPU", here, 0.0), ("one A100", A100, LAUNCH)):
        print(f"{len(runs)} runs, {sum(each.steps for each in runs):,} steps on {name}: ", end="")
        print(f"{hours(runs, machine, options.tokens, launch):,.0f} hours")
    return 0


if __name__ == "__main__":
    sys.exit(main())
