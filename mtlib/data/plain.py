"""Ordinary CSV files, as spreadsheets and pandas write them: the separator is found and named, nothing is repaired."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pandas as pd

from mtlib.data.tsv import NUMBER, Fault, raise_faults
from mtlib.errors import ConfigurationError, StorageError

SEPARATORS = {"comma": ",", "tab": "\t", "semicolon": ";", "bar": "|"}
LOOKED_AT = 100
"""Rows from which the separator is found."""

csv.field_size_limit(2**27)  # a text of the default 131,072 characters is no fault


@dataclass(frozen=True)
class Plain:
    """A file's columns as text, the number of the line on which a row begins as its index; and its separator's name.

    numbers: of its rows in the file, from 1.
    """

    frame: pd.DataFrame
    separator: str
    numbers: list[int]


def read_plain(path: Path | str, separator: str = "") -> Plain:
    """Read a CSV file with a header; a leading column without a name, as pandas writes its index, is left out.

    separator: "comma", "tab", "semicolon" or "bar"; without it, the one that gives the first hundred rows as many
    fields as the header, the most if there are several. Fields with a separator, a quote or a line break stand in
    quotes, their own quotes doubled.
    Raises DataError with every fault of the file, by line; StorageError where it cannot be read.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise StorageError(f"{path}: cannot be read: {getattr(error, 'strerror', '') or error}") from error
    return parse_plain(content, path.name, separator)


def parse_plain(content: bytes, place: str, separator: str = "") -> Plain:
    """As `read_plain`, of a file's bytes; place: how its faults call it."""
    if separator and separator not in SEPARATORS:
        raise ConfigurationError(f"separator {separator!r}: expected one of {', '.join(SEPARATORS)}")
    text = decoded(content, place)
    found = separator or _separator(text)
    faults: list[Fault] = []
    rows = _records(text, SEPARATORS[found], place, faults)
    _, header = next(rows, (1, []))
    names = [name.strip() for name in header]
    own = names[1:] if names[:1] == [""] else names
    if not any(own):
        raise_faults([*faults, Fault(place, 1, None, "a header that names the columns", "none")])
    if "" in own or len(set(own)) < len(own):
        raise_faults([Fault(place, 1, None, "a different name for every column", ", ".join(map(repr, own))[:200])])
    lines, kept = [], []
    for line, fields in rows:
        if len(fields) != len(names):
            expected = f"{len(names)} fields, separated by a {found}, as in the header"
            faults.append(Fault(place, line, None, expected, str(len(fields)) if fields else "a blank line"))
        else:
            lines.append(line)
            kept.append(fields)
    if not kept and not faults:
        faults.append(Fault(place, None, None, "rows below the header", "none"))
    raise_faults(faults or list(_swallowed(text, SEPARATORS[found], dict(zip(lines, kept, strict=True)), place)))
    frame = pd.DataFrame(kept, columns=names, index=lines, dtype="str")
    return Plain(frame[own], found, list(range(1, len(frame) + 1)))


def decoded(content: bytes, place: str) -> str:
    """The text, without a byte-order mark; bytes that are not UTF-8, and NUL, are faults with their line and offset."""
    try:
        text = content.decode("utf-8")
        offset, found = text.find("\0"), "a NUL byte"
    except UnicodeDecodeError as error:
        offset, found = error.start, f"byte 0x{content[error.start]:02x}"
    else:
        if offset < 0:
            return text.removeprefix("\ufeff")
        offset = content.index(b"\0")
    line = content.count(b"\n", 0, offset) + 1
    raise_faults([Fault(place, line, None, "text in UTF-8", f"{found} at offset {offset}")])
    raise AssertionError


def _separator(text: str) -> str:
    """The name of the separator."""
    widths = {}
    for name, separator in SEPARATORS.items():
        faults: list[Fault] = []
        sizes = {len(fields) for _, fields in islice(_records(text, separator, "", faults), LOOKED_AT)}
        widths[name] = max(sizes) if len(sizes) == 1 and not faults else 0
    if max(widths.values()) > 1:
        return max(widths, key=widths.__getitem__)
    header = text.split("\n", 1)[0]
    return max(SEPARATORS, key=lambda name: header.count(SEPARATORS[name]))


def _swallowed(text: str, separator: str, rows: Mapping[int, list[str]], place: str) -> Iterator[Fault]:
    """Faults of rows of several lines in which a line looks like a row of its own: a quote that was left open.

    rows: by the number of the line on which they begin. A line looks so that has as many fields as they have, numbers
    where rows of one line have them and nowhere else, and in one field the very word that such a row has there: a
    label, most often. Where all lines have such fields, a number is enough where all rows have one: a score, or an id.
    """
    lines = list(io.StringIO(text, newline=""))
    ends = dict(zip(rows, [*list(rows)[1:], len(lines) + 1], strict=True))
    single = [fields for line, fields in rows.items() if ends[line] == line + 1]
    if not single or len(single) == len(rows):
        return
    words = [set(filter(None, column)) for column in zip(*single, strict=True)]
    numbers = [{_is_number(word) for word in column} for column in words]
    for line, fields in rows.items():
        known, fit, numbered = [], ends[line] > line + 1, []
        for number in range(line, ends[line]) if fit else ():
            pieces = [_unquoted(piece) for piece in lines[number - 1].rstrip("\r\n").split(separator)]
            if len(pieces) != len(fields):
                fit = False
                continue
            first, last = 0 if number > line else len(fields) - 1, len(fields) if number < ends[line] - 1 else 1
            inside = [column for column in range(first, last) if pieces[column]]  # of the quoted field
            if not all(_is_number(pieces[column]) in (numbers[column] or {True, False}) for column in inside):
                fit = False
                continue
            inside = [column for column in inside if not _is_cut(pieces, column, separator)]
            known += [number for column in inside if pieces[column] in words[column]]
            numbered += [number for column in inside if numbers[column] == {True}]
        if looking := known or (numbered if fit else []):
            found = f"one that runs on, though line {looking[0]} looks like a row of its own"
            yield Fault(place, line, None, "a quote that ends where its field does", found)


def _is_number(word: str) -> bool:
    return bool(NUMBER.fullmatch(word)) and word == word.strip()


def _unquoted(piece: str) -> str:
    return piece[1:-1] if len(piece) > 1 and piece[0] == piece[-1] == '"' else piece


def _is_cut(pieces: Sequence[str], column: int, separator: str) -> bool:
    """Whether what stands before a comma and after it may be one number in a sentence, as in "it cost 1,000"."""
    before = pieces[column - 1] if column and separator == "," else ""
    return before[-1:].isdigit() and not _is_number(before) and pieces[column][:1].isdigit()


def _records(text: str, separator: str, place: str, faults: list[Fault]) -> Iterator[tuple[int, list[str]]]:
    """The line on which each record begins, and its fields; a quote that no field can have is a fault, and the end."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            yield line, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            faults.append(Fault(place, line, None, "fields in quotes with their own quotes doubled", str(error)))
            return
