"""Who is how fast: mtlib beside its peers on the same pairs, in turns, and its methods beside a plain step.

Every contestant of benchmarks/contestants.py has a process of its own; in each of `--rounds` rounds each has its
turn, in rotating order, while the others wait. A ratio is the median over rounds of the ratio within a round, so
what else the machine does falls on both. Writes RESULTS.md beside this file.

    python benchmarks/throughput.py [--corpus FOLDER] [--rounds 7] [--threads 2] [--clock wall]

Where other work shares the machine, `--threads 1 --clock cpu` counts processor seconds instead.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import step_cost
from contestants import BFLOAT16, CLOCKS, CONTESTANTS, pairs_of
from cost_model import operations

from mtlib.data.batches import TokenizedSplit
from mtlib.encoders import find_encoder
from mtlib.tasks import QQP

HERE = Path(__file__).parent
VERSIONS = ("torch", "transformers", "accelerate", "sentence-transformers", "datasets", "numpy")
PRODUCTS = "bfloat16" if BFLOAT16 else "float32"
TARGETS = [
    ("mtlib_train", "trainer_best", 2.0),
    ("mtlib_train", "trainer_default", 4.5),
    ("mtlib_train", "cross_encoder_best", 3.0),
    ("mtlib_predict", "trainer_predict_best", 3.0),
]
"""Ours, theirs, and how many times as fast ours is meant to be."""


class Contestant:
    """A contestant in its own process."""

    def __init__(self, name: str, options: argparse.Namespace):
        command = [sys.executable, str(HERE / "contestants.py"), name, "--corpus", options.corpus]
        command += ["--threads", str(options.threads), "--clock", options.clock]
        where = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            command, env=where, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.rates: list[float] = []
        self.megabytes = 0.0
        self.works = self._answer() == "ready"

    def turn(self) -> None:
        """One round."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found = self._answer()
        self.rates.append(found["examples"] / found["seconds"])
        self.megabytes = found["megabytes"]

    def end(self) -> None:
        """End its process."""
        self.process.stdin.close()
        self.process.wait()

    def _answer(self):
        """The next line of JSON; peers print lines of their own. None where the process has ended."""
        for line in self.process.stdout:
            if line.startswith(('"ready"', '{"examples"')):
                return json.loads(line)
        return None


def measured(options: argparse.Namespace) -> dict[str, Contestant]:
    """Every contestant that could start, after all rounds. The first round is not counted."""
    started = {name: Contestant(name, options) for name in CONTESTANTS}
    ready = {name: contestant for name, contestant in started.items() if contestant.works}
    for number in range(options.rounds + 1):
        names = list(ready)[number % len(ready) :] + list(ready)[: number % len(ready)]
        for name in names:
            ready[name].turn()
    for contestant in ready.values():
        contestant.rates.pop(0)
        contestant.end()
    return ready


def report(found: dict[str, Contestant], methods: str, options: argparse.Namespace) -> str:
    """RESULTS.md: machine, versions, medians and quartiles, ratios beside their targets, the methods' steps."""
    peak = np.median(found["peak"].rates)
    lines = [
        "# Speed, measured",
        "",
        _about(options, peak),
        "",
        "| contestant | examples/s | quartiles | peak RSS, MB |",
    ]
    lines += ["| --- | --- | --- | --- |"]
    for name, contestant in found.items():
        if name != "peak":
            low, middle, high = np.quantile(contestant.rates, [0.25, 0.5, 0.75])
            lines.append(f"| {name} | {middle:.1f} | {low:.1f} to {high:.1f} | {contestant.megabytes:.0f} |")
    missing = [name for name in CONTESTANTS if name not in found]
    if missing:
        lines += ["", f"Could not start here, so not measured: {', '.join(missing)} (they need the extra `hub`)."]
    lines += ["", "| ratio | median | quartiles | target | |", "| --- | --- | --- | --- | --- |"]
    for ours, theirs, target in TARGETS:
        if theirs in found:
            ratios = np.array(found[ours].rates) / np.array(found[theirs].rates)
            low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
            verdict = "reached" if middle >= target else "**missed**"
            lines.append(f"| {ours} / {theirs} | {middle:.2f} | {low:.2f} to {high:.2f} | {target} | {verdict} |")
    base = 16 / np.median(found["mtlib_train_base"].rates)
    ours, theirs = found["mtlib_train"].megabytes, found["trainer_default"].megabytes
    lines += ["", f"A step of 16 on 12 layers of width 768: {base:.2f} s (target 0.55 s on two idle cores)."]
    tokens = _tokens(options.corpus)
    reached = 3 * operations(tokens, round(tokens), 6, 384) * np.median(found["mtlib_train"].rates) / 1e9
    lines += [
        f"Training reaches {reached:.0f} GFLOP/s on real tokens, {100 * reached / peak:.0f} % of the peak (50 %)."
    ]
    lines += [f"Peak memory of training: {ours:.0f} MB; of Trainer's defaults {theirs:.0f} MB (target: below)."]
    return "\n".join([*lines, "", "## Methods", "", "```", methods.strip(), "```", ""])


def _tokens(corpus: str) -> float:
    """Mean number of tokens of a training pair."""
    _, tokenizer = find_encoder("minilm").load()
    return float(TokenizedSplit(QQP, pairs_of(corpus)["qqp"].train, tokenizer, 128).lengths.mean())


def _about(options: argparse.Namespace, peak: float) -> str:
    commit = subprocess.run(["git", "-C", HERE, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    packages = []
    for name in VERSIONS:
        try:
            packages.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            packages.append(f"no {name}")
    corpus = "the generated pairs" if options.corpus == "sample" else f"pairs of {Path(options.corpus).name}"
    clock = "wall clock" if options.clock == "wall" else "processor seconds (the machine was shared)"
    command = f"python benchmarks/throughput.py --rounds {options.rounds} --threads {options.threads}"
    return (
        f"`{command} --clock {options.clock}`, {corpus}, batches of 16, commit {commit.stdout.strip()}. "
        f"{options.threads} thread(s), {clock}, "
        f"{os.cpu_count()} cores ({platform.machine()}), {PRODUCTS} products {peak:.0f} GFLOP/s. {', '.join(packages)}."
    )


def main() -> int:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="sample")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    found = measured(options)
    text = report(found, step_cost.report(options.corpus, options.threads, options.clock), options)
    (HERE / "RESULTS.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
