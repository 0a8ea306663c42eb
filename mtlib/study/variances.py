"""What a score varies with: seeds, examples, and what is left; and how wide that makes an interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from mtlib.errors import ConfigurationError
from mtlib.metrics import pearson
from mtlib.study.eval_splits import REPORTING, Part, System, aligned, tasks_of
from mtlib.tasks import TASKS


@dataclass(frozen=True)
class Variances:
    """What a score, or a difference of two, varies with; `variances` measures them.

    seed: between seeds. example, rest: over examples, what all seeds share and what is each run's own, both already
    divided by the number of `examples` that they were measured on. systems: 2 of a difference, 1 of a score.
    """

    seed: float
    example: float
    rest: float
    examples: int
    systems: int = 2


def variances(
    first: Sequence[System], second: Sequence[System] = (), task: str = "mean", on: Part = REPORTING
) -> Variances:
    """The `Variances` of a task's score over the runs `first`, one a seed; with `second`, of its difference to theirs.

    task: "mean" is the mean of the tasks that all runs have. Sums of squares of a crossed design (seeds by examples):
    x_si = m + s_s + e_i + r_si, x being 1 where an answer is right, and for Pearson's r its influence values.
    A score that is undefined, such as Pearson's r of constant predictions, has undefined (NaN) variances.
    Raises ConfigurationError for fewer than two runs of a system, and for one that is given twice.
    """
    groups = [list(first), *([list(second)] if second else [])]
    if any(len(runs) < 2 for runs in groups):
        raise ConfigurationError(f"variances: expected two runs or more of a system, found {[len(g) for g in groups]}")
    if any(len({getattr(run, "identity", id(run)) for run in runs}) < len(runs) for runs in groups):
        raise ConfigurationError("variances: a run is given twice, expected one a seed")
    tasks = [task] if task != "mean" else tasks_of(*first, *second)
    parts, scores = [], [np.zeros(len(runs)) for runs in groups]
    for name in tasks:
        frames = aligned([on.predictions(run, name) for runs in groups for run in runs], name)
        values = np.stack([_influences(frame, name) for frame in frames])  # [runs, examples]
        shared, rests = _crossed(np.cov(values), len(groups[0]))
        parts.append((shared, sum(rests), rests, values.shape[1]))
        means = np.split(values.mean(axis=1), [len(groups[0])])
        scores = [score + mean / len(tasks) for score, mean in zip(scores, means, strict=False)]
    example, rest = (sum(part[k] / part[3] for part in parts) / len(tasks) ** 2 for k in (0, 1))
    noises = [sum(part[2][k] / part[3] for part in parts) / len(tasks) ** 2 for k in range(len(groups))]
    seed = sum(score.var(ddof=1) for score in scores) - sum(noises)
    examples = sum(part[3] for part in parts)
    return Variances(float(np.maximum(0.0, seed)), float(example), float(rest), examples, len(groups))


def half_width(measured: Variances, seeds: int, examples: int | None = None, level: float = 0.95) -> float:
    """Half the interval that `compare` gives at so many seeds.

    t sqrt(seed / n + (example + 3 rest / n) M / m), for n seeds of each system and m examples (of all tasks together,
    by default the M that it was measured on). The 3: varying runs and examples at once draws the rest three times
    over (Owen 2007, The pigeonhole bootstrap), so intervals are wider than the truth where the rest is large. The
    degrees of freedom of t are Satterthwaite's: n - 1 a system for what varies between runs, none for examples. Of one
    seed it is z sqrt((example + rest) M / m), which knows nothing of other seeds.
    """
    share = measured.examples / (examples or measured.examples)
    if seeds == 1:
        return float(stats.norm.ppf((1 + level) / 2) * np.sqrt((measured.example + measured.rest) * share))
    between = (measured.seed + 2 * measured.rest * share) / seeds
    whole = between + (measured.example + measured.rest / seeds) * share
    freedom = measured.systems * (seeds - 1) * (whole / between) ** 2 if between > 0 else np.inf
    return float(stats.t.ppf((1 + level) / 2, freedom) * np.sqrt(whole))


def _influences(frame: pd.DataFrame, task: str) -> np.ndarray:
    """Values [n] whose mean is the score, and whose variance over n is that of the score."""
    labels, predictions = frame["label"].to_numpy(float), frame["prediction"].to_numpy(float)
    if TASKS[task].kind != "regression":
        return (labels == predictions).astype(float)
    if np.isnan(pearson(labels, predictions)):
        return np.full(len(labels), np.nan)
    x, y = ((values - values.mean()) / values.std() for values in (labels, predictions))
    r = (x * y).mean()
    return (x * y - r / 2 * (x**2 + y**2) + r + 1) / 2


def _crossed(covariance: np.ndarray, size: int) -> tuple[float, list[float]]:
    """Of runs' covariances over examples [runs, runs]: what runs share of the variance, and the rest of each group.

    size: how many runs the first group has; where there are two, it is their means' difference whose share is meant.
    """
    blocks = [block for block in (covariance[:size, :size], covariance[size:, size:]) if len(block)]
    shared = [block[~np.eye(len(block), dtype=bool)].mean() for block in blocks]
    rests = [np.diag(block).mean() - part for block, part in zip(blocks, shared, strict=True)]
    between = 2 * covariance[:size, size:].mean() if len(blocks) > 1 else 0.0
    return float(np.maximum(0.0, sum(shared) - between)), rests
