"""Notebook 01: the three tasks in turn."""

from functools import cached_property

import pandas as pd
from matplotlib.figure import Figure

from mtlib.study import figures, tables
from mtlib.study.chapters.chapter import Chapter, figure, table
from mtlib.study.grids import summary
from mtlib.training.runs import Run


class Baseline(Chapter):
    """The baseline run beside the report's row of Table 7."""

    @cached_property
    def run(self) -> Run:
        """Round robin, no penalty."""
        return self.study.baseline()

    @table("table_baseline", "Baseline on dev, {corpus}, beside the report")
    def beside_the_report(self) -> pd.DataFrame:
        """Its scores on all of dev, beside the report's."""
        ours = pd.DataFrame([{"method": "baseline"} | summary(self.run)])
        return tables.beside_paper(ours, 7, keep_unrun=False)

    @figure("learning_curves")
    def learning_curves(self) -> Figure:
        """Dev scores by epoch."""
        return figures.learning_curves(self.run.history, title=f"Baseline, {self.title}")
