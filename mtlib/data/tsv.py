"""The strict reader of tab-separated corpus files: nothing is guessed, repaired or swallowed.

Fields are quoted as pandas writes them: a field with a quote, a tab or a line break stands in quotes, and its
quotes are doubled. A line inside such a field that is itself like a row is a fault: it cannot be told from a quote that
was left open, which would swallow rows. All faults of a file are collected before anything is raised.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from mtlib.errors import DataError, StorageError
from mtlib.tasks import Task

EmptyPolicy = Literal["error", "keep", "drop"]
NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
FORMULA = tuple("=+-@")
"""Beginnings that a spreadsheet takes for a formula; ids go into files that are opened with one."""

INDEX = re.compile(r"(Unnamed: \d+|\d+)?")
SHOWN = 10


@dataclass(frozen=True)
class Fault:
    """One fault of one file: where it is, what was expected and what was found. `line` counts from 1."""

    file: str
    line: int | None
    column: str | None
    expected: str
    actual: str

    def __str__(self) -> str:
        line = f":{self.line}" if self.line else ""
        column = f", column {self.column!r}" if self.column else ""
        return f"{self.file}{line}{column}: expected {self.expected}, found {self.actual}"


@dataclass(frozen=True)
class Table:
    """What one file held.

    frame: the good rows; columns id, text_a[, text_b][, label]. notes: what was dropped, for a warning.
    faults: everything else that is wrong with the file. remarks: oddities that need no warning.
    """

    frame: pd.DataFrame
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def raise_faults(faults: Sequence[Fault]) -> None:
    """Raise one DataError that carries all `faults` and shows the first of them; none: do nothing."""
    if faults:
        more = [f"... and {len(faults) - SHOWN} more faults"] if len(faults) > SHOWN else []
        raise DataError("\n".join([*map(str, faults[:SHOWN]), *more]), faults)


def scan_tsv(path: str | Path, task: Task, labelled: bool | None = True, empty: EmptyPolicy = "error") -> Table:
    """Read a file of `task` and return its good rows with all its faults.

    labelled: True needs the label column, False ignores it, None reads it if it is there. A row without a label
        is dropped and noted.
    empty: what an empty or blank text is: a fault ("error"), text like any other ("keep"), or dropped and noted.
    Raises StorageError where the file cannot be read.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
    reader = _Reader(path.name, task, empty)
    reader.read(content, labelled)
    return reader.table()


def parse_label(task: Task, text: str) -> int | float:
    """The label that `text` stands for. Raises ValueError, saying what was expected, if it stands for none."""
    value = float(text) if NUMBER.fullmatch(text) else math.nan
    if task.kind == "regression":
        if not task.low <= value <= task.high:
            raise ValueError(f"a number from {task.low:g} to {task.high:g}")
        return value
    if value not in range(task.outputs if task.kind == "classification" else 2):
        raise ValueError("0 or 1" if task.kind == "binary" else f"an integer from 0 to {task.classes - 1}")
    return int(value)


SUBMITTED = ("sst", "qqp", "sts")
"""Tasks of the course, whose submission files are lines `id , prediction `: split at the comma, blanks stripped."""


def unfit_id(name: str, task: str = "") -> str | None:
    """What is expected of an id where `name` is none that every file of predictions can hold; None for a good one.

    task: the name of its task; those of SUBMITTED have submission files too.

    >>> unfit_id("sst-12"), unfit_id("-3"), unfit_id("=1+1")
    (None, None, 'an id that no spreadsheet takes for a formula')
    >>> unfit_id("a,b"), unfit_id("a,b", "sst")
    (None, 'an id without commas and blanks at its ends, by which submission files are split')
    """
    if CONTROL.search(name):
        return "an id without line ends and control characters"
    if name.startswith(FORMULA) and not NUMBER.fullmatch(name):
        return "an id that no spreadsheet takes for a formula"
    if task in SUBMITTED and ("," in name or name != name.strip()):
        return "an id without commas and blanks at its ends, by which submission files are split"
    return None


def make_frame(task: Task, columns: dict[str, list]) -> pd.DataFrame:
    """DataFrame of id, texts and label with the types that all of mtlib relies on: str, and int64 or float64."""
    kinds = {"label": "float64" if task.kind == "regression" else "int64"}
    return pd.DataFrame({name: pd.Series(column, dtype=kinds.get(name, "str")) for name, column in columns.items()})


class _QuoteError(Exception):
    """A quote that no field can have, and what stands there instead."""


class _Reader:
    """Collects the rows, faults and notes of one file."""

    def __init__(self, file: str, task: Task, empty: EmptyPolicy):
        self.file, self.task, self.empty = file, task, empty
        self.faults: list[Fault] = []
        self.unlabelled: list[int] = []
        self.blank: list[int] = []
        self.texts = ["text_a", "text_b"][: len(task.columns)]
        self.rows: dict[str, list] = {name: [] for name in ["id", *self.texts]}
        self.seen: dict[str, int] = {}

    def fault(self, line: int | None, column: str | None, expected: str, actual: str) -> None:
        self.faults.append(Fault(self.file, line, column, expected, actual))

    def table(self) -> Table:
        """The good rows and what there is to say about the others."""
        notes = []
        if self.unlabelled:
            lines = listed_lines(self.unlabelled)
            notes.append(f"{self.file}: dropped {len(self.unlabelled)} unlabelled row(s), {lines}")
        if self.blank and self.empty == "drop":
            lines = listed_lines(self.blank)
            notes.append(f"{self.file}: dropped {len(self.blank)} row(s) with an empty text, {lines}")
        texts = zip(*(self.rows[name] for name in self.texts), strict=True)
        damaged = sum(any("\ufffd" in text for text in row) for row in texts)
        remarks = [f"{self.file}: {damaged} row(s) hold U+FFFD, a character lost before this file"] if damaged else []
        return Table(make_frame(self.task, self.rows), tuple(self.faults), tuple(notes), tuple(remarks))

    def read(self, content: bytes, labelled: bool | None) -> None:
        """Take in the bytes of a file."""
        lines = self.decode(content).removeprefix("\ufeff").split("\n")
        if lines[-1] == "":
            lines.pop()
        if not lines:
            return self.fault(None, None, "a header and rows", "an empty file")
        if lines[0].endswith("\r"):
            lines = [line.removesuffix("\r") for line in lines]
        header = self.header(lines[0], labelled)
        if header is None:
            return None
        for number, fields in self.records(lines, header):
            if len(fields) != len(header):
                actual = "a blank line" if fields == [""] else f"{len(fields)} fields"
                self.fault(number, None, f"{len(header)} tab-separated fields as in the header", actual)
            else:
                self.row(number, dict(zip(header, fields, strict=True)))
        if not self.rows["id"] and not self.faults:
            self.fault(None, None, "rows below the header", "dropped rows only" if len(lines) > 1 else "none")

    def decode(self, content: bytes) -> str:
        """Text of the file; bytes that are not UTF-8, and NUL, are faults with their offset."""
        offset = 0
        for number, line in enumerate(content.split(b"\n"), start=1):
            if (nul := line.find(b"\0")) >= 0:
                self.fault(number, None, "text", f"a NUL byte at offset {offset + nul}")
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                self.fault(number, None, "UTF-8", f"byte 0x{line[error.start]:02x} at offset {offset + error.start}")
            offset += len(line) + 1
        return content.decode("utf-8", errors="replace")

    def header(self, line: str, labelled: bool | None) -> list[str] | None:
        """Column names; index columns are "". None, after a fault, if the needed columns are not all there."""
        names = [name.strip('"') if '"' in name else name for name in line.split("\t")]
        leading = next((i for i, name in enumerate(names) if not INDEX.fullmatch(name)), len(names))
        names = [""] * leading + names[leading:]
        needed = ["id", *self.task.columns]
        self.has_label = labelled or (labelled is None and self.task.label_column in names)
        if self.has_label:
            needed.append(self.task.label_column)
            self.rows["label"] = []
        named = ", ".join(map(repr, names[leading:])) or "no named column"
        if missing := [name for name in needed if name not in names]:
            self.fault(1, None, f"the columns {', '.join(map(repr, needed))}", f"{named}: missing {', '.join(missing)}")
            return None
        if len(set(names[leading:])) < len(names) - leading or "" in names[leading:]:
            self.fault(1, None, "a different name for every column", named)
            return None
        return names

    def records(self, lines: list[str], header: list[str]) -> Iterator[tuple[int, list[str]]]:
        """Line number and fields of each row; a row with a misplaced quote is a fault and ends with its line."""
        position = 1
        while position < len(lines):
            if '"' not in lines[position]:
                if not self.has_other_end(position + 1, lines[position], header):
                    yield position + 1, lines[position].split("\t")
                position += 1
                continue
            try:
                fields, stop = _quoted_record(lines, position)
                swallowed = [i for i in range(position + 1, stop) if self.looks_like_a_row(lines[i], header)]
                if swallowed:
                    raise _QuoteError(f"a quote left open: it would swallow the row on line {swallowed[0] + 1}")
                if not self.has_other_end(position + 1, lines[stop - 1], header):
                    yield position + 1, fields
                position = stop
            except _QuoteError as error:
                self.fault(position + 1, None, "a field in quotes with its own quotes doubled", str(error))
                position += 1

    def has_other_end(self, number: int, line: str, header: list[str]) -> bool:
        """Whether a row's last line has a CR, which the header's has not, in a text: a fault."""
        ends = line.endswith("\r") and line != "\r" and header[-1] in self.task.columns
        if ends:
            self.fault(number, header[-1], "a line that ends as the header's does, in LF", "CR LF")
        return ends

    def looks_like_a_row(self, line: str, header: list[str]) -> bool:
        """Whether a line inside quotes has the fields of a row of its own: numbered index, id, label."""
        fields = line.split("\t")
        if len(fields) != len(header):
            return False
        index = all(NUMBER.fullmatch(field) for field, name in zip(fields, header, strict=True) if name == "")
        row = dict(zip(header, fields, strict=True))
        label = row[self.task.label_column].strip() if self.has_label else ""
        return index and row["id"].strip() != "" and (not label or NUMBER.fullmatch(label) is not None)

    def row(self, number: int, row: dict[str, str]) -> None:
        """Take in one row of the right width."""
        faults = len(self.faults)
        name = row["id"]
        if not name.strip():
            self.fault(number, "id", "an id", "nothing")
        elif unwritable := unfit_id(name, self.task.name):
            self.fault(number, "id", unwritable, _shown(name))
        elif (first := self.seen.setdefault(name, number)) != number:
            self.fault(number, "id", "an id of its own", f"{name!r}, the id of line {first}")
        values: dict[str, Any] = {"id": name}
        values |= {text: row[column] for text, column in zip(self.texts, self.task.columns, strict=True)}
        if self.has_label:
            label = row[self.task.label_column]
            if not label.strip():
                return self.unlabelled.append(number)
            try:
                values["label"] = parse_label(self.task, label)
            except ValueError as error:
                self.fault(number, self.task.label_column, str(error), _shown(label))
        blank = [column for text, column in zip(self.texts, self.task.columns, strict=True) if not values[text].strip()]
        if blank and self.empty != "keep":
            self.blank.append(number)
            if self.empty == "drop":
                return None
            self.fault(number, blank[0], "a text", _shown(row[blank[0]]) if row[blank[0]] else "nothing")
        if len(self.faults) == faults:
            for column, value in values.items():
                self.rows[column].append(value)


def _quoted_record(lines: list[str], position: int) -> tuple[list[str], int]:
    """Fields of the row that starts at `position`, and the position after it."""
    line, start, fields = lines[position], 0, []
    while True:
        if not line.startswith('"', start):
            stop = line.find("\t", start)
            field = line[start:] if stop < 0 else line[start:stop]
            if '"' in field:
                raise _QuoteError(f"a quote inside the unquoted field {_shown(field)}")
            fields.append(field)
        else:
            opened, parts, start = _shown(line[start:].split("\t")[0]), [], start + 1
            while (stop := line.find('"', start)) < 0 or line.startswith('"', stop + 1):
                if stop >= 0:
                    parts.append(line[start : stop + 1])
                    start = stop + 2
                    continue
                parts.append(line[start:] + "\n")
                position, start = position + 1, 0
                if position == len(lines):
                    raise _QuoteError(f"a quote left open at {opened}")
                line = lines[position]
            fields.append("".join([*parts, line[start:stop]]))
            stop += 1
            if stop < len(line) and line[stop] != "\t":
                raise _QuoteError(f"text after the closing quote of {opened}: {_shown(line[stop:])}")
            stop = -1 if stop == len(line) else stop
        if stop < 0:
            return fields, position + 1
        start = stop + 1


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")


def listed_lines(numbers: Sequence[int]) -> str:
    """ "line 3", or "lines 3, 7, ... and 5 more"."""
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return ("line " if len(numbers) == 1 else "lines ") + ", ".join(map(str, numbers[:SHOWN])) + more
