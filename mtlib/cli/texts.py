"""Texts given to `mtlib predict`: as arguments, in a CSV file, or on stdin; and the answers on stdout."""

import csv
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mtlib.errors import ConfigurationError

if TYPE_CHECKING:
    import pandas as pd

    from mtlib.tasks import Task

STDIN = "-"


def answer(run: Any, task: str, texts: list[str], file: Path | None, columns: list[str], calibrated: bool) -> None:
    """Print a CSV on stdout: texts, prediction, and for classes the label's name and the probabilities."""
    import pandas as pd

    from mtlib.study.calibration import calibrated as with_temperatures

    model = with_temperatures(run) if calibrated else run.model()
    known = model.task(task)
    if bool(texts) == bool(file):
        raise ConfigurationError("expected texts, or '-' for stdin, or --from FILE, one of the three")
    table = from_file(known, file, columns) if file else from_arguments(known, texts)
    read = table.drop(columns="id", errors="ignore") if table.shape[1] > len(known.columns) else table
    rows = list(read.itertuples(index=False, name=None)) if known.is_pair else read.iloc[:, 0].tolist()
    bar = sys.stderr.isatty() and len(rows) > 1000
    found = model.predict(task, rows, calibrated=calibrated, precision=run.experiment.precision, progress=bar)
    table = table.rename(columns={name: f"text_{name}" for name in found})  # of a column that is called as an answer is
    print_csv(pd.concat([table.reset_index(drop=True), found.reset_index(drop=True)], axis=1))


def from_arguments(task: "Task", texts: list[str]) -> "pd.DataFrame":
    """Texts, one an argument, of pairs two; or, for "-", one a line of stdin, of pairs two with a tab between them."""
    import pandas as pd

    from mtlib.data.plain import decoded

    if texts == [STDIN]:
        if sys.stdin is None:
            raise ConfigurationError(
                "-: expected texts on stdin, found it closed; pipe them in, or name a file: --from FILE"
            )
        rows = from_lines(task, decoded(typer.get_binary_stream("stdin").read(), "stdin"))
    else:
        width = len(task.columns)
        if len(texts) % width:
            raise ConfigurationError(f"task {task.name} reads pairs: expected an even number of texts")
        texts = [decoded(os.fsencode(text), f"text {number}") for number, text in enumerate(texts, start=1)]
        rows = [texts[start : start + width] for start in range(0, len(texts), width)]
    return pd.DataFrame(rows, columns=list(task.columns), dtype="str")


def from_lines(task: "Task", text: str) -> list[list[str]]:
    """The texts of each line that is not blank; a line ends where files of texts end one, at no other separator."""
    from mtlib.data.tsv import Fault, raise_faults

    rows, faults = [], []
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        row = line.rstrip("\n").split("\t") if task.is_pair else [line.rstrip("\n")]
        if not line.strip():
            continue
        if len(row) != len(task.columns) or not all(part.strip() for part in row):
            faults.append(Fault("stdin", number, None, "two texts with a tab between them", repr(line)[:60]))
        rows.append(row)
    raise_faults(faults)
    return rows


def from_file(task: "Task", path: Path, columns: list[str]) -> "pd.DataFrame":
    """The columns of a CSV file that the task reads: those named, else those of its own files, else the only ones."""
    from mtlib.data.plain import SEPARATORS, read_plain

    plain = read_plain(path)
    there = list(plain.frame)
    wanted = columns or list(task.columns)
    if not columns and not set(wanted) <= set(there) and len(there) == len(wanted):
        wanted = there
    if len(wanted) != len(task.columns) or not set(wanted) <= set(there):
        expected = f"--text with {len(task.columns)} of the columns"
        raise ConfigurationError(f"{path.name}: expected {expected} {', '.join(map(repr, there))}, found {wanted}")
    shown = f"{path.name}: separated by {plain.separator} ({SEPARATORS[plain.separator]!r}), {len(plain.frame)} rows"
    typer.echo(f"{shown}, text in {', '.join(wanted)}", err=True)
    return plain.frame[["id", *wanted] if "id" in there and "id" not in wanted else wanted]


def print_csv(table: "pd.DataFrame") -> None:
    """Write a table to stdout as CSV in UTF-8 whatever the terminal's encoding, numbers with six digits.

    A carriage return, which readers take for the end of a line, stands in quotes, and so do all words then.
    """
    returns = any("\r" in str(value) for value in table.select_dtypes(exclude="number").to_numpy().ravel())
    options = {"quoting": csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL, "float_format": "%.6g"}
    typer.echo(table.to_csv(index=False, lineterminator="\n", **options).encode(), nl=False)
