"""Notebook 02: which task trains next."""

from functools import cached_property

import pandas as pd
from matplotlib.figure import Figure

from mtlib.samplers import Annealed
from mtlib.study import comparisons, figures, paper, sampling
from mtlib.study.chapters.chapter import HALF, Chapter, differences, figure, table
from mtlib.study.grids import summary
from mtlib.study.parts import ReportingHalf
from mtlib.training.runs import Run


class Annealing(Chapter):
    """Four samplers at equal steps, and Table 1."""

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Training examples of each task."""
        return {task: len(self.study.corpus[task].train) for task in self.tasks}

    @cached_property
    def runs(self) -> dict[str, Run]:
        """A run of each sampler."""
        return self.study.samplers()

    @cached_property
    def published(self) -> pd.DataFrame:
        """Annealed sampling's probabilities for the report's data over ten epochs."""
        return sampling.probabilities(Annealed(), paper.TRAINING_SIZES, 10)

    @table("table_sampler_draws", "Batches by task and sampler, {corpus}", digits=2)
    def draws(self) -> pd.DataFrame:
        """Batches drawn and expected."""
        return sampling.totals(self.runs, self.sizes)

    @table("table_samplers", "Samplers at equal steps, {corpus}")
    def scores(self) -> pd.DataFrame:
        """Scores on all of dev."""
        return pd.DataFrame([{"sampler": name} | summary(run) for name, run in self.runs.items()])

    @table("table_sampler_differences", f"Samplers, {HALF}, {{corpus}}")
    def compared(self) -> pd.DataFrame:
        """Each sampler against round robin, and annealed against the other two."""
        against = [("round robin", name) for name in self.runs if name != "round robin"]
        against += [(name, "annealed") for name in ("proportional", "square root")]
        return comparisons.pairs(self.runs, against, ReportingHalf(), self.tasks)

    @table("table_1")
    def table_1(self) -> pd.DataFrame:
        """Batch sizes and steps."""
        return self.grid(1)

    @figure("sampling")
    def probabilities(self) -> Figure:
        """Probabilities and draws by epoch."""
        panels = {name: sampling.draws(run, self.sizes) for name, run in self.runs.items()}
        return sampling.sampling_figure(panels | {"annealed,\nthe report's data": self.published}, order=self.tasks)

    @figure("samplers")
    def score_by_epoch(self) -> Figure:
        """Dev scores by epoch."""
        return figures.score_by_epoch({name: run.history for name, run in self.runs.items()})

    @figure("sampler_differences")
    def differences(self) -> Figure:
        """The comparison's intervals."""
        return differences(self.table("table_sampler_differences"))
