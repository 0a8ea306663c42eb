"""Ordinary CSV files, as spreadsheets and pandas write them: the separator is found and named, nothing is repaired."""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pandas as pd

from mtlib.data.tsv import Fault, raise_faults
from mtlib.errors import ConfigurationError, StorageError

SEPARATORS = {"comma": ",", "tab": "\t", "semicolon": ";", "bar": "|"}
LOOKED_AT = 100
"""Rows from which the separator is found."""

csv.field_size_limit(2**27)  # a text of the default 131,072 characters is no fault


@dataclass(frozen=True)
class Plain:
    """A file's columns as text, the number of the line on which a row begins as its index; and its separator's name."""

    frame: pd.DataFrame
    separator: str


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
    return Plain(frame[own], found)


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

    rows: by the number of the line on which they begin. A line looks so that has as many fields as they have, and the
    first or the last of which is also the first or the last of a row of one line: a label, most often.
    """
    lines = list(io.StringIO(text, newline=""))
    ends = dict(zip(rows, [*list(rows)[1:], len(lines) + 1], strict=True))
    single = [fields for line, fields in rows.items() if ends[line] == line + 1]
    firsts, lasts = ({fields[end] for fields in single} for end in (0, -1))
    for line, fields in rows.items():
        for number in range(line, ends[line]) if ends[line] > line + 1 else ():
            pieces = [piece.strip().strip('"') for piece in lines[number - 1].split(separator)]
            starts, stops = number > line and pieces[0] in firsts, number < ends[line] - 1 and pieces[-1] in lasts
            if len(pieces) == len(fields) and (starts or stops):
                found = f"one that runs on, though line {number} looks like a row of its own"
                yield Fault(place, line, None, "a quote that ends where its field does", found)
                break


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
