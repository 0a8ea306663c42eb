"""Which differences are real: seeds, the paired bootstrap, Holm's correction, equivalence tests, verdicts in words."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mtlib.errors import ConfigurationError, DataError
from mtlib.randomness import generator
from mtlib.study.eval_splits import REPORTING, Part, System, aligned, frame_scores, task_scores, tasks_of
from mtlib.study.tables import signed
from mtlib.tasks import TASKS

Systems = Mapping[str, System | Sequence[System]]

COMPARISON = "system against task baseline score difference low high p p_holm resolved".split()
"""The columns of `compare`."""

TIE = 12
"""Decimals of a difference; what is smaller is rounding."""


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Student's t-interval of the mean of independent values; NaN for fewer than two, the value where all are equal."""
    if len(values) < 2:
        return float("nan"), float("nan")
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    low, high = stats.t.interval(level, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    return float(low), float(high)


def seeds_summary(
    systems: Systems, on: Part = REPORTING, tasks: Sequence[str] | None = None, *, level: float = 0.95
) -> pd.DataFrame:
    """Over the runs of each system, one a seed: columns system, task, seeds, mean, sd (n - 1), low, high (t-interval).

    One row a system and task, the mean of tasks and the evenness being tasks too. A score that is undefined at one of
    the seeds has no mean, sd and interval.
    """
    rows, listed = [], _listed(systems)
    tasks = tasks or tasks_of(*chain.from_iterable(listed.values()))
    for name, runs in listed.items():
        scores = pd.DataFrame([task_scores(run, on, tasks) for run in runs])
        for task, values in scores.items():
            low, high = t_interval(values, level)
            mean, sd = values.mean(skipna=False), values.std(skipna=False)
            row = {"system": name, "task": task, "seeds": len(runs), "mean": mean, "sd": sd}
            rows.append(row | {"low": low, "high": high})
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


def _resampled_pearson(
    labels: np.ndarray, predictions: np.ndarray, draws: int, random: np.random.Generator
) -> np.ndarray:
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


def mean_interval(
    values: Sequence[float], *, draws: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of values [n], and the percentile interval over resampled examples: mean, low, high; of none, NaN."""
    ordered = np.sort(np.asarray(values, float))
    if len(ordered) == 0:
        return float("nan"), float("nan"), float("nan")
    random = generator(seed, "bootstrap mean", draws)
    drawn = [weights @ ordered / len(ordered) for weights in _weights(len(ordered), draws, random)]
    return float(ordered.mean()), *percentile_interval(np.concatenate(drawn), ordered.mean(), level)


def percentile_interval(drawn: np.ndarray, value: float, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval over the draws [draws] where the statistic is defined; NaN when `value` itself is not."""
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or len(drawn) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_p(differences: np.ndarray) -> float:
    """Two-sided p-value of resampled differences [draws]: twice the smaller share beyond zero, with one added draw."""
    differences = differences[np.isfinite(differences)]
    if len(differences) == 0:
        return float("nan")
    beyond = min(np.sum(differences <= 0), np.sum(differences >= 0))
    return float(min(1.0, 2 * (beyond + 1) / (len(differences) + 1)))


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's step-down adjusted p-values; an undefined (NaN) one stays so and does not count as a comparison."""
    p = np.asarray(p, float)
    adjusted = np.full(len(p), np.nan)
    order = [index for index in np.argsort(p, kind="stable") if not np.isnan(p[index])]
    if order:
        factors = np.arange(len(order), 0, -1)
        adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1)
    return adjusted


def intervals(
    system: System,
    on: Part = REPORTING,
    tasks: Sequence[str] | None = None,
    *,
    draws: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Scores with bootstrap percentile intervals: columns task, score, low, high, n; mean and evenness come last."""
    frames = {task: on.predictions(system, task) for task in tasks or tasks_of(system)}
    drawn = _drawn([frames], draws, seed)
    rows = []
    for task, score in frame_scores(frames).items():
        low, high = percentile_interval(drawn[task][:, 0], score, level)
        size = len(frames[task]) if task in frames else sum(map(len, frames.values()))
        rows.append({"task": task, "score": score, "low": low, "high": high, "n": size})
    return pd.DataFrame(rows)


def compare(
    systems: Systems,
    pairs: Sequence[tuple[str, str]],
    on: Part = REPORTING,
    tasks: Sequence[str] | None = None,
    *,
    draws: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """The second system of each pair against its first, on the same examples: a row a task, the mean, the evenness.

    `systems` maps a name to one system or to its runs at several seeds; then scores are means over the runs, and draws
    vary by the runs as well as by examples, so the interval covers both: without the examples' part it is Welch's
    t-interval, and one run against several is taken to vary as these do. tasks: by default those that both systems of
    a pair have; one task alone has no rows of mean and evenness. Columns: system, against (the first), task,
    baseline (the first's score), score, difference, low, high (percentile interval at `level`), p (paired bootstrap;
    of one run each and a task with classes no less than McNemar's exact one, for few answers differ), p_holm (Holm
    over all rows of the table), resolved: "yes" where p_holm is below 1 - level, "undefined" where a score is.
    draws: at least so many; more where Holm's correction of so many rows could resolve nothing with them.
    Raises ConfigurationError for what is no pair, a pair or a run given twice, a name that is not there, and one
    without runs.
    """
    listed, rows = _listed(systems), []
    known = [_known(pair, listed) for pair in pairs]
    if twice := [pair for number, pair in enumerate(known) if pair in known[:number]]:
        raise ConfigurationError(f"pair {twice[0][0]!r}, {twice[0][1]!r} is given twice")
    draws = max(draws, _fewest_draws([tasks or tasks_of(*listed[a], *listed[b]) for a, b in known], level))
    for first, second in known:
        measured = _paired((first, listed[first]), (second, listed[second]), on, tasks, draws, level, seed)
        rows += [{"system": second, "against": first} | row for row in measured]
    return resolve(pd.DataFrame(rows, columns=COMPARISON), level)


def _fewest_draws(tasks: Sequence[Sequence[str]], level: float) -> int:
    """Draws whose smallest p, 2 / (draws + 1), is half of what Holm's correction of all rows asks for."""
    rows = sum(len(each) + 2 * (len(each) > 1) for each in tasks)
    return int(np.ceil(4 * rows / (1 - level)))


def _listed(systems: Systems) -> dict[str, list[System]]:
    listed = {name: list(runs) if isinstance(runs, Sequence) else [runs] for name, runs in systems.items()}
    if empty := [name for name, runs in listed.items() if not runs]:
        raise ConfigurationError(f"no runs of {empty} to compare")
    for name, runs in listed.items():
        if len({getattr(run, "identity", id(run)) for run in runs}) < len(runs):
            raise ConfigurationError(f"runs of {name}: one is given twice, expected one a seed")
    return listed


def _known(pair: Any, listed: Mapping[str, Sequence[System]]) -> tuple[str, str]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ConfigurationError(f"compare: expected pairs of two names, found {pair!r}")
    if unknown := [name for name in pair if name not in listed]:
        raise ConfigurationError(f"pair {pair[0]!r}, {pair[1]!r}: found {unknown[0]!r}, expected two of {list(listed)}")
    return pair[0], pair[1]


def _paired(
    first: Any, second: Any, on: Part, tasks: Sequence[str] | None, draws: int, level: float, seed: int
) -> Iterator[dict[str, Any]]:
    """The rows of one pair, each of (name, its runs): what was drawn of every run, weighted over a system's runs."""
    runs = [*first[1], *second[1]]
    tasks = tasks or tasks_of(*runs)
    frames = [{task: on.predictions(run, task) for task in tasks} for run in runs]
    points, drawn = pd.DataFrame([frame_scores(each) for each in frames]), _drawn(frames, draws, seed)
    size = len(first[1])
    of_runs = np.hstack([_seed_draws(len(runs), draws, seed, name) for name, runs in (first, second)])
    signs = np.repeat([-1, 1], [size, len(runs) - size])
    for task in points if len(tasks) > 1 else tasks:
        groups = [part[task] for part in (points[:size], points[size:])]
        baseline, score = (group.mean(skipna=False) for group in groups)
        tails = _t_tails(welch_freedom(groups), draws, seed)
        weights = signs * (1 / np.repeat([size, len(runs) - size], [size, len(runs) - size]) + tails[:, None] * of_runs)
        lone = tails * _lone_draws(groups, draws, seed)
        change, difference = ((drawn[task] * weights).sum(axis=1) + lone).round(TIE), round(score - baseline, TIE)
        low, high = percentile_interval(change, difference, level)
        row = {"task": task, "baseline": baseline, "score": score, "difference": difference}
        p = bootstrap_p(change) if np.isfinite(difference) else float("nan")
        if len(runs) == 2 and task in frames[0] and TASKS[task].kind != "regression":
            p = max(p, _mcnemar_p(*aligned([each[task] for each in frames], task)))
        yield row | {"low": low, "high": high, "p": p}


def _mcnemar_p(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """McNemar's exact two-sided p-value of two systems' answers to the same examples."""
    right, right_too = (frame["prediction"] == frame["label"] for frame in (first, second))
    won, lost = int((right_too & ~right).sum()), int((right & ~right_too).sum())
    return float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0


def _drawn(frames: Sequence[Mapping[str, pd.DataFrame]], draws: int, seed: int) -> dict[str, np.ndarray]:
    """Scores [draws, runs] of each task, of the mean and of the evenness, from each run's frames by task."""
    drawn = {task: resampled_scores([each[task] for each in frames], task, draws, seed) for task in frames[0]}
    every = np.stack(list(drawn.values()))  # [tasks, draws, runs]
    return drawn | {"mean": every.mean(axis=0), "evenness": 1 - np.ptp(every, axis=0)}


def _seed_draws(runs: int, draws: int, seed: int, name: str) -> np.ndarray:
    """Normal draws [draws, runs] that sum to 0; times the runs' scores, their variance is that of the runs' mean."""
    normal = generator(seed, f"seeds {name}", draws).normal(size=(draws, runs))
    return (normal - normal.mean(axis=1, keepdims=True)) / np.sqrt(max(1, runs * (runs - 1)))


def _lone_draws(groups: Sequence[pd.Series], draws: int, seed: int) -> np.ndarray:
    """Draws [draws] of what another seed would change of one run beside several, by their deviation; of others 0."""
    several = max(groups, key=len)
    if len(several) == 1 or min(map(len, groups)) > 1:
        return np.zeros(draws)
    return np.std(several, ddof=1) * generator(seed, "a lone run", draws).normal(size=draws)


def welch_freedom(groups: Sequence[Sequence[float]]) -> float:
    """Degrees of freedom of a difference of means (Welch 1947), as each group's variance is known from few values.

    Infinite where no group of two values or more varies: then there is nothing to estimate.
    """
    groups = [np.subtract(group, np.mean(group)).round(TIE) for group in groups if len(group) > 1]
    parts = np.array([np.var(group, ddof=1) / len(group) for group in groups])
    if not parts.sum() > 0:
        return float("inf")
    return float(parts.sum() ** 2 / (parts**2 / [len(group) - 1 for group in groups]).sum())


def _t_tails(freedom: float, draws: int, seed: int) -> np.ndarray:
    """Factors [draws] that make normal draws those of Student's t."""
    if np.isinf(freedom):
        return np.ones(draws)
    return np.sqrt(freedom / generator(seed, "tails", draws).chisquare(freedom, draws))


def resolve(table: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """The comparison with p_holm, Holm's p-value over all its rows, and by it `resolved`: "yes", "no", "undefined".

    For a selection of rows: the correction is then over those alone.
    """
    p = holm(table["p"])
    resolved = np.where(p < 1 - level, "yes", "no")
    return table.assign(p_holm=p, resolved=np.where(table["difference"].isna(), "undefined", resolved))


def equivalence(table: pd.DataFrame, margin: float = 0.005) -> pd.Series:
    """What each row of a comparison allows to say: "equivalent", "helps", "hurts", "undecided" or "undefined".

    "equivalent": the interval lies within +-margin, two one-sided tests at half of 1 - level each (.025 for 95 %), not
    corrected for many; even a resolved difference is then too small to matter. "helps", "hurts": resolved and not so.
    """
    inside = (table["low"] > -margin) & (table["high"] < margin)
    sign = np.where(table["difference"] > 0, "helps", "hurts")
    words = np.where(inside, "equivalent", np.where(table["resolved"] == "yes", sign, "undecided"))
    return pd.Series(np.where(table["difference"].isna(), "undefined", words), table.index, name="verdict")


def verdict(row: Mapping[str, Any]) -> str:
    """One row of a comparison in words: better, worse, not resolved (with difference and interval), or undefined.

    "the same" is a row without any difference, whichever examples are drawn.
    """
    if row["resolved"] == "undefined":
        return "undefined, for a score is"
    if row["low"] == row["difference"] == row["high"] == 0:
        return "the same"
    size = f"{signed(row['difference'])}, interval {signed(row['low'])} to {signed(row['high'])}"
    word = ("better" if row["difference"] > 0 else "worse") if row["resolved"] == "yes" else "not resolved"
    return f"{word} ({size})"


def verdicts(comparison: pd.DataFrame, *tasks: str) -> list[str]:
    """Sentences such as "annealed against round robin, mean: better (...)".

    One for each row of `tasks` (by default the mean), then one for each other row that is resolved.
    """
    tasks = tasks or ("mean",)
    told = [comparison[comparison["task"] == task] for task in tasks]
    rest = comparison[~comparison["task"].isin(tasks) & (comparison["resolved"] == "yes")]
    rows = pd.concat([*told, rest]).to_dict("records")
    return [f"{row['system']} against {row['against']}, {row['task']}: {verdict(row)}" for row in rows]
