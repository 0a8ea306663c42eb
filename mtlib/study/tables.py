"""Tables: ours beside the published ones, written as CSV, Markdown and LaTeX."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from mtlib.errors import ConfigurationError
from mtlib.study import paper
from mtlib.training.files import storage, write_atomic


def beside_paper(ours: pd.DataFrame, number: int, *, keep_unrun: bool = True) -> pd.DataFrame:
    """Our scores beside published table `number`: for each score the columns `x`, `x paper` and `x difference`.

    `ours` has the table's setting columns (`paper.settings(number)`), any of the columns qqp, sst, sts and mean, and
    any others (they are kept, at the end). Rows are matched by the settings' values, numbers as numbers. Published
    rows that were not run come with empty scores of ours unless `keep_unrun` is False; runs that the paper does not
    have come last. Raises ConfigurationError when a setting column is missing, or a setting occurs twice.
    """
    published, keys = paper.table(number), paper.settings(number)
    missing = [key for key in keys if key not in ours.columns]
    if missing:
        raise ConfigurationError(f"table {number}: expected the columns {keys}, found {list(ours.columns)}")
    theirs = {_key(row, keys): row for row in published.to_dict("records")}
    mine: dict[tuple, dict] = {}
    for row in ours.to_dict("records"):
        if _key(row, keys) in mine:
            raise ConfigurationError(f"table {number}: the setting {_key(row, keys)} occurs twice")
        mine[_key(row, keys)] = row
    order = [key for key in theirs if keep_unrun or key in mine] + [key for key in mine if key not in theirs]
    extras = [column for column in ours.columns if column not in keys + paper.METRICS]
    rows = []
    for key in order:
        left, right = mine.get(key, {}), theirs.get(key, {})
        row = {name: {**right, **left}[name] for name in keys}
        for metric in paper.METRICS:
            value, printed = left.get(metric, np.nan), right.get(metric, np.nan)
            row |= {metric: value, f"{metric} paper": printed, f"{metric} difference": round(value - printed, 10)}
        rows.append(row | {name: left.get(name, "") for name in extras})
    return pd.DataFrame(rows)


def _key(row: dict, keys: list[str]) -> tuple:
    return tuple(float(row[k]) if isinstance(row[k], (int, float, np.number)) else str(row[k]) for k in keys)


def write_table(
    table: pd.DataFrame, name: str, folder: str | Path = "results/tables", *, caption: str = "", digits: int = 3
) -> list[Path]:
    """Write `<folder>/<name>.csv` (full precision), `.md` and `.tex` (scores with `digits` decimals); the paths.

    `caption` heads the Markdown and LaTeX forms. Raises StorageError when the folder cannot be written.
    """
    folder = Path(folder)
    shown = pretty(table, digits).reset_index(drop=True)
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


def pretty(table: pd.DataFrame, digits: int = 3) -> pd.DataFrame:
    """The table as text: scores with `digits` decimals (what would round to 0 as 1.6e-06), nothing for NaN.

    Differences have a sign, settings are short, rows are not numbered.
    """
    cells = {name: [_cell(value, str(name), digits) for value in table[name]] for name in table.columns}
    return pd.DataFrame(cells, index=[""] * len(table))


def readable(table: pd.DataFrame) -> Styler:
    """A table with sentences to be shown in a notebook: they stand on the left, rows are not numbered."""
    words = [name for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])]
    heads = [{"selector": f"th.col{table.columns.get_loc(name)}", "props": "text-align: left"} for name in words]
    shown = table.style.hide(axis="index").format(precision=2)
    return shown.set_properties(subset=words, **{"text-align": "left"}).set_table_styles(heads)


def _cell(value, name: str, digits: int) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)):
        if np.isnan(value):
            return ""
        if name.split(" ")[-1] == "difference":
            return f"{value:+.{digits}f}"
        is_setting = float(value).is_integer() and abs(value) > 1 or name in ("learning_rate", "mu", "beta", "weight")
        is_bound = name.split(" ")[-1] in ("low", "high")
        if not (is_setting or is_bound) and 0 < abs(value) < 0.5 * 10**-digits:
            return f"{value:.1e}"
        return f"{value:g}" if is_setting else f"{value:.{digits}f}"
    return "" if value is None else str(value)


def _alignment(table: pd.DataFrame) -> str:
    return "".join("r" if pd.api.types.is_numeric_dtype(table[name]) else "l" for name in table.columns)


def _latex(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    return text


def _csv(table: pd.DataFrame) -> str:
    buffer = io.StringIO()
    table.to_csv(buffer, index=False, lineterminator="\n")
    return buffer.getvalue()
