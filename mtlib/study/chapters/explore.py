"""Notebook 09: every finished run on a corpus, the user's own too, and any two of them side by side."""

from functools import cached_property
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from mtlib.config import Experiment
from mtlib.errors import ConfigurationError
from mtlib.metrics import evenness
from mtlib.study import comparisons, ensembles, figures, pictures
from mtlib.study.chapters.chapter import HALF, Chapter, figure, table, trained
from mtlib.study.chapters.methods import cost
from mtlib.study.grids import Study
from mtlib.study.parts import THREE, ChoosingHalf, ReportingHalf, task_scores
from mtlib.training.runs import Run, RunStore


class Explore(Chapter):
    """All runs of the three tasks on the study's corpus, whoever trained them, and two that are compared.

    run: id or name of the one looked at; none is the best on the choosing half. against: that of the other; none is the
    baseline, or annealed sampling where the baseline is looked at. Raises ConfigurationError for a run on other data.
    """

    def __init__(self, study: Study, folder: str | Path = "figures", run: str = "", against: str = ""):
        super().__init__(study, folder)
        self.asked = run, against

    @cached_property
    def runs(self) -> dict[str, Run]:
        """By id, those with the best mean on the choosing half first; baseline and annealed sampling are among them."""
        self.study.baseline(), self.study.sampled("annealed")
        found = {run.id: run for run in RunStore(self.study.results).all() if self._comparable(run)}
        quality = {name: task_scores(run, ChoosingHalf())["mean"] for name, run in found.items()}
        return {name: found[name] for name in sorted(found, key=lambda name: (-quality[name], name))}

    @cached_property
    def pair(self) -> tuple[Run, Run]:
        """The run looked at, and the one that it is compared with."""
        first = self._asked(self.asked[0]) if self.asked[0] else next(iter(self.runs.values()))
        if self.asked[1]:
            return first, self._asked(self.asked[1])
        baseline = self.study.baseline()
        return first, baseline if first.id != baseline.id else self.study.sampled("annealed")

    @table("table_runs", f"Every finished run, {HALF}, {{corpus}}; the best on the choosing half first")
    def table_runs(self) -> pd.DataFrame:
        """What each was trained with, its scores where nothing was chosen, and its cost."""
        rows = []
        for run in self.runs.values():
            scores = task_scores(run, ReportingHalf())
            scores["evenness"] = evenness({task: scores[task] for task in THREE})
            choosing = task_scores(run, ChoosingHalf())["mean"]
            rows.append(described(run) | scores | {"choosing": choosing, "seconds": cost(run)["seconds"]})
        return pd.DataFrame(rows)

    @table("table_two_runs", f"Two runs, {HALF}, {{corpus}}")
    def table_two_runs(self) -> pd.DataFrame:
        """The run looked at against the other, on the same examples."""
        run, other = self.pair
        found = comparisons.pairs({other.id: other, run.id: run}, [(other.id, run.id)], ReportingHalf())
        return found[comparisons.SHOWN]

    @figure("cost_and_quality")
    def cost_and_quality(self) -> Figure:
        """Mean of every run over what its training took."""
        return pictures.cost_figure(self.table("table_runs"), self.study.baseline().id)

    @figure("two_runs")
    def two_runs(self) -> Figure:
        """Dev scores by epoch of the two."""
        return figures.score_by_epoch({run.id: run.history for run in self.pair}, (*THREE, "mean"))

    def _comparable(self, run: Run) -> bool:
        if not (run.complete and isinstance(run.experiment, Experiment) and set(THREE) <= set(run.experiment.tasks)):
            return False
        return run.read("config.json")["corpus"]["fingerprint"] == self.study.corpus.fingerprint

    def _asked(self, reference: str) -> Run:
        run = RunStore(self.study.results).get(reference)
        if run.id not in self.runs:
            raise ConfigurationError(f"run {reference!r}: expected a run of {', '.join(THREE)} on {self.title}")
        return run


def described(run: Run) -> dict[str, str | int]:
    """A run's id, what sets it apart from others, and its seed."""
    e = run.experiment
    penalties = [f"{p.kind} {p.weight:g}" for p in e.penalties if p.weight]
    started = " < ".join(ancestor.experiment.name for ancestor in ensembles.ancestry(run)[1:])
    return {
        "run": run.id,
        "sampler": e.sampler.kind.replace("_", " "),
        "penalties": ", ".join(penalties) or "none",
        "start": started or "encoder",
        "trained": trained(run),
        "seed": e.seed,
    }
