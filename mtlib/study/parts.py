"""What a comparison reads: systems, and the part of their stored predictions that is looked at.

A system is anything with `predictions(split, task) -> DataFrame(id, label, prediction[, p0, p1, ...])`: a run, an
ensemble, or `Stored` frames. What is read of it is said by a value: `ChoosingHalf()`, `ReportingHalf()`, `Dev()` or
`Test()`. Everything that selects takes a `ChoosingHalf` and nothing else, so no choice can see the test split or the
half of dev that scores the choice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from mtlib.errors import ConfigurationError, DataError
from mtlib.tasks import TASKS
from mtlib.training.evaluation import in_choosing_half

THREE = ("sst", "qqp", "sts")


class System(Protocol):
    """Anything with stored predictions."""

    def predictions(self, split: str, task: str) -> pd.DataFrame:
        """One row an example: id, label, prediction and, for classes, their probabilities p0, p1, ..."""
        ...


@dataclass(frozen=True)
class Stored:
    """A system made of frames: `frames[split, task]`."""

    frames: Mapping[tuple[str, str], pd.DataFrame]

    def predictions(self, split: str, task: str) -> pd.DataFrame:
        """The frame of that split and task; raises DataError when there is none."""
        if (split, task) not in self.frames:
            raise DataError(f"no predictions of {task} on {split}: found {sorted(self.frames)}")
        return self.frames[split, task]


@dataclass(frozen=True)
class ChoosingHalf:
    """The half of dev that selection may see. It reads dev and cannot be told to read anything else."""

    def __init_subclass__(cls):
        raise ConfigurationError("the choosing half of dev cannot be redefined")

    def predictions(self, system: System, task: str) -> pd.DataFrame:
        """The system's labelled dev predictions of this half, ordered by id."""
        frame = ordered(system.predictions("dev", task), task)
        return frame[in_choosing_half(frame["id"])].reset_index(drop=True)


@dataclass(frozen=True)
class ReportingHalf:
    """The half of dev that chose nothing."""

    def predictions(self, system: System, task: str) -> pd.DataFrame:
        """The system's labelled dev predictions of this half, ordered by id."""
        frame = ordered(system.predictions("dev", task), task)
        return frame[~in_choosing_half(frame["id"])].reset_index(drop=True)


@dataclass(frozen=True)
class Dev:
    """All of dev: for the report's own way of scoring, optimistic wherever dev chose something."""

    def predictions(self, system: System, task: str) -> pd.DataFrame:
        """The system's labelled dev predictions, ordered by id."""
        return ordered(system.predictions("dev", task), task)


@dataclass(frozen=True)
class Test:
    """The test split, for scoring only."""

    __test__ = False

    def predictions(self, system: System, task: str) -> pd.DataFrame:
        """The system's labelled test predictions, ordered by id."""
        return ordered(system.predictions("test", task), task)


Part = ChoosingHalf | ReportingHalf | Dev | Test


def require_choosing(half: ChoosingHalf) -> ChoosingHalf:
    """`half`, if it is the choosing half of dev; raises ConfigurationError for everything else."""
    if type(half) is not ChoosingHalf:
        raise ConfigurationError(f"selection: expected ChoosingHalf(), the half of dev that may choose; found {half!r}")
    return half


def ordered(frame: pd.DataFrame, task: str) -> pd.DataFrame:
    """Labelled predictions ordered by id; raises DataError for a missing column or a repeated id."""
    missing = [column for column in ("id", "label", "prediction") if column not in frame.columns]
    if missing:
        raise DataError(f"predictions of {task}: expected the columns {missing}, found {list(frame.columns)}")
    if frame["id"].duplicated().any():
        raise DataError(f"predictions of {task}: id {frame['id'][frame['id'].duplicated()].iloc[0]!r} occurs twice")
    return frame.sort_values("id", ignore_index=True)


def aligned(frames: Sequence[pd.DataFrame], task: str) -> list[pd.DataFrame]:
    """The frames in one common order of ids; raises DataError unless ids and labels are the same in all of them."""
    frames = [ordered(frame, task) for frame in frames]
    for frame in frames[1:]:
        strangers = set(frames[0]["id"]) ^ set(frame["id"])
        if strangers:
            raise DataError(
                f"predictions of {task}: {len(strangers)} ids are in one system only, such as {min(strangers)!r}; "
                "systems are compared on the same examples"
            )
        differs = frames[0]["label"].to_numpy() != frame["label"].to_numpy()
        if differs.any():
            raise DataError(f"predictions of {task}: id {frame['id'][differs].iloc[0]!r} has two different labels")
    return frames


def task_scores(system: System, on: Part, tasks: Sequence[str] = THREE) -> dict[str, float]:
    """The system's score of each task, and their mean."""
    return frame_scores({task: on.predictions(system, task) for task in tasks})


def frame_scores(frames: Mapping[str, pd.DataFrame]) -> dict[str, float]:
    """Score of each task's labelled predictions, and their mean."""
    scores = {task: TASKS[task].score(f["label"].to_numpy(), f["prediction"].to_numpy()) for task, f in frames.items()}
    return scores | {"mean": float(np.mean(list(scores.values())))}
