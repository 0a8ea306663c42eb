"""Notebook 06: six methods, and what putting them together buys."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from mtlib.metrics import evenness
from mtlib.study import calibration, comparisons, ensembles, figures, paper, pictures, statistics, tables
from mtlib.study.chapters.chapter import HALF, Chapter, differences, figure, table
from mtlib.study.ensembles import Ensemble, Soup
from mtlib.study.grids import Study
from mtlib.study.parts import THREE, ChoosingHalf, Dev, Part, ReportingHalf, System, Test, task_scores
from mtlib.training.runs import Run


class Methods(Chapter):
    """Tables 7 and 8: the six methods, the ensemble and the soups.

    seeds: the seeds at which the methods are repeated; none are the preset's.
    """

    def __init__(self, study: Study, folder: str | Path = "figures", seeds: Sequence[int] = ()):
        super().__init__(study, folder)
        self.seeds = list(seeds or study.preset.seeds)

    @property
    def table_names(self) -> list[str]:
        """Its tables: without labels on test no Table 8, with one seed no differences over seeds."""
        without = set() if self.test_is_labelled else {"table_8", "table_8_differences"}
        without |= set() if len(self.seeds) > 1 else {"table_seeds_differences"}
        return [name for name in super().table_names if name not in without]

    @cached_property
    def methods(self) -> dict[str, Run]:
        """The study's six methods."""
        return self.study.methods()

    @cached_property
    def repeats(self) -> dict[int, dict[str, Run]]:
        """The six methods by seed: at every seed when there are several, else at the study's own."""
        if len(self.seeds) == 1:
            return {self.study.seed: self.methods}
        return {seed: self.study.at(seed).methods() for seed in self.seeds}

    @cached_property
    def best(self) -> str:
        """The method with the best mean on the choosing half of dev."""
        return ensembles.best(ensembles.score_table(self.methods, ChoosingHalf()))

    @cached_property
    def ensemble(self) -> Ensemble:
        """The ensemble behind the report's thresholds."""
        return ensembles.choose(self.methods, ChoosingHalf())

    @cached_property
    def systems(self) -> dict[str, System]:
        """The methods, the ensemble, the ensemble without a gate, and a soup for each ancestor they share."""
        ungated = Ensemble({task: self.methods for task in THREE}, {})
        return {**self.methods, "ensemble": self.ensemble, "ensemble, no gate": ungated, **self.soups}

    @cached_property
    def soups(self) -> dict[str, Soup]:
        """One soup for each ancestor that several of the methods share."""
        corpus, compute = self.study.corpus, self.study.train
        return {
            f"soup from {ancestor}": ensembles.soup(list(runs.values()), corpus, self.cache / "soups", compute=compute)
            for ancestor, runs in ensembles.families(self.methods).items()
        }

    @cached_property
    def test_is_labelled(self) -> bool:
        """Whether anything can be scored on test."""
        return ensembles.is_labelled(self.study.corpus, "test")

    @table("table_7", f"All methods on the {HALF}, {{corpus}}, beside the report's dev scores")
    def table_7(self) -> pd.DataFrame:
        """Every system on the half that chose nothing."""
        return self._all_methods(7, ReportingHalf())

    @table("table_7_differences", f"All methods, {HALF}, {{corpus}}")
    def compared(self) -> pd.DataFrame:
        """The systems against each other, on the half that chose nothing."""
        return self._differences(ReportingHalf())

    @table("table_8", "All methods on test, {corpus}, beside the report")
    def table_8(self) -> pd.DataFrame:
        """Every system on test."""
        return self._all_methods(8, Test())

    @table("table_8_differences", "All methods, test, {corpus}")
    def tested(self) -> pd.DataFrame:
        """The systems against each other, on test."""
        return self._differences(Test())

    @table("table_seeds", f"Methods over seeds, {HALF}, {{corpus}}")
    def seeds_summary(self) -> pd.DataFrame:
        """Mean, deviation and t-interval of each method's scores over the seeds, on the reporting half."""
        rows = [
            {"method": name, "seed": seed} | task_scores(run, ReportingHalf())
            for seed, runs in self.repeats.items()
            for name, run in runs.items()
        ]
        return statistics.seeds_summary(pd.DataFrame(rows), ["method"])

    @table("table_seeds_differences", f"Methods over seeds against the baseline, {HALF}, {{corpus}}")
    def seeds_compared(self) -> pd.DataFrame:
        """Each method over the seeds against the baseline over the seeds, on the reporting half."""
        systems = {name: [runs[name] for runs in self.repeats.values()] for name in paper.table(7)["method"][:-1]}
        return statistics.compare(systems, "baseline", ReportingHalf())

    @table("table_calibration", f"Calibration, {HALF}, {{corpus}}")
    def calibration(self) -> pd.DataFrame:
        """Calibration of the best method and of the ensemble on the reporting half, before and after scaling."""
        found = {self.best: self.methods[self.best], "ensemble": self.ensemble}
        parts = [calibration.calibration_table(s, ReportingHalf()).assign(system=name) for name, s in found.items()]
        joined = pd.concat(parts, ignore_index=True)
        return joined[["system", *joined.columns.drop("system")]]

    @figure("method_differences")
    def differences(self) -> Figure:
        """Differences of Table 7's means and evennesses with their intervals."""
        return differences(self.table("table_7_differences").query("task in ('mean', 'evenness')"))

    @figure("reliability_sst")
    def reliability_sst(self) -> Figure:
        """Reliability of sentiment."""
        return self._reliability("sst")

    @figure("reliability_qqp")
    def reliability_qqp(self) -> Figure:
        """Reliability of paraphrase."""
        return self._reliability("qqp")

    def _all_methods(self, number: int, on: Part) -> pd.DataFrame:
        """Table 7 or 8: every system's scores on `on`, evenness, mean on all of dev, models to run, training time."""
        rows = []
        for name, system in self.systems.items():
            scores = task_scores(system, on)
            even = evenness({task: scores[task] for task in THREE})
            dev = {} if number == 8 else {"all of dev": task_scores(system, Dev())["mean"]}
            rows.append({"method": name} | scores | {"evenness": even} | dev | cost(system))
        return tables.beside_paper(pd.DataFrame(rows), number, keep_unrun=False)

    def _differences(self, on: Part) -> pd.DataFrame:
        """Each method against the baseline, each way to combine them against the best, soups against the ensemble."""
        rivals = [name for name in self.systems if name not in self.methods]
        chosen = [("baseline", name) for name in self.methods if name != "baseline"]
        chosen += [(self.best, name) for name in rivals] + [("ensemble", name) for name in self.soups]
        return comparisons.pairs(self.systems, chosen, on)

    def _reliability(self, task: str) -> Figure:
        """On the reporting half: of the best method, before and after scaling, and of a real ensemble."""
        run, half = self.methods[self.best], ReportingHalf()
        frame = half.predictions(run, task)
        temperature = calibration.fit_temperature(run, ChoosingHalf(), task)
        frames = {self.best: frame, f"T = {temperature:.2f}": calibration.scaled(frame, temperature)}
        if list(self.ensemble.members[task]) != [self.best]:
            frames["ensemble"] = half.predictions(self.ensemble, task)
        return pictures.reliability_figure(frames, f"{figures.title_of(task)}, {self.title}")


def cost(system: System) -> dict[str, str | float]:
    """Models that run for one prediction of each task, and seconds of training, those of what they started from too."""
    if isinstance(system, Ensemble):
        models = [len(system.members[task]) for task in THREE]
        members = [run for task in THREE for run in system.members[task].values()]
    else:
        models, members = [1] * len(THREE), system.members if isinstance(system, Soup) else [system]
    seconds = {run.id: run.seconds for member in members for run in ensembles.ancestry(member)}
    return {"models": ", ".join(map(str, models)), "seconds": sum(seconds.values())}
