"""What is scored: systems, and the part of their stored predictions that a score uses.

A system is anything with `predictions(split, task) -> DataFrame(id, label, prediction[, p0, p1, ...])`: a run, an
ensemble, or `Stored` frames. Which part is scored is given by a value: `ChoosingHalf()`, `ReportingHalf()`, `Dev()` or
`Test()`. Everything that selects takes a `ChoosingHalf` and nothing else, so no choice can see the test split or the
half of dev that scores the choice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import pandas as pd

from mtlib import metrics
from mtlib.data.corpus import Corpus
from mtlib.errors import ConfigurationError, DataError
from mtlib.tasks import TASKS, in_order
from mtlib.training.evaluation import in_choosing_half


class System(Protocol):
    """Anything with stored predictions; its tasks are `tasks`, or those of its `experiment`."""

    def predictions(self, split: str, task: str) -> pd.DataFrame:
        """One row an example: id, label, prediction and, for classes, their probabilities p0, p1, ..."""
        ...


@dataclass(frozen=True)
class Stored:
    """A system made of frames: `frames[split, task]`."""

    frames: Mapping[tuple[str, str], pd.DataFrame]

    @property
    def tasks(self) -> list[str]:
        """The tasks that it has frames of."""
        return in_order(dict.fromkeys(task for _, task in self.frames))

    def predictions(self, split: str, task: str) -> pd.DataFrame:
        """The frame of that split and task; raises DataError when there is none."""
        if (split, task) not in self.frames:
            raise DataError(f"no predictions of {task} on {split}: found {sorted(self.frames)}")
        return self.frames[split, task]


class Part:
    """A part of the stored predictions; `title` is how captions call it."""

    split: ClassVar[str] = "dev"
    title: ClassVar[str] = "all of dev"

    def keeps(self, ids: pd.Series) -> np.ndarray:
        """Whether each id [n] belongs to the part."""
        return np.ones(len(ids), bool)

    def predictions(self, system: System, task: str) -> pd.DataFrame:
        """The system's labelled predictions of this part, ordered by id."""
        frame = ordered(system.predictions(self.split, task), task)
        return frame[self.keeps(frame["id"])].reset_index(drop=True)


@dataclass(frozen=True)
class Dev(Part):
    """All of dev: for the report's own way of scoring, optimistic wherever dev chose something."""


@dataclass(frozen=True)
class Test(Part):
    """The test split, for scoring only."""

    __test__ = False
    split, title = "test", "test"


@dataclass(frozen=True)
class ChoosingHalf(Part):
    """The half of dev that selection may see. It cannot be told to read anything else."""

    title = "choosing half of dev"

    def __init_subclass__(cls) -> None:
        raise ConfigurationError("the choosing half of dev cannot be redefined")

    def keeps(self, ids: pd.Series) -> np.ndarray:
        """Whether the hash of each id [n] puts it in the choosing half."""
        return in_choosing_half(ids)


@dataclass(frozen=True)
class ReportingHalf(Part):
    """The half of dev that chose nothing."""

    title = "reporting half of dev"

    def keeps(self, ids: pd.Series) -> np.ndarray:
        """Whether each id [n] is outside the choosing half."""
        return ~in_choosing_half(ids)


CHOOSING, REPORTING = ChoosingHalf(), ReportingHalf()


def require_choosing(half: ChoosingHalf) -> ChoosingHalf:
    """`half`, if it is the choosing half of dev; raises ConfigurationError for everything else."""
    if type(half) is not ChoosingHalf:
        raise ConfigurationError(f"selection: expected ChoosingHalf(), the half of dev that may choose; found {half!r}")
    return half


def tasks_of(*systems: System) -> list[str]:
    """The tasks that all of the systems have, in order; raises ConfigurationError when there is none, or no system."""
    if not systems:
        raise ConfigurationError("expected at least one system, found none")
    task_lists = [
        list(system.tasks if hasattr(system, "tasks") else cast(Any, system).experiment.task_names)
        for system in systems
    ]
    if shared := [task for task in task_lists[0] if all(task in tasks for tasks in task_lists)]:
        return in_order(shared)
    raise ConfigurationError(f"expected systems with a task in common, found those of {task_lists}")


def ordered(frame: pd.DataFrame, task: str, *, labelled: bool = True) -> pd.DataFrame:
    """Predictions ordered by id; raises DataError for a missing column or a repeated id."""
    needed = ("id", "label", "prediction") if labelled else ("id", "prediction")
    if missing := [column for column in needed if column not in frame.columns]:
        raise DataError(f"predictions of {task}: expected the columns {missing}, found {list(frame.columns)}")
    if frame["id"].duplicated().any():
        raise DataError(f"predictions of {task}: id {frame['id'][frame['id'].duplicated()].iloc[0]!r} occurs twice")
    return frame.sort_values("id", ignore_index=True)


def aligned(frames: Sequence[pd.DataFrame], task: str, *, labelled: bool = True) -> list[pd.DataFrame]:
    """The frames in one common order of ids; raises DataError unless ids and labels are the same in all of them."""
    first, *others = frames = [ordered(frame, task, labelled=labelled) for frame in frames]
    for frame in others:
        if strangers := set(first["id"]) ^ set(frame["id"]):
            raise DataError(
                f"predictions of {task}: {len(strangers)} ids are in one system only, such as "
                f"{min(strangers, key=str)!r}; systems are put together on the same examples"
            )
        differs = first["label"].to_numpy() != frame["label"].to_numpy() if labelled else np.zeros(len(frame), bool)
        if differs.any():
            raise DataError(f"predictions of {task}: id {frame['id'][differs].iloc[0]!r} has two different labels")
    return frames


def probabilities(frame: pd.DataFrame) -> np.ndarray:
    """The class probabilities [n, classes] of stored predictions; raises DataError when there are none."""
    columns = [f"p{index}" for index in range(len(frame.columns)) if f"p{index}" in frame.columns]
    if len(columns) < 2:
        raise DataError(f"class probabilities: expected the columns p0, p1, ..., found {list(frame.columns)}")
    return frame[columns].to_numpy(float)


def frame_scores(frames: Mapping[str, pd.DataFrame]) -> dict[str, float]:
    """Score of each task's labelled predictions, their mean and their evenness."""
    scores = {task: TASKS[task].score(f["label"].to_numpy(), f["prediction"].to_numpy()) for task, f in frames.items()}
    return scores | {"mean": metrics.mean_score(scores), "evenness": metrics.evenness(scores)}


def task_scores(system: System, on: Part, tasks: Sequence[str] | None = None) -> dict[str, float]:
    """The system's score of each of `tasks` (its own by default), their mean and their evenness."""
    return frame_scores({task: on.predictions(system, task) for task in tasks or tasks_of(system)})


def score_table(systems: Mapping[str, System], on: Part, tasks: Sequence[str] | None = None) -> pd.DataFrame:
    """`task_scores` of every system, one row each, under its name. By default of the tasks that all of them have."""
    tasks = tasks or tasks_of(*systems.values())
    return pd.DataFrame({name: task_scores(system, on, tasks) for name, system in systems.items()}).T


def is_labelled(corpus: Corpus, split: str = "test", tasks: Sequence[str] | None = None) -> bool:
    """Whether the corpus has that split of every task (its own by default), with labels."""
    frames = [getattr(corpus[task], split) for task in tasks or corpus]
    return all(frame is not None and "label" in frame for frame in frames)
