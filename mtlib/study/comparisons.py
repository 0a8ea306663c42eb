"""Comparisons in the order of an argument: chosen pairs of systems, evenness included, and each in words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mtlib.errors import ConfigurationError
from mtlib.metrics import evenness
from mtlib.study.parts import THREE, Part, System, frame_scores
from mtlib.study.statistics import bootstrap_p, compare, percentile_interval, resampled_scores, resolve

SHOWN = ["system", "against", "task", "baseline", "score", "difference", "low", "high", "p_holm", "resolved"]
"""Columns of `pairs` that a printed table needs."""


def pairs(
    systems: Mapping[str, System],
    chosen: Sequence[tuple[str, str]],
    on: Part,
    tasks: Sequence[str] = THREE,
    *,
    draws: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """The second system of each pair against its first, on the same examples: a row a task, the mean, the evenness.

    The columns are those of `statistics.compare` and `against`, the first's name; `baseline` is the first's score.
    Holm's correction is over all rows of the table. Raises ConfigurationError for a system that is not there.
    """
    rows = []
    for first, second in chosen:
        if unknown := [name for name in (first, second) if name not in systems]:
            raise ConfigurationError(
                f"pair {first!r}, {second!r}: expected two of {list(systems)}, found {unknown[0]!r}"
            )
        two = {first: systems[first], second: systems[second]}
        found = compare(two, first, on, tasks, draws=draws, level=level, seed=seed).to_dict("records")
        found.append({"system": second, "task": "evenness", "seeds": 1} | _evenness(two, on, tasks, draws, level, seed))
        rows += [{"system": second, "against": first, **row} for row in found]
    return resolve(pd.DataFrame(rows), level)


def _evenness(two: Mapping[str, System], on: Part, tasks, draws: int, level: float, seed: int) -> dict[str, float]:
    frames = {task: [on.predictions(system, task) for system in two.values()] for task in tasks}
    drawn = 1 - np.ptp([resampled_scores(frames[task], task, draws, seed) for task in tasks], axis=0)  # [draws, 2]
    first, second = (
        evenness({task: frame_scores({task: found[index]})[task] for task, found in frames.items()}) for index in (0, 1)
    )
    change = drawn[:, 1] - drawn[:, 0]
    low, high = percentile_interval(change, second - first, level)
    p = bootstrap_p(change[np.isfinite(change)]) if np.isfinite(second - first) else float("nan")
    return {"baseline": first, "score": second, "difference": second - first, "low": low, "high": high, "p": p}


def verdict(row: Mapping[str, Any]) -> str:
    """One row of a comparison in words: better, worse, not resolved, or undefined, with difference and interval."""
    if row["resolved"] == "undefined":
        return "undefined, for a score is"
    size = f"{row['difference']:+.3f}, interval {row['low']:+.3f} to {row['high']:+.3f}"
    word = ("better" if row["difference"] > 0 else "worse") if row["resolved"] == "yes" else "not resolved"
    return f"{word} ({size})"


def verdicts(comparison: pd.DataFrame, task: str = "mean") -> list[str]:
    """A sentence for each row of that task: "annealed against round robin: better (...)"."""
    rows = comparison[comparison["task"] == task].to_dict("records")
    return [f"{row['system']} against {row['against']}, {task}: {verdict(row)}" for row in rows]
