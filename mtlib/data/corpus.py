"""Corpora: the splits of every task, their fingerprint, and their tables."""

import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd

from mtlib.data import hub, sample
from mtlib.data.leakage import shared_rows, text_columns
from mtlib.data.tsv import EmptyPolicy, Fault, make_frame, raise_faults, scan_tsv
from mtlib.errors import ConfigurationError, DataError
from mtlib.tasks import QQP, SST, STS, TASKS, Task
from mtlib.yaml_files import is_yaml

SPLITS = ("train", "dev", "test")
TEXTS = ("text_a", "text_b")
DEFAULT_TASKS = (SST, QQP, STS)
Kind = Literal["sample", "hub", "own"]
TITLES: dict[Kind, str] = {"sample": "sample (synthetic)", "hub": "hub (SST-5, QQP, STS-B)"}
"""Titles of the corpora that are known by their kind; one of the user's own is called by its name."""


@dataclass(frozen=True)
class Splits:
    """Train, dev and test of one task, each a DataFrame with columns id, text_a[, text_b], label.

    label is int64 for classes and float64 for regression; an unlabelled test has no label column. A test without rows
    is none.
    """

    train: pd.DataFrame
    dev: pd.DataFrame
    test: pd.DataFrame | None = None

    def __post_init__(self) -> None:
        if self.test is not None and not len(self.test):
            object.__setattr__(self, "test", None)

    def items(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """(name, frame) of the splits that are there."""
        return ((name, getattr(self, name)) for name in SPLITS if getattr(self, name) is not None)


@dataclass(frozen=True, eq=False)
class Corpus(Mapping[str, Splits]):
    """The splits of each task by task name.

    name: "sample", "hub" or the folder's name. tasks: the tasks it holds, in order. notes: what was dropped or odd.
    kind: "sample" (generated), "hub" (downloaded) or "own" (a folder, or built in Python), whatever it is called.
    source: the folder that it was read from.

    >>> Corpus("sample", (), {}).title, Corpus("sample", (), {}, kind="sample").title
    ('sample', 'sample (synthetic)')
    """

    name: str
    tasks: tuple[Task, ...]
    splits: Mapping[str, Splits]
    notes: list[str] = field(default_factory=list)
    kind: Kind = "own"
    source: str = ""

    def __getitem__(self, task: str) -> Splits:
        return self.splits[task]

    def __iter__(self) -> Iterator[str]:
        return (task.name for task in self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def title(self) -> str:
        """How tables, figures and run records call it; a folder is called one, for its name may be "data"."""
        is_folder = self.source and not is_yaml(self.source)
        return TITLES.get(self.kind, f"folder {self.name}" if is_folder else self.name)

    def expect_labels_of(self, tasks: Iterable[Task]) -> None:
        """Raise DataError for a task that is not here, or whose labels mean something else than to a model of these."""
        tasks = list(tasks)
        own = {task.name: task for task in self.only([task.name for task in tasks]).tasks}
        for task in tasks:
            if not task.means_alike(own[task.name]):
                of = {False: "texts", True: "pairs"}
                learnt, found = (f"{it.labels} ({it.kind} of {of[it.is_pair]})" for it in (task, own[task.name]))
                expected = f"expected the labels that the model learnt, {learnt}"
                remedy = "name them as they were, or remove the run and train it again"
                raise DataError(f"corpus {self.name}: {task.name}: {expected}; found {found}: {remedy}")

    def only(self, names: Sequence[str]) -> "Corpus":
        """The corpus of these tasks alone, in this order. Raises DataError for one that it has not, or given twice."""
        if list(names) == list(self):
            return self
        if len({*names}) < len(names):
            raise DataError(f"corpus {self.name}: expected different tasks, found {', '.join(names)}")
        for name in names:
            if name not in self:
                raise DataError(f"corpus {self.name}: expected the task {name!r}, found {', '.join(self)}")
        by_name = {task.name: task for task in self.tasks}
        splits = {name: self[name] for name in names}
        return replace(self, tasks=tuple(by_name[name] for name in names), splits=splits)

    @classmethod
    def from_frames(
        cls, name: str, tables: "Mapping[Task, pd.DataFrame | Mapping[str, pd.DataFrame]]", **options: Any
    ) -> "Corpus":
        """A corpus called `name` of tables in pandas: of each task one, or a dict of train, dev and test.

        A table has the task's columns and perhaps `id`, else ids are made. Labels are names of classes, or numbers.
        One table, or train without dev, is split by `seed` (0) and `shares` (0.8, 0.1, 0.1), stratified by label.
        Raises DataError with every fault of every table; rows without a label are left out, and noted.
        """
        from mtlib.data.frames import corpus_of_frames

        return corpus_of_frames(name, tables, **options)

    def joined(self, other: "Corpus") -> "Corpus":
        """The tasks of this corpus, then those of another; raises ConfigurationError for a task that both have."""
        if shared := [name for name in other if name in self]:
            raise ConfigurationError(f"{self.name} and {other.name} both have the task {shared[0]!r}")
        splits, name = {**self.splits, **other.splits}, f"{self.title} + {other.title}"
        return Corpus(name, (*self.tasks, *other.tasks), splits, self.notes + other.notes)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of ids, texts and labels of all splits, in order; CRLF inside a text counts as LF.

        Of tables that were not changed since it is what it was: they are compared with copies that share their memory.
        """
        tables = {(task.name, split): frame for task, split, frame in self.frames()}
        copies, known = self.__dict__.get("_fingerprint", ({}, ""))
        if list(copies) != list(tables) or not all(frame.equals(copies[key]) for key, frame in tables.items()):
            copies, known = {key: frame.copy(deep=False) for key, frame in tables.items()}, self._content()
            self.__dict__["_fingerprint"] = copies, known
        return known

    def _content(self) -> str:
        digest = hashlib.sha256()
        for task, split, frame in self.frames():
            for column in frame:
                values = [v.replace("\r\n", "\n") if isinstance(v, str) else v for v in frame[column].tolist()]
                digest.update(json.dumps([task.name, split, column, values], ensure_ascii=False).encode())
        return digest.hexdigest()

    def frames(self) -> Iterator[tuple[Task, str, pd.DataFrame]]:
        """(task, split name, frame) of everything there is."""
        return ((task, split, frame) for task in self.tasks for split, frame in self[task.name].items())

    def leakage(self) -> pd.DataFrame:
        """Rows of dev and test whose text is also in train: columns task, split, rows, share, texts.

        Texts are compared normalised (`mtlib.data.leakage`), pairs whatever their order; `texts` counts different ones.
        """
        records = []
        for task, split, frame in self.frames():
            if split != "train":
                shared = shared_rows(frame, self[task.name].train)
                share = len(shared) / max(len(frame), 1)
                records.append((task.name, split, len(shared), share, shared["key"].nunique()))
        return pd.DataFrame(records, columns=["task", "split", "rows", "share", "texts"])

    def summary(self) -> pd.DataFrame:
        """One row a task and split: rows, median words of an example, and the balance or spread of its labels."""
        records = []
        for task, split, frame in self.frames():
            median = np.median(words(frame)) if len(frame) else 0
            records.append((task.name, split, len(frame), median, _labels(task, frame)))
        return pd.DataFrame(records, columns=["task", "split", "rows", "median_words", "labels"])

    def balance(self) -> pd.DataFrame:
        """Labels of each labelled split: columns task, split, label, rows, share. Regression labels are `_steps`."""
        columns = ["task", "split", "label", "rows", "share"]
        parts = [pd.DataFrame(columns=columns)]
        for task, split, frame in self.frames():
            if "label" in frame and len(frame):
                counts = _steps(task, frame["label"]).value_counts().sort_index()
                part = pd.DataFrame({"label": counts.index, "rows": counts.to_numpy()})
                parts.append(part.assign(task=task.name, split=split, share=part["rows"] / len(frame)))
        return pd.concat(parts[1:] or parts, ignore_index=True)[columns]

    def lengths(self, tokenizer: Any = None, max_tokens: int = 512) -> pd.DataFrame:
        """Length of the examples in tokens (words without a tokenizer); pairs count as one example.

        Columns task, split, unit, median, p95, longest, truncated: examples over `max_tokens`, which are cut.
        """
        records = []
        for task, split, frame in self.frames():
            count = words(frame) if tokenizer is None else tokens(frame, tokenizer)
            quantiles = np.quantile(count, [0.5, 0.95]) if len(count) else (0, 0)
            longest = int(count.max(initial=0))
            records.append((task.name, split, *quantiles, longest, int((count > max_tokens).sum())))
        table = pd.DataFrame(records, columns=["task", "split", "median", "p95", "longest", "truncated"])
        table.insert(2, "unit", "words" if tokenizer is None else "tokens")
        return table


def load_corpus(
    source: str | Path,
    tasks: Sequence[Task | str] | None = None,
    *,
    strict_leakage: bool = False,
    empty: EmptyPolicy = "error",
    allow_rare: bool = False,
) -> Corpus:
    """The corpus at `source`: "sample" (generated), "hub" (downloaded, pinned), a folder of `<files>-train.csv`, ...,
    or a YAML file that describes one of one's own (`mtlib.own_corpus`).

    A Path is always a folder or a file, also one that is called sample or hub; so is "./sample".
    tasks: default SST, QQP and STS; of a YAML file, all that it has. strict_leakage: an example shared by train and
    dev or test is an error.
    empty: what an empty text is, "error", "keep" or "drop". allow_rare: a class may have fewer than two examples.
    Rows that were dropped are counted in one warning a file.
    Raises DataError with every fault of every file; StorageError where nothing can be read; ConfigurationError for
    tasks that are unknown or named twice.
    """
    corpus, faults, dropped = read_corpus(source, tasks, empty)
    for note in dropped:
        warnings.warn(note, stacklevel=2)
    raise_faults(faults)
    if not allow_rare:
        raise_faults(rare_classes(corpus))
    if strict_leakage:
        raise_faults(leaked(corpus))
    return corpus


def words(frame: pd.DataFrame) -> np.ndarray:
    """Whitespace-separated words of each example, [n]."""
    counts = (np.array([len(text.split()) for text in frame[name]], dtype=np.int64) for name in text_columns(frame))
    return sum(counts, start=np.zeros(len(frame), dtype=np.int64))


def tokens(frame: pd.DataFrame, tokenizer: Any) -> np.ndarray:
    """Tokens of each example as the encoder reads it, special tokens included, nothing cut, [n]."""
    if not len(frame):
        return np.zeros(0, dtype=np.int64)
    encoded = tokenizer(*(frame[name].tolist() for name in text_columns(frame)), truncation=False, verbose=False)
    return np.array([len(row) for row in encoded["input_ids"]], dtype=np.int64)


def rare_classes(corpus: Corpus) -> list[Fault]:
    """A fault for every class that has fewer than two training examples: no stratified sample can hold it."""
    faults = []
    for task in corpus.tasks:
        if task.kind != "regression":
            counts = corpus[task.name].train["label"].value_counts()
            for label in range(task.classes if task.kind == "classification" else 2):
                if (count := int(counts.get(label, 0))) < 2:
                    place = f"{task.name} train", None, task.label_column
                    faults.append(Fault(*place, f"2 or more examples of class {label} (or allow_rare)", str(count)))
    return faults


def leaked(corpus: Corpus) -> list[Fault]:
    """A fault for every split that shares examples with train, naming the first ids."""
    faults = []
    for task, split, frame in corpus.frames():
        shared = [] if split == "train" else shared_rows(frame, corpus[task.name].train)["id"].tolist()
        if shared:
            actual = f"{len(shared)} (ids {', '.join(shared[:5])}{', ...' if len(shared) > 5 else ''})"
            faults.append(Fault(f"{task.name} {split}", None, None, "no example that is also in train", actual))
    return faults


def _resolve(tasks: Sequence[Task | str] | None) -> tuple[Task, ...]:
    resolved = []
    for task in DEFAULT_TASKS if tasks is None else tasks:
        if isinstance(task, str) and task not in TASKS:
            raise ConfigurationError(f"unknown task {task!r}: expected one of {', '.join(TASKS)}")
        resolved.append(TASKS[task] if isinstance(task, str) else task)
    names = [task.name for task in resolved]
    if not names or len(set(names)) < len(names):
        raise ConfigurationError(f"tasks: expected different tasks, found {', '.join(names) or 'none'}")
    return tuple(resolved)


def read_corpus(
    source: str | Path, names: Sequence[Task | str] | None, empty: EmptyPolicy = "error"
) -> tuple[Corpus, list[Fault], list[str]]:
    """The corpus at `source`, all faults, and the notes that deserve a warning; what `load_corpus` decides on."""
    if is_yaml(source) and not os.path.isdir(source):
        from mtlib.own_corpus import read

        return read(source, names, empty)
    tasks = _resolve(names)
    if source in ("sample", "hub"):
        load = sample.load if source == "sample" else hub.load
        known = sample.TASKS if source == "sample" else tuple(hub.SOURCES)
        if unknown := [task.name for task in tasks if task.name not in known]:
            raise ConfigurationError(f"corpus {source!r} has the tasks {', '.join(known)}, not {', '.join(unknown)}")
        splits, dropped = {}, []
        for task in tasks:
            frames, notes = load(task)
            splits[task.name] = Splits(**frames)
            dropped += notes
        return Corpus(str(source), tasks, splits, list(dropped), cast(Kind, source)), [], dropped
    folder = Path(source)
    if not os.path.isdir(folder):
        found = "a file: `mtlib data describe` makes YAML of a table" if os.path.isfile(folder) else "no such folder"
        raise DataError(f"corpus {str(source)!r}: expected 'sample', 'hub', a folder or a YAML file, found {found}")
    splits, faults, dropped, notes = {}, [], [], []
    for task in tasks:
        frames = {}
        for split, path in _files(folder, task).items():
            if not path.is_file():
                faults.append(Fault(path.name, None, None, f"this file in {folder}", "no such file"))
                frames[split] = make_frame(task, {name: [] for name in ("id", *TEXTS[: len(task.columns)], "label")})
                continue
            table = scan_tsv(path, task, labelled=None if split == "test" else True, empty=empty)
            frames[split] = table.frame
            faults += table.faults
            dropped += table.notes
            notes += [*table.notes, *table.remarks]
        splits[task.name] = Splits(**frames)
    name = folder.resolve().name or str(folder)
    return Corpus(name, tasks, splits, notes, source=str(folder.resolve())), faults, dropped


def _files(folder: Path, task: Task) -> dict[str, Path]:
    stem = task.files or task.name
    tests = (folder / f"{stem}-test.csv", folder / f"{stem}-test-student.csv")
    present = [("test", path) for path in tests if path.is_file()]
    return dict([("train", folder / f"{stem}-train.csv"), ("dev", folder / f"{stem}-dev.csv"), *present[:1]])


def _steps(task: Task, labels: pd.Series) -> pd.Series:
    """Labels to count: classes as they are; numbers rounded, or to six steps of a range that is under 2 or over 10."""
    if task.kind != "regression" or 2 <= task.high - task.low <= 10:
        return labels.round().astype("int64")
    return task.values(task.targets(labels).round()).round(max(0, 1 - math.floor(math.log10(task.unit))))


def _labels(task: Task, frame: pd.DataFrame) -> str:
    if "label" not in frame or not len(frame):
        return "none"
    if task.kind == "regression":
        return f"mean {frame['label'].mean():.2f}, sd {frame['label'].std():.2f}"
    shares = frame["label"].value_counts(normalize=True).sort_index()
    return ", ".join(f"{label}: {share:.1%}" for label, share in shares.items())
