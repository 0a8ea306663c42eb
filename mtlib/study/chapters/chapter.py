"""What every chapter has: tables and figures by the name of their file, made, written and checked."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from matplotlib.figure import Figure

from mtlib.errors import MissingRunError, StorageError
from mtlib.study import figures, paper, tables
from mtlib.study.grids import Study
from mtlib.training.runs import Run

HALF = "reporting half of dev"


@dataclass(frozen=True)
class Table:
    """A method that makes a table, its decimals, and its caption, a format of {corpus} (its title) and {chapter}."""

    make: Callable[[Any], pd.DataFrame]
    caption: str
    digits: int


def table(name: str, caption: str = "", digits: int = 3):
    """Decorator of a chapter's method: it makes the table whose files are called `name`.

    Without a caption it is one of the report's grids, Tables 1 to 6.
    """
    if not caption:
        number = int(name.removeprefix("table_"))
        caption = f"{paper.TITLES[number]}, on dev, {{corpus}}, beside the report's Table {number}"

    def mark(method):
        method.table = name, Table(method, caption, digits)
        return method

    return mark


def figure(name: str):
    """Decorator of a chapter's method: it draws the figure whose files are called `name`."""

    def mark(method):
        method.figure = name, method
        return method

    return mark


class Chapter:
    """One notebook's tables and figures, from a study's runs.

    folder: where its figures are written; tables go to the study's own folder.
    """

    _tables: ClassVar[dict[str, Table]]
    _figures: ClassVar[dict[str, Callable[[Any], Figure]]]

    def __init_subclass__(cls):
        methods = vars(cls).values()
        cls._tables = dict(method.table for method in methods if hasattr(method, "table"))
        cls._figures = dict(method.figure for method in methods if hasattr(method, "figure"))

    def __init__(self, study: Study, folder: str | Path = "figures"):
        self.study, self.folder, self.title = study, Path(folder), study.corpus.title
        self.cache = Path(study.results) / "cache"
        self._made: dict[str, pd.DataFrame] = {}

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The study's tasks."""
        return self.study.experiment("baseline").tasks

    @property
    def table_names(self) -> list[str]:
        """Its tables, without grids that the preset does not have."""
        absent = {f"table_{number}" for number in range(1, 7)} - self.study.preset.grids.keys()
        return [name for name in self._tables if name not in absent]

    @property
    def figure_names(self) -> list[str]:
        """Its figures."""
        return list(self._figures)

    def table(self, name: str) -> pd.DataFrame:
        """The table called `name`, made once."""
        if name not in self._made:
            self._made[name] = self._tables[name].make(self)
        return self._made[name]

    def figure(self, name: str) -> Figure:
        """The figure called `name`, drawn anew."""
        return self._figures[name](self)

    def write_table(self, name: str) -> pd.DataFrame:
        """Write the table called `name` as CSV, Markdown and LaTeX, and return it as text to be shown."""
        made, found = self._tables[name], self.table(name)
        caption = made.caption.format(corpus=self.title, chapter=self)
        tables.write_table(found, name, self.study.tables, caption=caption, digits=made.digits)
        return tables.pretty(found, made.digits)

    def write_figure(self, name: str) -> Figure:
        """Write the figure called `name` as PDF and PNG, and return it to be shown.

        It is written first: drawing a figure for the screen moves what the file would show.
        """
        drawn = self.figure(name)
        figures.save(drawn, name, self.folder)
        return drawn

    def outputs(self) -> list[Path]:
        """Every file of the chapter; raises StorageError when one was not written, or is empty."""
        paths = [self.study.tables / f"{name}.{kind}" for name in self.table_names for kind in ("csv", "md", "tex")]
        paths += [self.folder / f"{name}.{kind}" for name in self.figure_names for kind in ("pdf", "png")]
        for path in paths:
            if not (path.is_file() and path.stat().st_size):
                raise StorageError(f"{path}: expected this notebook to have written it, found nothing")
        return paths

    def grid(self, number: int, more: Callable[[Run], dict[str, float]] | None = None) -> pd.DataFrame:
        """Table 1 to 6, ours beside the report's, with what was trained for it and what `more` tells of each run.

        Raises MissingRunError when none of its runs is there.
        """
        ours, runs = self.rows(number)
        ours = ours.assign(trained=[trained(run) for run in runs])
        if more:
            ours = pd.concat([ours, pd.DataFrame([more(run) for run in runs])], axis=1)
        return tables.beside_paper(ours, number, keep_unrun=False)

    def rows(self, number: int, *, whole: bool = False) -> tuple[pd.DataFrame, list[Run]]:
        """`Study.table`; raises MissingRunError when none of its runs is there, or `whole` and one is not."""
        ours, runs = self.study.table(number)
        missing = len(self.study.preset.grids[f"table_{number}"]) - len(runs)
        if not runs or (whole and missing):
            raise MissingRunError(f"{missing if runs else 'all'} of the runs of Table {number} are not finished")
        return ours, runs


def trained(run: Run) -> str:
    """Epochs x steps x batch size, and the learning rate."""
    e = run.experiment
    return f"{e.epochs} x {e.steps} x {e.batch_size}, {e.learning_rate:g}"


def differences(comparison: pd.DataFrame, before: str = "", between: str = " − ") -> Figure:
    """`figures.differences` of a table of `comparisons.pairs`, each row named by both its systems.

    before: a column whose text precedes the names.
    """
    names = comparison["system"] + between + comparison["against"]
    return figures.differences(comparison.assign(system=comparison[before] + ": " + names if before else names))
