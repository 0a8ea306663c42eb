"""All tables and figures of a study's notebooks by name: what `mtlib tables` and `mtlib figures` rebuild."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from mtlib.errors import MissingRunError
from mtlib.study.chapters import CHAPTERS
from mtlib.study.chapters.chapter import Chapter
from mtlib.study.grids import Study


class Report:
    """The chapters of a study.

    folder: where figures are written; tables go to the study's own folder.
    """

    def __init__(self, study: Study, folder: str | Path = "figures"):
        self.study = study
        self.chapters = {stage: chapter(study, folder) for stage, chapter in CHAPTERS.items()}
        chapters = self.chapters.values()
        self.tables: dict[str, Chapter] = {name: chapter for chapter in chapters for name in chapter.table_names}
        self.figures: dict[str, Chapter] = {name: chapter for chapter in chapters for name in chapter.figure_names}

    def write_table(self, name: str) -> pd.DataFrame:
        """Write the table called `name`, as its notebook does."""
        return self.tables[name].write_table(name)

    def write_figure(self, name: str) -> Figure:
        """Write the figure called `name`, as its notebook does."""
        return self.figures[name].write_figure(name)

    def write_all(self, names: Iterable[str], write: Callable[[str], object]) -> list[str]:
        """The names that `write` could write; why the others could not goes to the study's `missing`."""
        written = []
        for name in names:
            try:
                write(name)
            except MissingRunError as error:
                self.study.missing.append(f"{name}: {error}")
            else:
                written.append(name)
        return written
