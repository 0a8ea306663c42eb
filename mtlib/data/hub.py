"""The published data sets on the Hugging Face Hub, at pinned revisions, through `datasets`."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mtlib.data.cached import changed
from mtlib.data.tsv import make_frame, parse_label
from mtlib.errors import DataError, StorageError
from mtlib.tasks import Task

ATTEMPTS = 3
WAIT = 2.0
"""Seconds before the second attempt; doubled before each further one."""

SPLITS = {"train": "train", "validation": "dev", "test": "test"}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where a task's data set is: id, configuration, commit, its text columns, and the rows of each split."""

    dataset: str
    config: str | None
    revision: str
    columns: tuple[str, ...]
    rows: Mapping[str, int]


GLUE = "nyu-mll/glue", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
SST5 = "SetFit/sst5", "e51bdcd8cd3a30da231967c1a249ba59361279a3"
SOURCES = {
    "sst": Source(SST5[0], None, SST5[1], ("text",), {"train": 8544, "validation": 1101, "test": 2210}),
    "qqp": Source(
        GLUE[0], "qqp", GLUE[1], ("question1", "question2"), {"train": 363846, "validation": 40430, "test": 390965}
    ),
    "sts": Source(
        GLUE[0], "stsb", GLUE[1], ("sentence1", "sentence2"), {"train": 5749, "validation": 1500, "test": 1379}
    ),
}


def load(task: Task) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Frames of `task` by split name (train, dev, test), and notes on the rows that were dropped.

    A copy in the local cache serves when the Hub is out of reach, provided it is the pinned revision.
    Raises StorageError when neither can be had, DataError for a row that is not what the task needs.
    """
    source = SOURCES[task.name]
    stored = fetch(source)
    frames, notes = {}, []
    for name, split in SPLITS.items():
        frames[split], dropped = _frame(task, source, name, stored[name])
        if dropped:
            notes.append(f"{source.dataset} {source.config or ''} {name}: dropped {dropped} row(s) with an empty text")
    return frames, notes


def fetch(source: Source) -> Any:
    """The DatasetDict of `source`: at most ATTEMPTS tries, and one fresh download of a damaged or short copy."""
    try:
        import datasets
    except ImportError as error:
        raise StorageError("corpus 'hub' needs the package datasets: pip install 'mtlib[hub]'") from error
    fault: StorageError | DataError = StorageError("never tried")
    options: dict[str, str] = {}
    wait = WAIT
    for attempt in range(ATTEMPTS):
        if attempt:
            log.warning("%s; trying again in %g s", fault, wait)
            time.sleep(wait)
            wait *= 2
        try:
            stored = datasets.load_dataset(source.dataset, source.config, revision=source.revision, **options)
            wrong = _wrong(source, stored)
            if wrong is None:
                return stored
            fault = wrong
        except ConnectionError as error:
            if not isinstance(fault, DataError):
                fault = StorageError(
                    f"{source.dataset}@{source.revision[:8]}: the Hub is out of reach: {_first(error)}; "
                    "a folder of CSV files needs no download: CORPUS=FOLDER, --corpus FOLDER"
                )
            continue
        except Exception as error:  # `datasets` has no base class for what a damaged cache raises
            fault = StorageError(f"{source.dataset}@{source.revision[:8]}: {type(error).__name__}: {_first(error)}")
            fault.__cause__ = error
        if options:
            break
        options = {"download_mode": "force_redownload"}
    raise fault


def _wrong(source: Source, stored: Any) -> StorageError | DataError | None:
    """What is wrong with a loaded data set: its cached revision, a changed byte, its splits or their lengths."""
    name = f"{source.dataset}@{source.revision[:8]}"
    files = [file["filename"] for split in stored.values() for file in split.cache_files]
    for file in files:
        if source.revision not in Path(file).parts:
            return StorageError(f"{name}: expected the cached revision {source.revision}, found {file}")
    if fault := changed(files):
        return DataError(f"{name}: the cached data changed since it was fetched: {fault}")
    sizes = {split: len(rows) for split, rows in stored.items()}
    if sizes != dict(source.rows):
        return StorageError(f"{name}: expected rows {dict(source.rows)}, found {sizes}")
    return None


def _frame(task: Task, source: Source, name: str, rows: Any) -> tuple[pd.DataFrame, int]:
    """Frame of one split, and the number of rows dropped for an empty text; labels that are all -1 are no labels."""
    texts = [list(rows[column]) for column in source.columns]
    labels = list(rows["label"])
    labelled = any(label != -1 for label in labels)
    kept = [i for i in range(len(labels)) if all((column[i] or "").strip() for column in texts)]
    columns: dict[str, list] = {"id": [f"{name}-{i}" for i in kept]}
    columns |= {key: [text[i] for i in kept] for key, text in zip(("text_a", "text_b"), texts, strict=False)}
    if labelled:
        columns["label"] = [_label(task, f"{source.dataset} {name}", i, labels[i]) for i in kept]
    return make_frame(task, columns), len(labels) - len(kept)


def _label(task: Task, place: str, row: int, label: float) -> int | float:
    try:
        return parse_label(task, str(label))
    except ValueError as error:
        raise DataError(f"{place}, row {row}, column 'label': expected {error}, found {label!r}") from error


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
