"""Does speed change results? The fast path in bfloat16 against transformers' modules in float32, seed by seed.

Both train the same experiment from the same seeds on the same batches; what differs is rounding and dropout's masks.
The two one-sided tests (TOST) of the paired differences ask whether their mean lies within the margin: it does
where the 90 % interval lies inside. Most of a difference's spread is that of dev itself: of two models that disagree
on a tenth of 400 examples, accuracies differ by 0.016 by chance. So --dev examples a task are scored, once. --layers
keeps the first few of the encoder's layers, for a machine without hours to spare.

    python benchmarks/equivalence.py [--corpus FOLDER] [--steps 240] [--seeds 12] [--results results/equivalence]

Runs that are there already are not trained again; --path plain (or fast) trains one side alone.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats

import mtlib
from mtlib import fast
from mtlib.data import sample
from mtlib.data.corpus import Corpus, Splits
from mtlib.encoders import find_encoder
from mtlib.training.evaluation import limited

MARGIN = 0.005
SCORES = ("mean", "sst", "qqp", "sts")


def corpus_of(options: argparse.Namespace) -> Corpus:
    """The corpus with at most `--dev` examples of dev a task, and no test; the generated one's is generated longer."""
    whole, parts = mtlib.load_corpus(options.corpus), {}
    for name, each in whole.items():
        dev = each.dev
        if options.corpus == "sample":
            dev = pd.concat([dev, sample.generate(name, seed=1)["train"]], ignore_index=True)
            dev["id"] = [f"dev-{row}" for row in range(len(dev))]
        parts[name] = Splits(each.train, limited(dev, options.dev, name))
    return Corpus(whole.name, whole.tasks, parts)


def encoder_of(options: argparse.Namespace) -> str:
    """The encoder, or a folder with its first `--layers` layers."""
    if not options.layers:
        return options.encoder
    folder = Path(options.results).resolve() / f"{options.encoder}-{options.layers}"
    if not (folder / "model.safetensors").is_file():
        encoder, tokenizer = find_encoder(options.encoder).load()
        del encoder.encoder.layer[options.layers :]
        encoder.config.num_hidden_layers = options.layers
        tokenizer.save_pretrained(folder)
        encoder.save_pretrained(folder)
    return str(folder)


def scores(path: str, precision: str, options: argparse.Namespace) -> list[dict[str, float]]:
    """Dev scores after the last epoch of every seed's run; path: "fast" or "plain"."""
    os.environ[fast.SWITCH] = "1" if path == "fast" else "0"
    corpus, found = corpus_of(options), []
    for seed in range(options.seeds):
        experiment = mtlib.experiment(
            "tour",
            name=f"{path}-{seed}",
            encoder=encoder_of(options),
            precision=precision,
            epochs=1,
            steps_per_epoch=options.steps,
            learning_rate=options.rate,
            dev_limit=32,
            seed=seed,
        )
        run = mtlib.fit(experiment, corpus, f"{options.results}/{path}", progress="none")
        found.append(run.last_scores)
        print(path, seed, {name: round(found[-1][name], 4) for name in SCORES}, flush=True)
    return found


def tost(differences: np.ndarray, margin: float = MARGIN) -> tuple[float, tuple[float, float], float]:
    """Mean, 90 % interval and p of the two one-sided t-tests that the mean of `differences` is within the margin."""
    lower = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    upper = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.9)
    return float(differences.mean()), (float(interval.low), float(interval.high)), float(max(lower, upper))


def main() -> int:
    """Train what is not trained yet, and print the tests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="sample")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--layers", type=int, help="of the encoder; without it, all")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--rate", type=float, default=5e-5, help="learning rate")
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--dev", type=int, default=2000)
    parser.add_argument("--path", choices=("both", "plain", "fast"), default="both")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--results", default="results/equivalence")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    precisions = {"plain": "float32", "fast": "bfloat16"}
    found = {path: scores(path, precisions[path], options) for path in precisions if options.path in ("both", path)}
    if options.path != "both":
        return 0
    print(f"fast minus plain, {options.seeds} seeds, {options.steps} steps, margin {MARGIN}")
    for name in SCORES:
        mean, (low, high), p = tost(
            np.array([a[name] - b[name] for a, b in zip(found["fast"], found["plain"], strict=True)])
        )
        verdict = "equivalent" if p < 0.05 else "not resolved" if low < MARGIN and high > -MARGIN else "different"
        print(f"{name:<6}{mean:>9.4f}   90 % [{low:.4f}, {high:.4f}]   p {p:.3f}   {verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
