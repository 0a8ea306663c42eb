"""A corpus of one's own in one YAML file: which columns of which CSV files are the text and the label of which task.

```yaml
base: sample            # other tasks beside one's own; without it, there are none
tasks:
  news: {file: news.csv, text: headline, label: topic}
```
Wherever a corpus is named, the path of such a file names it.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import yaml
from pydantic import Field

from mtlib.checking import Strict, checked
from mtlib.data.corpus import SPLITS, Corpus, Splits, read_corpus
from mtlib.data.frames import SHARES, complete, labelled_frame, own_task
from mtlib.data.plain import Plain, read_plain
from mtlib.data.tsv import EmptyPolicy, Fault, raise_faults
from mtlib.errors import ConfigurationError, DataError
from mtlib.numbers import Seed
from mtlib.tasks import Kind, Task
from mtlib.yaml_files import is_yaml, read_yaml

Text = Annotated[str, Field(min_length=1)]
LABELS = ("label", "labels", "class", "category", "target", "topic", "sentiment", "score", "similarity", "is_duplicate")
PAIRS = (("sentence1", "sentence2"), ("question1", "question2"), ("premise", "hypothesis"), ("text_a", "text_b"))
TEXTS = ("text", "sentence", "review", "headline", "title", "question", "comment", "content", "body", "tweet")
"""Names of columns that `described` takes for what they say, where no others are given."""


class OwnTask(Strict):
    """One task's files and columns.

    file: its CSV file, from the YAML's folder; dev, test: files of these splits, where there are any. separator: found
    unless given. text: the text's column, or two for pairs. label: the label's. id: that of ids, else they are made.
    split: that of a column which says train, dev or test of each row; of dev and test not where these have a file.
    kind, names, title, licence, citation: as of `mtlib.own_task`; names also say the order of the classes.
    """

    file: Text
    text: Text | Annotated[list[Text], Field(min_length=1, max_length=2)]
    label: Text
    dev: str = ""
    test: str = ""
    separator: Literal["", "comma", "tab", "semicolon", "bar"] = ""
    id: str = ""
    split: str = ""
    kind: Kind | None = None
    names: list[Text] = []
    title: str = ""
    licence: str = ""
    citation: str = ""

    def parts(self, folder: Path, faults: list[Any]) -> dict[str, Plain]:
        """The files by split; one with a column that says the split is several.

        A file that is no table or lacks one of the columns is added to `faults`, and so is a column of splits that says
        another one, one that has a file of its own, or of no row that it is train.
        """
        needed = [*([self.text] if isinstance(self.text, str) else self.text), *([self.id] if self.id else [])]
        files: dict[str, Plain] = {}
        for part, name in {"train": self.file, "dev": self.dev, "test": self.test}.items():
            if not name:
                continue
            own = [self.label, *([self.split] if self.split else [])] if part == "train" else []
            try:
                files[part] = read_plain(folder / name, self.separator)
                _require(files[part].frame, [*needed, *own], name)
                if part == "train" and self.split:
                    files |= self._said(files[part])
            except DataError as error:
                faults += error.faults
        return files

    def place(self, part: str) -> str:
        """The file that a split is read from."""
        return {"dev": self.dev, "test": self.test}.get(part) or self.file

    def _said(self, plain: Plain) -> dict[str, Plain]:
        """The splits that the column `split` says."""
        apart = {part: file for part, file in (("dev", self.dev), ("test", self.test)) if file}
        said = [part for part in SPLITS if part not in apart]
        expected = " or ".join(filter(None, [", ".join(said[:-1]), said[-1]]))
        if apart:
            expected += f" ({', '.join(f'{part} is in {file}' for part, file in apart.items())})"
        column = plain.frame[self.split]
        faults = []
        for line, part in column.items():
            if part not in said:
                faults.append(Fault(self.file, int(line), self.split, expected, repr(part)[:60]))
        if not faults and "train" not in set(column):
            found = " and ".join(sorted(set(column)))
            faults.append(Fault(self.file, None, self.split, "a row that says train", f"{found} alone"))
        raise_faults(faults)
        numbers = pd.Series(plain.numbers, plain.frame.index)
        by_part = plain.frame.groupby(self.split)
        return {str(part): Plain(rows, plain.separator, numbers[rows.index].tolist()) for part, rows in by_part}


class OwnCorpus(Strict):
    """The content of the YAML file.

    base: a corpus whose tasks are held too: "sample", "hub" or a folder from the YAML's own, whose labelled phrases are
        not read.
    seed, shares: of the splits that are made where a task has no dev file: train, dev and test.
    """

    base: str = ""
    seed: Seed = 0
    shares: Annotated[list[float], Field(min_length=3, max_length=3)] = list(SHARES)
    tasks: Annotated[dict[str, OwnTask], Field(min_length=1)]


def tasks_of(source: str | Path) -> list[str]:
    """Names of the tasks of the corpus in a YAML file, which are known from then on, those of its base first."""
    corpus, faults, _ = read(source, None, "keep")  # a blank text is for who loads the corpus to judge
    raise_faults(faults)
    return list(corpus)


def read(
    source: str | Path, tasks: Sequence[Task | str] | None, empty: EmptyPolicy
) -> tuple[Corpus, list[Fault], list[str]]:
    """The corpus in a YAML file, the faults of its files, and the notes that deserve a warning.

    tasks: of those it holds; all of them unless given. empty: as in `load_corpus`.
    """
    path = Path(source)
    if not path.is_file():
        raise DataError(f"corpus {str(source)!r}: expected a YAML file, found no such file")
    described = checked(OwnCorpus, read_yaml(path), str(path))
    if is_yaml(described.base):
        raise ConfigurationError(f"{path}: base: expected 'sample', 'hub' or a folder, found {described.base!r}")
    splits: dict[str, Splits] = {}
    own: list[Any] = []
    faults: list[Any] = []
    notes: list[str] = []
    for name, about in described.tasks.items():
        before = len(faults)
        parts = about.parts(path.parent, faults)
        if len(faults) > before:
            continue
        task = _task(name, about, parts)
        frames = {}
        for part, plain in parts.items():
            how = faults, notes, part != "test", about.id, plain.numbers, empty
            frames[part] = labelled_frame(task, plain.frame, about.place(part), *how)
        if not faults:
            splits[name] = complete(task, frames, described.seed, described.shares)
        own.append(task)
    name = path.stem
    if faults:
        own = []
    corpus = Corpus(name, tuple(own), splits, notes, source=os.path.abspath(path))
    wanted = None if tasks is None else [task if isinstance(task, str) else task.name for task in tasks]
    if described.base and (wanted is None or set(wanted) - set(described.tasks)):
        others = None if wanted is None else [each for each in wanted if each not in described.tasks]
        base = described.base if described.base in ("sample", "hub") else path.parent / described.base
        corpus, more, dropped = _joined(read_corpus(base, others, empty), corpus)
        faults, notes = [*more, *faults], [*dropped, *notes]
    return corpus if faults or wanted is None else corpus.only(wanted), faults, notes


def _task(name: str, about: OwnTask, parts: Mapping[str, Plain]) -> Task:
    texts = [about.text] if isinstance(about.text, str) else about.text
    labelled = [plain.frame for plain in parts.values() if about.label in plain.frame]
    described = {"title": about.title, "licence": about.licence, "citation": about.citation}
    table = pd.concat(labelled)
    return own_task(name, table, texts, about.label, kind=about.kind, names=about.names, **described)


def _joined(base: tuple[Corpus, list[Fault], list[str]], own: Corpus) -> tuple[Corpus, list[Fault], list[str]]:
    corpus, faults, dropped = base
    return dataclasses.replace(corpus.joined(own), source=own.source), faults, dropped


def _require(table: pd.DataFrame, columns: Sequence[str], file: str) -> None:
    if missing := [column for column in columns if column not in table]:
        raise_faults([Fault(file, None, None, f"the column {missing[0]!r}", ", ".join(map(repr, table)))])


def described(name: str, file: Path, text: Sequence[str] = (), label: str = "", **settings: Any) -> OwnTask:
    """The description of a task in a CSV file; columns that are not given are taken by their usual names.

    settings: other fields of `OwnTask`. Raises ConfigurationError where the columns do not say what they are.
    """
    columns = list(read_plain(file, settings.get("separator", "")).frame)
    label = label or _only([column for column in columns if column.lower() in LABELS], "label", columns)
    if not text:
        lower = {column.lower(): column for column in columns if column != label}
        pairs = [[lower[name] for name in pair] for pair in PAIRS if all(name in lower for name in pair)]
        singles = [[lower[name]] for name in TEXTS if name in lower]
        text = _only(pairs or singles, "text", columns)
    fields = {"file": str(file), "text": text[0] if len(text) == 1 else list(text), "label": label, **settings}
    return checked(OwnTask, fields, f"task {name}")


def _only(found: list, what: str, columns: Sequence[str]) -> Any:
    if len(found) != 1:
        listed = ", ".join(map(repr, columns))
        raise ConfigurationError(f"which column is the {what}? Name it with --{what}; there are {listed}")
    return found[0]


def as_yaml(tasks: Mapping[str, OwnTask], base: str = "") -> str:
    """The text of a YAML file with these tasks."""
    content = {"base": base} if base else {}
    dumped = {name: task.model_dump(exclude_defaults=True) for name, task in tasks.items()}
    return yaml.safe_dump({**content, "tasks": dumped}, sort_keys=False, allow_unicode=True, width=110)
