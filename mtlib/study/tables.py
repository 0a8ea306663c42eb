"""Tables: ours beside the published ones, shown in notebooks, written as CSV, Markdown and LaTeX."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from mtlib.errors import ConfigurationError
from mtlib.study import paper
from mtlib.tasks import TASKS
from mtlib.training.files import storage, write_atomic

SETTINGS = ("learning_rate", "weight", "decay", "radius")
"""Columns whose numbers are shown as they were set, not with a score's decimals."""


SENTENCES = "T_readable"
"""Id of HTML with sentences of a corpus: `make reference` cuts it out of the notebooks that it keeps."""


def beside_paper(scores: pd.DataFrame, number: int, *, short: bool = False) -> pd.DataFrame:
    """Our scores beside published table `number`, matched by the rows' names: the paper's rows in its order, then ours.

    scores: a row a run, under the label that the paper's row has (`paper.table`) or any other: a control, whose cells
    of the paper are empty. Published rows that are not among them are left out. Columns: of qqp, sst, sts and mean
    `x`, `x paper` and `x difference`; evenness; `trained` and `trained paper`, where scores have the first; then what
    else scores have. A row's mean of other tasks than these three has no published one beside it.
    short: without the differences of tasks and what else there is, as fits on a screen.
    Raises ConfigurationError when a name occurs twice.
    """
    if not scores.index.is_unique:
        raise ConfigurationError(f"table {number}: the row {scores.index[scores.index.duplicated()][0]!r} occurs twice")
    published = paper.table(number)
    known = [label for label in published.index if label in scores.index]
    ours = scores.loc[known + [label for label in scores.index if label not in published.index]]
    theirs, columns = published.reindex(ours.index), {}
    published_tasks = set(paper.METRICS) - {"mean"}
    scored = ours[[column for column in ours if column in TASKS]].notna()
    theirs["mean"] = theirs["mean"].where([set(scored.columns[row]) == published_tasks for row in scored.to_numpy()])
    for metric in paper.METRICS:
        columns[metric] = ours[metric] if metric in ours else np.nan
        columns[f"{metric} paper"] = theirs[metric]
        if metric == "mean" or not short:
            columns[f"{metric} difference"] = (columns[metric] - theirs[metric]).round(10)
    if "evenness" in ours:
        columns["evenness"] = ours["evenness"]
    if "trained" in ours:
        columns["trained"] = ours["trained"]
        rows = {label: paper.settings(number, label) for label in known}
        columns["trained paper"] = pd.Series({label: trained(**row) if row else "" for label, row in rows.items()})
    table = pd.DataFrame(columns, ours.index).rename_axis(published.index.name)
    if "trained paper" in table:
        table["trained paper"] = table["trained paper"].fillna("")
    return table if short else table.join(ours.drop(columns=table.columns, errors="ignore"))


def trained(*, epochs: int, steps_per_epoch: int, batch_size: int, learning_rate: float, **_: object) -> str:
    """Epochs x steps x batch size, and the learning rate, such as "10 x 2000 x 16, 1e-05"; other settings are ignored.

    Of an experiment: `trained(**dict(experiment))`. Of a published row: `trained(**paper.settings(2, "λ = 15"))`.
    """
    return f"{epochs} x {steps_per_epoch} x {batch_size}, {learning_rate:g}"


def write_table(
    table: pd.DataFrame, name: str, folder: str | Path = "results/tables", *, caption: str = "", digits: int = 3
) -> list[Path]:
    """Write `<folder>/<name>.csv` (full precision), `.md` and `.tex` (scores with `digits` decimals); the paths.

    Names of rows become the first column; unnamed numbers of rows are left out. `caption` heads the Markdown and LaTeX
    forms. Raises StorageError when the folder cannot be written.
    """
    folder, table = Path(folder), _flat(table)
    shown = pretty(table, digits=digits).reset_index(drop=True)
    texts = {
        "csv": _csv(table),
        "md": (f"**{caption}**\n\n" if caption else "") + shown.to_markdown(index=False, disable_numparse=True) + "\n",
        "tex": shown.style.hide(axis="index")
        .format(escape="latex")
        .format_index(escape="latex", axis=1)
        .to_latex(hrules=True, column_format=_alignment(table), caption=_latex(caption) if caption else None),
    }
    paths = [folder / f"{name}.{suffix}" for suffix in texts]
    with storage("create", folder):
        folder.mkdir(parents=True, exist_ok=True)
    for path, text in zip(paths, texts.values(), strict=True):
        write_atomic(path, text.encode())
    return paths


def pretty(table: pd.DataFrame, columns: Sequence[str] | None = None, *, digits: int = 3) -> pd.DataFrame:
    """The table as text: scores with `digits` decimals (what would round to 0 as 1.6e-06), nothing for NaN.

    columns: those shown, of those that are there. Differences have a sign, settings are short, rows are not numbered;
    names of rows stay. What a notebook shows of it is escaped by pandas.
    """
    shown = table[[name for name in columns if name in table] if columns else list(table.columns)]
    cells = {name: [_cell(value, str(name), digits) for value in shown[name]] for name in shown.columns}
    return pd.DataFrame(cells, index=[""] * len(table) if _numbered(table) else table.index)


def readable(table: pd.DataFrame) -> Styler:
    """A table with sentences to be shown in a notebook: they stand on the left, rows are not numbered.

    Whatever a sentence holds, it is text and no HTML.
    """
    words = [name for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])]
    heads = [{"selector": f"th.col{table.columns.get_loc(name)}", "props": "text-align: left"} for name in words]
    shown = table.style.set_uuid(SENTENCES.removeprefix("T_")).hide(axis="index").format(precision=2, escape="html")
    shown = shown.format_index(escape="html", axis=1)
    return shown.set_properties(subset=words, **{"text-align": "left"}).set_table_styles(heads)


def signed(value: float, digits: int = 3) -> str:
    """A difference, or a limit of one, with its sign; what `digits` decimals would show as 0, with one digit: -4e-05.

    >>> signed(0.0123), signed(0.0004), signed(0.0)
    ('+0.012', '+0.0004', '+0.000')
    """
    return f"{value:+.1g}" if _small(value, digits) else f"{value:+.{digits}f}"


def _small(value: float, digits: int) -> bool:
    return 0 < abs(value) < 0.5 * 10**-digits


def _numbered(table: pd.DataFrame) -> bool:
    """Whether rows have numbers in place of names; a selection of such a table keeps its rows' numbers."""
    return table.index.name is None and pd.api.types.is_integer_dtype(table.index)


def _flat(table: pd.DataFrame) -> pd.DataFrame:
    return table if _numbered(table) else table.reset_index(names=table.index.name or "row")


def _cell(value: Any, name: str, digits: int) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)):
        last = name.split(" ")[-1]
        if np.isnan(value):
            return ""
        if last == "difference":
            return signed(value, digits)
        if last in ("low", "high"):
            return f"{value:.1g}" if _small(value, digits) else f"{value:.{digits}f}"
        if name in SETTINGS:
            return f"{value:.4g}"
        if float(value).is_integer() and abs(value) > 1:
            return f"{value:.0f}"
        if last == "seconds":
            return f"{value:.0f}"
        if _small(value, digits):
            return f"{value:.1e}"
        return f"{value:.{digits}f}"
    return "" if value is None or value is pd.NA else str(value)


def _alignment(table: pd.DataFrame) -> str:
    return "".join("r" if pd.api.types.is_numeric_dtype(table[name]) else "l" for name in table.columns)


def _latex(text: str) -> str:
    names = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    names |= {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(names.get(character, character) for character in text)


def _csv(table: pd.DataFrame) -> str:
    buffer = io.StringIO()
    table.to_csv(buffer, index=False, lineterminator="\n")
    return buffer.getvalue()
