"""Submission files of the CS224N course, in its layout, for any system: a run, an ensemble, a soup."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from mtlib.data.corpus import Corpus
from mtlib.data.tsv import unfit_id
from mtlib.errors import ConfigurationError, DataError
from mtlib.study.eval_splits import System, tasks_of
from mtlib.tasks import TASKS
from mtlib.training.files import make_folder, outside_runs, storage, write_atomic


class File(NamedTuple):
    """How the course calls a task in the names of its files, and the column of predictions, spelt as there."""

    name: str
    column: str


FILES = {
    "sst": File("sst", "Predicted_Sentiment"),
    "qqp": File("para", "Predicted_Is_Paraphrase"),
    "sts": File("sts", "Predicted_Similiary"),
}


def submission(frame: pd.DataFrame, task: str) -> str:
    """Predictions in the course's layout: `id \\t Predicted_Sentiment `, then lines `id , 3 `.

    A class of several is an integer, 0, 1 and similarities are floats. Raises DataError for an id that it cannot hold.
    """
    for name in frame["id"]:
        if expected := unfit_id(name, task):
            raise DataError(f"submission of {task}: expected {expected}, found {name[:80]!r}")
    values = frame["prediction"] if TASKS[task].kind == "classification" else frame["prediction"].astype(float)
    lines = [f"{name} , {value} " for name, value in zip(frame["id"], values.tolist(), strict=True)]
    return "\n".join([f"id \t {FILES[task].column} ", *lines, ""])


def splits_of(corpus: Corpus, tasks: Sequence[str]) -> list[str]:
    """Those of dev and test that the corpus has of every task of the course among `tasks`; none without such a task."""
    course = [task for task in tasks if task in FILES]
    has = {split: [getattr(corpus[task], split) is not None for task in course] for split in ("dev", "test")}
    return [split for split, there in has.items() if there and all(there)]


def write_submissions(
    system: System, folder: Path | str, name: str, splits: Sequence[str] = ("dev", "test")
) -> list[Path]:
    """Write `<name>-<task>-<split>-output.csv` for each task of the course that the system has; the files' paths.

    Raises ConfigurationError for a system without such a task and for the folder of a run, CheckpointError or DataError
    where it has no predictions of a split, StorageError.
    """
    tasks = [task for task in tasks_of(system) if task in FILES]
    if not tasks:
        raise ConfigurationError(f"the course has {', '.join(FILES)}; this system has {', '.join(tasks_of(system))}")
    folder, paths = outside_runs(folder), []
    with storage("create", folder):
        make_folder(folder.absolute())
    for split in splits:
        for task in tasks:
            paths.append(folder / f"{name}-{FILES[task].name}-{split}-output.csv")
            write_atomic(paths[-1], submission(system.predictions(split, task), task).encode())
    return paths
