"""Does speed change results? The fast path in bfloat16 against transformers' modules in float32, seed by seed.

Both train the same experiment from the same seeds on the same batches; what differs is rounding and dropout's masks.
The two one-sided tests (TOST) of the paired differences ask whether their mean lies within the margin: it does
where the 90 % interval lies inside.

    python benchmarks/equivalence.py [--corpus FOLDER] [--steps 300] [--seeds 5] [--results results/equivalence]
"""

import argparse
import os
import sys

import numpy as np
import torch
from scipy import stats

import mtlib
from mtlib import fast

MARGIN = 0.005
SCORES = ("mean", "sst", "qqp", "sts")


def scores(path: str, precision: str, options: argparse.Namespace) -> list[dict[str, float]]:
    """Dev scores after the last epoch of every seed's run; path: "fast" or "plain"."""
    os.environ[fast.SWITCH] = "1" if path == "fast" else "0"
    corpus, found = mtlib.load_corpus(options.corpus), []
    for seed in range(options.seeds):
        experiment = mtlib.experiment(
            "tour",
            name=f"{path}-{seed}",
            encoder=options.encoder,
            precision=precision,
            epochs=1,
            steps_per_epoch=options.steps,
            learning_rate=5e-5,
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
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--results", default="results/equivalence")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ours, plain = scores("fast", "auto", options), scores("plain", "float32", options)
    print(f"fast minus plain, {options.seeds} seeds, {options.steps} steps, margin {MARGIN}")
    for name in SCORES:
        mean, (low, high), p = tost(np.array([a[name] - b[name] for a, b in zip(ours, plain, strict=True)]))
        verdict = "equivalent" if p < 0.05 else "not resolved" if low < MARGIN and high > -MARGIN else "different"
        print(f"{name:<6}{mean:>9.4f}   90 % [{low:.4f}, {high:.4f}]   p {p:.3f}   {verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
