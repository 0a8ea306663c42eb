"""Scoring a model on a split, and the half of dev that may choose."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

import numpy as np
import pandas as pd

from mtlib import metrics
from mtlib.averages import Average
from mtlib.data.batches import TokenizedSplit
from mtlib.model import MultitaskModel
from mtlib.objectives.penalty import Penalty
from mtlib.prediction import predictions
from mtlib.randomness import derive, generator
from mtlib.tasks import in_order, registered


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


def scored(split: TokenizedSplit, frame: pd.DataFrame, limit: int | None, model: MultitaskModel) -> TokenizedSplit:
    """The part of a dev split, of `frame`, that is scored after each epoch: `limited`."""
    some = limited(frame, limit, split.task.name)
    return split if len(some) == len(frame) else TokenizedSplit(split.task, some, model.tokenizer, model.max_tokens)


def predict_all(
    model: MultitaskModel, splits: Mapping[str, TokenizedSplit], predict: Callable[..., pd.DataFrame] = predictions
) -> dict[str, pd.DataFrame]:
    """Predictions of every task, by task; predict: `Ranks.predictions` shares the work between processes."""
    return {name: predict(model, split) for name, split in splits.items()}


def scores(frames: Mapping[str, pd.DataFrame]) -> dict[str, float]:
    """Scores by task in the tables' order, `mean`, `evenness`; for regression tasks also Pearson's r as `<task>_r`."""
    by_task = {name: _score(name, frame) for name, frame in frames.items()}
    correlations = {
        f"{name}_r": metrics.pearson(frame["label"], frame["prediction"])
        for name, frame in frames.items()
        if registered(name).kind == "regression"
    }
    return {
        **{name: by_task[name] for name in in_order(by_task)},
        "mean": metrics.mean_score(by_task),
        "evenness": metrics.evenness(by_task),
        **correlations,
    }


def models(
    model: MultitaskModel, penalties: Sequence[Penalty], averages: Sequence[Average]
) -> dict[str, MultitaskModel]:
    """The models that a run scores: the trained one as "own", the averages by their kind, a penalty's as "teacher"."""
    teachers = [teacher for penalty in penalties if (teacher := penalty.teacher()) is not None]
    kept = {average.kind: average.model() for average in averages}
    return {"own": model, **kept, **dict(zip(["teacher"], teachers, strict=False))}


def all_scores(frames: Mapping[str, Mapping[str, pd.DataFrame]]) -> dict[str, float]:
    """The scores of several models in one row: of "own" by their names, of the others as `<model>_<name>`."""
    row = scores(frames["own"])
    for which in [name for name in frames if name != "own"]:
        row |= {f"{which}_{name}": value for name, value in scores(frames[which]).items()}
    return row


def choosing_mean(frames: Mapping[str, pd.DataFrame]) -> float:
    """Mean score on the choosing half of dev alone, which decides which epoch is stored."""
    halves = {name: frame[in_choosing_half(frame["id"])] for name, frame in frames.items()}
    return metrics.mean_score({name: _score(name, frame) for name, frame in halves.items()})


def _score(task: str, frame: pd.DataFrame) -> float:
    return registered(task).score(frame["label"].to_numpy(), frame["prediction"].to_numpy())
