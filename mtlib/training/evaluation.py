"""Scoring a model on a split, and the half of dev that may choose."""

from collections.abc import Iterable, Mapping
from functools import cache

import numpy as np
import pandas as pd

from mtlib import metrics
from mtlib.data.batches import TokenizedSplit
from mtlib.model import MultitaskModel, predictions
from mtlib.randomness import derive, generator
from mtlib.tasks import registered


def in_choosing_half(ids: Iterable[str]) -> np.ndarray:
    """Whether each id [n] is in the choosing half of dev: one bit of the id's own hash, whatever its position."""
    return np.array([_may_choose(identity) for identity in ids], bool)


@cache
def _may_choose(identity: str) -> bool:
    return derive(0, f"half of dev {identity}") & 1 == 0


def limited(frame: pd.DataFrame, limit: int | None, task: str) -> pd.DataFrame:
    """At most `limit` rows of a split, in their order: the same random rows for every run and seed."""
    if limit is None or len(frame) <= limit:
        return frame
    rows = generator(0, f"dev limit/{task}").permutation(len(frame))[:limit]
    return frame.iloc[np.sort(rows)].reset_index(drop=True)


def predict_all(
    model: MultitaskModel, splits: Mapping[str, TokenizedSplit], predict=predictions
) -> dict[str, pd.DataFrame]:
    """Predictions of every task, by task; predict: `Ranks.predictions` shares the work between processes."""
    return {name: predict(model, split) for name, split in splits.items()}


def scores(frames: Mapping[str, pd.DataFrame]) -> dict[str, float]:
    """Score of every task, `mean` and `evenness`; for regression tasks also Pearson's r as `<task>_r`."""
    by_task = {name: _score(name, frame) for name, frame in frames.items()}
    correlations = {
        f"{name}_r": metrics.pearson(frame["label"], frame["prediction"])
        for name, frame in frames.items()
        if registered(name).kind == "regression"
    }
    return {
        **by_task,
        "mean": metrics.mean_score(by_task),
        "evenness": metrics.evenness(by_task),
        **correlations,
    }


def choosing_mean(frames: Mapping[str, pd.DataFrame]) -> float:
    """Mean score on the choosing half of dev alone, which decides which epoch is stored."""
    halves = {name: frame[in_choosing_half(frame["id"])] for name, frame in frames.items()}
    return metrics.mean_score({name: _score(name, frame) for name, frame in halves.items()})


def _score(task: str, frame: pd.DataFrame) -> float:
    return registered(task).score(frame["label"].to_numpy(), frame["prediction"].to_numpy())
