"""Which differences are real: seeds, paired bootstrap, McNemar, and a correction for many comparisons."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from mtlib.errors import ConfigurationError, DataError
from mtlib.randomness import generator
from mtlib.study.parts import THREE, Part, System, aligned, frame_scores
from mtlib.tasks import TASKS

Systems = Mapping[str, System | Sequence[System]]
Frames = Mapping[str, pd.DataFrame]


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Student's t-interval of the mean of independent values; NaN for fewer than two."""
    values = np.asarray(values, float)
    if len(values) < 2:
        return float("nan"), float("nan")
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def seeds_summary(
    scores: pd.DataFrame, by: Sequence[str], tasks: Sequence[str] = (*THREE, "mean"), level: float = 0.95
) -> pd.DataFrame:
    """Over the seeds of each setting: number, mean, standard deviation (n - 1) and t-interval of every score.

    `scores` has one row a run: the setting columns `by` and the columns `tasks`. One row a setting and task.
    """
    rows = []
    for setting, group in scores.groupby(list(by), sort=False):
        for task in tasks:
            values = group[task].to_numpy(float)
            low, high = t_interval(values, level)
            sd = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
            summary = {"task": task, "seeds": len(values), "mean": float(values.mean()), "sd": sd}
            rows.append(dict(zip(by, setting, strict=True)) | summary | {"low": low, "high": high})
    return pd.DataFrame(rows)


def resampled_scores(frames: Sequence[pd.DataFrame], task: str, draws: int = 10_000, seed: int = 0) -> np.ndarray:
    """Scores [draws, systems] on examples drawn with replacement, the same draw for all systems.

    The same frames and seed give the same draws, in whatever order their rows stand.
    Pearson's r is NaN in a draw whose labels or predictions are constant.
    """
    frames = aligned(frames, task)
    labels = frames[0]["label"].to_numpy()
    predictions = np.stack([frame["prediction"].to_numpy() for frame in frames], axis=1)  # [n, systems]
    if len(labels) == 0:
        raise DataError(f"predictions of {task}: no examples to compare on")
    random = generator(seed, f"bootstrap {task}", draws)
    if TASKS[task].kind != "regression":
        return _resampled_accuracy(predictions == labels[:, None], draws, random)
    return (_resampled_pearson(labels.astype(float), predictions.astype(float), draws, random) + 1) / 2


def _resampled_accuracy(right: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
    """Accuracies [draws, systems] of answers that are right or not [n, systems].

    Examples on which the same systems are right are exchangeable: while there are few such kinds, it is enough to draw
    how many examples of each kind there are.
    """
    kinds, counts = np.unique(right, axis=0, return_counts=True)
    if len(kinds) <= max(4, len(right) // 8):
        return random.multinomial(len(right), counts / len(right), size=draws) @ kinds / len(right)
    ordered_rows = np.repeat(kinds, counts, axis=0).astype(np.float32)
    return np.concatenate([weights @ ordered_rows / len(right) for weights in _weights(len(right), draws, random)])


def _weights(n: int, draws: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each of `n` examples is drawn, float32 [some draws, n], until there are `draws` of them."""
    chunk = max(1, 2_000_000 // n)
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        cells = random.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        yield np.bincount(cells.ravel(), minlength=size * n).reshape(size, n).astype(np.float32)


def _resampled_pearson(labels: np.ndarray, predictions: np.ndarray, draws: int, random) -> np.ndarray:
    """Pearson's r of each system by weighted moments, a draw being the weight (count) of each example."""
    y, x = labels - labels.mean(), predictions - predictions.mean(axis=0)
    moments = np.column_stack([y, y * y, x, x * x, x * y[:, None]])  # [n, 2 + 3 systems]
    parts = []
    for weights in _weights(len(labels), draws, random):
        mean = weights.astype(float) @ moments / len(labels)
        my, myy = mean[:, :1], mean[:, 1:2]
        mx, mxx, mxy = np.split(mean[:, 2:], 3, axis=1)
        vy, vx = myy - my**2, mxx - mx**2
        defined = (vy > 1e-12 * max(myy.max(), 1e-300)) & (vx > 1e-12 * np.maximum(mxx.max(axis=0), 1e-300))
        with np.errstate(divide="ignore", invalid="ignore"):
            parts.append(np.where(defined, (mxy - mx * my) / np.sqrt(vx * vy), np.nan))
    return np.concatenate(parts)


@dataclass(frozen=True)
class McNemar:
    """Examples that only one of two systems gets right, and the p-value of their being equally many."""

    only_first: int
    only_second: int
    p: float


def mcnemar(labels: np.ndarray, first: np.ndarray, second: np.ndarray, *, exact: bool = True) -> McNemar:
    """McNemar's test of two systems' predictions [n] of the same labels [n].

    Exact: two-sided binomial test of the discordant examples. Otherwise chi-square with one degree of freedom and
    Edwards' continuity correction, (|b - c| - 1)^2 / (b + c). Without a discordant example p is 1.
    """
    labels, first, second = np.asarray(labels), np.asarray(first), np.asarray(second)
    if not labels.shape == first.shape == second.shape:
        raise DataError(f"McNemar: expected arrays of one shape, found {labels.shape}, {first.shape}, {second.shape}")
    b = int(np.sum((first == labels) & (second != labels)))
    c = int(np.sum((first != labels) & (second == labels)))
    if b + c == 0:
        return McNemar(b, c, 1.0)
    if exact:
        return McNemar(b, c, float(stats.binomtest(b, b + c).pvalue))
    return McNemar(b, c, float(stats.chi2.sf(max(abs(b - c) - 1, 0) ** 2 / (b + c), 1)))


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjusted p-values; an undefined (NaN) one stays so and does not count as a comparison."""
    p = np.asarray(p, float)
    adjusted = np.full(len(p), np.nan)
    order = [index for index in np.argsort(p, kind="stable") if not np.isnan(p[index])]
    if order:
        factors = np.arange(len(order), 0, -1)
        adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1)
    return adjusted


def bootstrap_p(differences: np.ndarray) -> float:
    """Two-sided p-value of resampled differences [draws]: twice the smaller share beyond zero, with one added draw."""
    draws = len(differences)
    if draws == 0:
        return float("nan")
    beyond = min(np.sum(differences <= 0), np.sum(differences >= 0))
    return float(min(1.0, 2 * (beyond + 1) / (draws + 1)))


def intervals(
    system: System, on: Part, tasks: Sequence[str] = THREE, *, draws: int = 10_000, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Score of each task and of their mean, with bootstrap percentile intervals: columns task, score, low, high, n."""
    frames = {task: on.predictions(system, task) for task in tasks}
    drawn = {task: resampled_scores([frame], task, draws, seed)[:, 0] for task, frame in frames.items()}
    drawn["mean"] = np.mean(list(drawn.values()), axis=0)
    rows = []
    for task, score in frame_scores(frames).items():
        low, high = percentile_interval(drawn[task], score, level)
        size = len(frames[task]) if task in frames else sum(map(len, frames.values()))
        rows.append({"task": task, "score": score, "low": low, "high": high, "n": size})
    return pd.DataFrame(rows)


def percentile_interval(drawn: np.ndarray, value: float, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval over the draws [draws] where the statistic is defined; NaN when `value` itself is not."""
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or len(drawn) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def compare(
    systems: Systems,
    baseline: str,
    on: Part,
    tasks: Sequence[str] = THREE,
    *,
    draws: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Every system against `baseline` on the same examples: one row a system and task, and one for the mean of tasks.

    `systems` maps a name to one system or to the same system's runs under several seeds; then scores are means over
    the runs, and a draw resamples runs as well as examples, so the interval covers both. Columns: system, task, seeds,
    baseline, score, difference, low, high (percentile interval at `level`), p (bootstrap), p_holm (Holm over all rows
    of the table), p_mcnemar (exact; accuracies of single runs), resolved. `resolved` is "yes" where p_holm is below
    1 - level, "undefined" where a score is. Raises ConfigurationError for an unknown baseline.
    """
    if baseline not in systems:
        raise ConfigurationError(f"baseline {baseline!r}: expected one of {list(systems)}")
    runs = {name: list(found) if isinstance(found, Sequence) else [found] for name, found in systems.items()}
    if not all(runs.values()):
        raise ConfigurationError(f"no runs of {[name for name, found in runs.items() if not found]} to compare")
    read = {name: [{t: on.predictions(run, t) for t in tasks} for run in found] for name, found in runs.items()}
    points = {
        name: pd.DataFrame([frame_scores(frames) for frames in found]).mean(skipna=False)
        for name, found in read.items()
    }
    drawn = _drawn_scores(read, tasks, draws, seed)
    rows = []
    for name in runs:
        for task in (*tasks, "mean") if name != baseline else ():
            difference = points[name][task] - points[baseline][task]
            draw = drawn[name][task] - drawn[baseline][task]
            low, high = percentile_interval(draw, difference, level)
            rows.append(
                {"system": name, "task": task, "seeds": len(runs[name]), "baseline": points[baseline][task]}
                | {"score": points[name][task], "difference": difference, "low": low, "high": high}
                | {"p": bootstrap_p(draw[np.isfinite(draw)]) if np.isfinite(difference) else float("nan")}
                | {"p_mcnemar": _mcnemar_p(read[baseline], read[name], task)}
            )
    return resolve(pd.DataFrame(rows, columns=COMPARISON), level)


COMPARISON = [
    *("system", "task", "seeds", "baseline", "score", "difference", "low", "high", "p", "p_holm", "p_mcnemar"),
    "resolved",
]


def resolve(table: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """The comparison with p_holm, Holm's p-value over all its rows, and by it `resolved`: "yes", "no", "undefined"."""
    p = holm(table["p"])
    resolved = np.where(p < 1 - level, "yes", "no")
    return table.assign(p_holm=p, resolved=np.where(table["difference"].isna(), "undefined", resolved))


def paired_bootstrap(first: System, second: System, on: Part, tasks: Sequence[str] = THREE, **options) -> pd.DataFrame:
    """Two systems on the same examples: task, baseline (first), score (second), difference, low, high and p.

    `options` are those of `compare`: draws, level, seed.
    """
    table = compare({"first": first, "second": second}, "first", on, tasks, **options)
    return table[["task", "baseline", "score", "difference", "low", "high", "p"]]


def _drawn_scores(runs: Mapping[str, list[Frames]], tasks: Sequence[str], draws: int, seed: int):
    """name -> task -> scores [draws]. The same examples are drawn for all systems, the same seeds for all tasks."""
    weights = {name: _seed_weights(len(found), draws, seed, name) for name, found in runs.items()}
    drawn: dict[str, dict[str, np.ndarray]] = {name: {} for name in runs}
    for task in tasks:
        frames = [run[task] for found in runs.values() for run in found]
        scores = resampled_scores(frames, task, draws, seed)
        ends = np.cumsum([len(found) for found in runs.values()])
        for name, part in zip(runs, np.split(scores, ends[:-1], axis=1), strict=True):
            drawn[name][task] = (part * weights[name]).sum(axis=1)
    for by_task in drawn.values():
        by_task["mean"] = np.mean([by_task[task] for task in tasks], axis=0)
    return drawn


def _seed_weights(runs: int, draws: int, seed: int, name: str) -> np.ndarray:
    """Weights [draws, runs] of resampled runs, their deviations enlarged by sqrt(n / (n - 1)) for so small an n."""
    if runs == 1:
        return np.ones((draws, 1))
    counts = generator(seed, f"seeds {name}", draws).multinomial(runs, np.full(runs, 1 / runs), size=draws)
    return 1 / runs + np.sqrt(runs / (runs - 1)) * (counts - 1) / runs


def _mcnemar_p(first: Sequence[Frames], second: Sequence[Frames], task: str) -> float:
    if len(first) > 1 or len(second) > 1 or task not in TASKS or TASKS[task].kind == "regression":
        return float("nan")
    a, b = aligned([first[0][task], second[0][task]], task)
    return mcnemar(a["label"].to_numpy(), a["prediction"].to_numpy(), b["prediction"].to_numpy()).p
