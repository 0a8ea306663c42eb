"""Tasks and corpora from tables of one's own: labels as words or numbers; ids and splits made where there are none."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mtlib.data.corpus import SPLITS, TEXTS, Corpus, Splits
from mtlib.data.leakage import keys
from mtlib.data.tsv import (
    CONTROL,
    FORMULA,
    NUMBER,
    EmptyPolicy,
    Fault,
    listed_lines,
    make_frame,
    parse_label,
    raise_faults,
    unfit_id,
)
from mtlib.errors import ConfigurationError
from mtlib.randomness import derive
from mtlib.tasks import Kind, Task, learn

MOST_CLASSES = 200
"""Different words beyond which a column is no label."""

MOST_NUMBERS = 20
"""Different whole numbers beyond which they are a scale and no classes."""

MOST_NO_NUMBERS = 0.1
"""Share of a column's labels that may be no numbers where the others are a scale."""

WHOLE = re.compile(r"([+-]?\d+)\.0*", re.ASCII)
"""A whole number as a column of floats has it."""

COMMA = re.compile(r"[+-]?\d+(,\d+)*", re.ASCII)
"""A whole number, or one with commas for the decimal point or between thousands."""

SURROGATE = re.compile(r"[\ud800-\udfff]")
"""What stands alone for a byte that was not UTF-8, and no file can hold."""

SHARES = (0.8, 0.1, 0.1)
"""Of train, dev and test, where one table is split."""


def own_task(
    name: str,
    table: pd.DataFrame,
    text: str | Sequence[str],
    label: str,
    *,
    kind: Kind | None = None,
    names: Sequence[str] = (),
    title: str = "",
    licence: str = "",
    citation: str = "",
) -> Task:
    """The task of predicting a table's column `label` from its column `text`, or from two; it is known from then on.

    kind: without it, numbers that are not whole, or of more than 20 different values, are a regression on the scale
    from the smallest to the largest; two different labels are binary, up to 200 classes. A column is one of numbers
    where at most a tenth of its labels are none: these are then the faults of their rows.
    names: the classes, in order; without them, the different labels in the order of the alphabet, or of their numbers.
    title, licence, citation: as of `Task`.
    Raises ConfigurationError for columns that are not there, for labels that make no task and, without `kind` and
    `names`, for numbers with commas, which would be classes; DataError for labels that are no UTF-8, by row.
    """
    columns = (text,) if isinstance(text, str) else tuple(text)
    if missing := [column for column in (*columns, label) if column not in table]:
        raise ConfigurationError(f"task {name}: no column {missing[0]!r}: there are {', '.join(map(str, table))}")
    if len({*columns, label}) <= len(columns):
        raise ConfigurationError(f"task {name}: expected different columns, found {', '.join((*columns, label))}")
    places = enumerate(map(_word, table[label]), start=1)
    raise_faults([Fault(name, row, label, "UTF-8", _shown(word)) for row, word in places if SURROGATE.search(word)])
    if torn := [word for word in names if SURROGATE.search(word)]:
        raise ConfigurationError(f"task {name}: names: expected UTF-8, found {_shown(torn[0])}")
    words, numbers = _labels(table[label])
    about: dict[str, Any] = {"title": title, "licence": licence, "citation": citation}
    if kind == "regression" or (kind is None and not names and _is_scale(table[label], numbers)):
        if len(numbers) < 2:
            raise ConfigurationError(f"task {name}: expected different numbers in {label!r}, found {_some(words)}")
        return learn(Task(name, "regression", columns, label, low=min(numbers), high=max(numbers), **about))
    if kind is None and not names and (commas := _with_commas(table[label])):
        meant = "expected a decimal point, and nothing between thousands; or say which kind of task it is"
        raise ConfigurationError(f"task {name}: numbers with a comma in {label!r}, such as {commas[0][:60]}: {meant}")
    names = tuple(names) or tuple(words)
    if not 2 <= len(names) <= MOST_CLASSES:
        expected = f"2 to {MOST_CLASSES} different labels in {label!r}"
        raise ConfigurationError(f"task {name}: expected {expected}, found {len(names)}: {_some(names)}")
    kind = kind or ("binary" if len(names) == 2 else "classification")
    return learn(Task(name, kind, columns, label, classes=len(names), names=names, **about))


def corpus_of_frames(
    name: str,
    tables: Mapping[Task, pd.DataFrame | Mapping[str, pd.DataFrame]],
    *,
    seed: int = 0,
    shares: Sequence[float] = SHARES,
) -> Corpus:
    """What `Corpus.from_frames` gives."""
    splits: dict[str, Any] = {}
    faults: list[Any] = []
    notes: list[str] = []
    for task, given in tables.items():
        learn(task)
        parts = {"train": given} if isinstance(given, pd.DataFrame) else dict(given)
        if unknown := [part for part in parts if part not in SPLITS]:
            raise ConfigurationError(f"task {task.name}: expected splits {', '.join(SPLITS)}, found {unknown[0]!r}")
        made = {}
        for part, table in parts.items():
            place = task.name if len(parts) == 1 else f"{task.name} {part}"
            numbered = table.set_axis(range(1, len(table) + 1))
            made[part] = labelled_frame(task, numbered, place, faults, notes, needs_label=part != "test")
        raise_faults(faults)
        splits[task.name] = complete(task, made, seed, shares)
    return Corpus(name, tuple(tables), splits, notes)


def labelled_frame(
    task: Task,
    table: pd.DataFrame,
    place: str,
    faults: list[Fault],
    notes: list[str],
    needs_label: bool = True,
    id_column: str = "id",
    numbers: Sequence[int] = (),
    empty: EmptyPolicy = "error",
) -> pd.DataFrame:
    """A table as a split: ids of that column, else `<place>-<number of the row>`; labels as the task counts them.

    place: how faults call it. numbers: of the rows; from 1 unless given. empty: what a blank text is.
    Rows without a label are left out, and noted. What is wrong is added to `faults`, a row's index as its line.
    """
    needed = [*task.columns, *([task.label_column] if needs_label else [])]
    if missing := [column for column in needed if column not in table]:
        faults.append(Fault(place, None, None, f"the columns {', '.join(needed)}", f"none called {missing[0]}"))
        return make_frame(task, {"id": []})
    words = [_word(label) for label in table.get(task.label_column, [])]
    has_label = task.label_column in table and (needs_label or any(words))  # a test file's column may be empty
    columns = ["id", *TEXTS[: len(task.columns)], *(["label"] if has_label else [])]
    rows: dict[str, list] = {column: [] for column in columns}
    ids = _ids(table, id_column, place, numbers or range(1, len(table) + 1))
    seen: dict[str, Any] = {}
    unlabelled: list[int] = []
    blank: list[int] = []
    before = len(faults)
    texts = zip(*(table[column] for column in task.columns), strict=True)
    for line, name, row, word in zip(table.index, ids, texts, words or [""] * len(table), strict=True):
        if has_label and not word:
            unlabelled.append(line)
            continue
        values: dict[str, Any] = {"id": name, **dict(zip(TEXTS, row, strict=False))}
        for column, text in zip(task.columns, row, strict=True):
            if not (isinstance(text, str) and (text.strip() or empty != "error")):
                faults.append(Fault(place, line, column, "a text", repr(text)[:60]))
            elif SURROGATE.search(text):
                faults.append(Fault(place, line, column, "UTF-8", _shown(text)))
        if wrong := _wrong_id(name, line, seen):
            faults.append(Fault(place, line, "id", *wrong))
        if has_label:
            try:
                values["label"] = own_label(task, word)
            except ValueError as error:
                faults.append(Fault(place, line, task.label_column, str(error), repr(word)[:60]))
                continue
        if empty == "drop" and not all(str(text).strip() for text in row):
            blank.append(line)
            continue
        for column in columns:
            rows[column].append(values[column])
    if unlabelled:
        notes.append(f"{place}: dropped {len(unlabelled)} unlabelled row(s), {listed_lines(unlabelled)}")
    if blank:
        notes.append(f"{place}: dropped {len(blank)} row(s) with an empty text, {listed_lines(blank)}")
    return make_frame(task, rows if len(faults) == before else {column: [] for column in columns})


def _ids(table: pd.DataFrame, column: str, prefix: str, numbers: Iterable[int]) -> list[str]:
    """The ids in that column, "" of what is missing; without the column made ones, which no spreadsheet computes."""
    if column in table:
        missing = table[column].isna()
        return ["" if none else str(value) for value, none in zip(table[column], missing, strict=True)]
    prefix = CONTROL.sub("-", prefix.replace(" ", "-")).lstrip("".join(FORMULA))
    return [f"{prefix}-{number}" for number in numbers]


def _wrong_id(name: str, line: Any, seen: dict[str, Any]) -> tuple[str, str] | None:
    """What is expected of an id and what was found, None for a good one; seen: the line of each id before it."""
    if not name.strip():
        return "an id", "nothing"
    if expected := unfit_id(name):
        return expected, repr(name)[:60]
    if (first := seen.setdefault(name, line)) != line:
        return "an id of its own", f"{name!r:.60}, the id of line {first}"
    return None


def own_label(task: Task, word: str) -> int | float:
    """The label that a word stands for: a class's name, which "1" is of "1.0" too, or its number.

    Raises ValueError, saying what was expected.
    """
    for spelling in (word, _as_whole(word)):
        if spelling in task.names:
            return task.names.index(spelling)
    if task.names:
        raise ValueError(f"one of {_some(task.names)}")
    return parse_label(task, word)


def complete(task: Task, parts: Mapping[str, pd.DataFrame], seed: int, shares: Sequence[float] = SHARES) -> Splits:
    """The splits of a task: those that are given; of train alone all three, without a dev one that train gives.

    Rows of one text, whatever their case and spaces, stay together, and labels have the same shares in every split
    (of a regression the fifths of its scale). Which rows go where depends on the seed and their texts alone, not on
    their order: rows that are added move few others.
    """
    if len(shares) != 3 or not all(0 <= share < 1 for share in shares) or abs(sum(shares) - 1) > 1e-9:
        raise ConfigurationError(f"shares: expected those of train, dev and test, 1 together, found {list(shares)}")
    parts = dict(parts)
    if "train" not in parts:
        raise ConfigurationError(f"task {task.name}: expected a train split, found {', '.join(parts) or 'none'}")
    if "dev" not in parts:
        wanted = {"dev": shares[1], **({} if "test" in parts else {"test": shares[2]})}
        whole = parts["train"]
        chosen = _chosen(task, whole, seed, wanted)
        for part in ("train", *wanted):
            parts[part] = whole[chosen == part].reset_index(drop=True)
    return Splits(**parts)


def _chosen(task: Task, frame: pd.DataFrame, seed: int, wanted: Mapping[str, float]) -> np.ndarray:
    """The split of each row, [n]."""
    by_text = keys(frame)
    strata = frame["label"].to_numpy()
    if task.kind == "regression":
        strata = np.minimum((strata - task.low) / (task.high - task.low) * 5, 4).astype(int)
    by_stratum = sorted(zip(by_text, strata, strict=True), reverse=True)
    stratum_of = dict(by_stratum)  # of a text that occurs twice, the smallest
    order = sorted(stratum_of, key=lambda text: derive(seed, f"splits/{task.name}/{text!r}"))
    part_of = dict.fromkeys(order, "train")
    for stratum in np.unique(strata):
        texts = [text for text in order if stratum_of[text] == stratum]
        start = 0
        for part, share in wanted.items():
            count = min(max(round(share * len(texts)), int(share > 0)), max(len(texts) - 1 - start, 0))
            part_of |= dict.fromkeys(texts[start : start + count], part)
            start += count
    return np.array([part_of[text] for text in by_text])


def _word(value: Any) -> str:
    """A label as a word: "3" of 3.0, "" of what is missing."""
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else str(int(value)) if float(value).is_integer() else repr(float(value))
    return "" if value is None or value is pd.NA else str(value).strip()


def _as_whole(word: str) -> str:
    """ "3" of "3.0", any other word as it is."""
    return match[1] if (match := WHOLE.fullmatch(word)) else word


def _labels(column: pd.Series) -> tuple[list[str], list[float]]:
    """The different labels in order, "1" and "1.0" as one where there are both; and the numbers among them."""
    words = {word for value in column if (word := _word(value))}
    short = {_as_whole(word) for word in words}
    ordered = sorted(short if len(short) < len(words) else words, key=_sorting)
    return ordered, [float(word) for word in ordered if NUMBER.fullmatch(word)]


def _is_scale(column: pd.Series, numbers: Sequence[float]) -> bool:
    """Whether a column of these different numbers is a scale, though a tenth of its labels may be no numbers."""
    if len(numbers) < 2 or (len(numbers) <= MOST_NUMBERS and all(number.is_integer() for number in numbers)):
        return False
    is_number = [bool(NUMBER.fullmatch(word)) for value in column if (word := _word(value))]
    return is_number.count(False) <= len(is_number) * MOST_NO_NUMBERS


def _with_commas(column: pd.Series) -> list[str]:
    """The different numbers with a comma in a column of numbers, though a tenth of its labels may be none."""
    words = [word for value in column if (word := _word(value))]
    numbers = [word for word in words if COMMA.fullmatch(word) or NUMBER.fullmatch(word)]
    few = len(words) - len(numbers) <= len(words) * MOST_NO_NUMBERS
    return sorted({word for word in numbers if "," in word}) if few else []


def _sorting(word: str) -> tuple[float, str]:
    return (float(word), word) if NUMBER.fullmatch(word) else (float("inf"), word)


def _shown(text: str) -> str:
    return ascii(text)[:60]


def _some(words: Iterable[str]) -> str:
    listed = list(words)
    return ", ".join(repr(word[:30]) for word in listed[:8]) + (f" and {len(listed) - 8} more" if listed[8:] else "")
