"""The report's tables and figures from one study's runs: what notebooks show and `mtlib tables` rebuilds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from mtlib.errors import MissingRunError
from mtlib.metrics import evenness
from mtlib.study import (
    ablation,
    analysis,
    calibration,
    comparisons,
    ensembles,
    figures,
    paper,
    pictures,
    statistics,
    tables,
)
from mtlib.study.ensembles import Ensemble, Soup
from mtlib.study.grids import Study
from mtlib.study.parts import THREE, ChoosingHalf, Dev, Part, ReportingHalf, System, Test, task_scores
from mtlib.study.planes import SentimentPlanes
from mtlib.tasks import TASKS
from mtlib.training.runs import Run

HALF = "reporting half of dev"

CAPTIONS = {
    **{f"table_{n}": f"{paper.TITLES[n]}, on dev, {{corpus}}, beside the report's Table {n}" for n in range(1, 7)},
    "table_7": f"All methods on the {HALF}, {{corpus}}, beside the report's dev scores",
    "table_8": "All methods on test, {corpus}, beside the report",
    "table_7_differences": f"All methods, {HALF}, {{corpus}}",
    "table_8_differences": "All methods, test, {corpus}",
    "table_seeds": f"Methods over seeds, {HALF}, {{corpus}}",
    "table_seeds_differences": f"Methods over seeds against the baseline, {HALF}, {{corpus}}",
    "table_calibration": f"Calibration, {HALF}, {{corpus}}",
    "table_figure_1a": "Neighbourhoods of the SST dev sentences, {corpus}",
    "table_figure_1b": "Cells of the confusion matrix that the report prints, SST dev, {corpus}",
}


class Report:
    """Everything that is told of a study's six methods; what is read once is kept.

    seeds: the seeds at which the methods are repeated; none are the preset's.
    best: the name of the method with the best mean on the choosing half of dev.
    systems: the methods, the ensemble, the ensemble without a gate, and a soup for each ancestor they share.
    """

    def __init__(self, study: Study, seeds: Sequence[int] = ()):
        self.study, self.title = study, study.corpus.title
        self.seeds = list(seeds or study.preset.seeds)
        self.planes = SentimentPlanes(study)
        self._differences: dict[Part, pd.DataFrame] = {}

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
        """The best of the six."""
        return ensembles.best(ensembles.score_table(self.methods, ChoosingHalf()))

    @cached_property
    def ensemble(self) -> Ensemble:
        """The ensemble behind the report's thresholds."""
        return ensembles.choose(self.methods, ChoosingHalf())

    @cached_property
    def systems(self) -> dict[str, System]:
        """Everything that Tables 7 and 8 compare."""
        ungated = Ensemble({task: self.methods for task in THREE}, {})
        return {**self.methods, "ensemble": self.ensemble, "ensemble, no gate": ungated, **self.soups}

    @cached_property
    def soups(self) -> dict[str, Soup]:
        """One soup for each ancestor that several of the methods share."""
        corpus, compute = self.study.corpus, self.study.train
        folder = Path(self.study.results) / "cache" / "soups"
        return {
            f"soup from {ancestor}": ensembles.soup(list(runs.values()), corpus, folder, compute=compute)
            for ancestor, runs in ensembles.families(self.methods).items()
        }

    def grid(self, number: int) -> pd.DataFrame:
        """Table 1 to 6, ours beside the report's, with what was trained for it, and what SMART did in Tables 2 and 3.

        Raises MissingRunError when none of its runs is there.
        """
        ours, runs = self.study.table(number)
        if not runs:
            raise MissingRunError("none of its runs is finished")
        ours["trained"] = [trained(run) for run in runs]
        if number in (2, 3):
            ours = pd.concat([ours, pd.DataFrame([ablation.realised(run) for run in runs])], axis=1)
        return tables.beside_paper(ours, number, keep_unrun=False)

    def all_methods(self, number: int, on: Part) -> pd.DataFrame:
        """Table 7 or 8: every system's scores on `on`, evenness, mean on all of dev, models to run, training time."""
        rows = []
        for name, system in self.systems.items():
            scores = task_scores(system, on)
            even = evenness({task: scores[task] for task in THREE})
            dev = {} if number == 8 else {"all of dev": task_scores(system, Dev())["mean"]}
            rows.append({"method": name} | scores | {"evenness": even} | dev | cost(system))
        return tables.beside_paper(pd.DataFrame(rows), number, keep_unrun=False)

    def differences(self, on: Part) -> pd.DataFrame:
        """Each method against the baseline, each way to combine them against the best, soups against the ensemble."""
        if on in self._differences:
            return self._differences[on]
        rivals = [name for name in self.systems if name not in self.methods]
        chosen = [("baseline", name) for name in self.methods if name != "baseline"]
        chosen += [(self.best, name) for name in rivals] + [("ensemble", name) for name in self.soups]
        self._differences[on] = comparisons.pairs(self.systems, chosen, on)
        return self._differences[on]

    def seeds_summary(self) -> pd.DataFrame:
        """Mean, deviation and t-interval of each method's scores over the seeds, on the reporting half."""
        rows = [
            {"method": name, "seed": seed} | task_scores(run, ReportingHalf())
            for seed, runs in self.repeats.items()
            for name, run in runs.items()
        ]
        return statistics.seeds_summary(pd.DataFrame(rows), ["method"])

    def seeds_differences(self) -> pd.DataFrame:
        """Each method over the seeds against the baseline over the seeds, on the reporting half."""
        systems = {name: [runs[name] for runs in self.repeats.values()] for name in paper.table(7)["method"][:-1]}
        return statistics.compare(systems, "baseline", ReportingHalf())

    @cached_property
    def test_is_labelled(self) -> bool:
        """Whether anything can be scored on test."""
        return ensembles.is_labelled(self.study.corpus, "test")

    def calibration(self) -> pd.DataFrame:
        """Calibration of the best method and of the ensemble on the reporting half, before and after scaling."""
        found = {self.best: self.methods[self.best], "ensemble": self.ensemble}
        parts = [calibration.calibration_table(s, ReportingHalf()).assign(system=name) for name, s in found.items()]
        table = pd.concat(parts, ignore_index=True)
        return table[["system", *table.columns.drop("system")]]

    def reliability(self, task: str) -> Figure:
        """Reliability on the reporting half: of the best method, before and after scaling, and of a real ensemble."""
        run, half = self.methods[self.best], ReportingHalf()
        frame = half.predictions(run, task)
        temperature = calibration.fit_temperature(run, ChoosingHalf(), task)
        frames = {self.best: frame, f"T = {temperature:.2f}": calibration.scaled(frame, temperature)}
        if list(self.ensemble.members[task]) != [self.best]:
            frames["ensemble"] = half.predictions(self.ensemble, task)
        return pictures.reliability_figure(frames, f"{figures.title_of(task)}, {self.title}")

    def sentiment(self) -> pd.DataFrame:
        """The best method's SST predictions on all of dev."""
        return Dev().predictions(self.methods[self.best], "sst")

    def figure_1b(self) -> Figure:
        """Confusion of SST dev by the best method, the report's printed cells in the caption."""
        frame = self.sentiment()
        shares = analysis.confusion(frame["label"], frame["prediction"], TASKS["sst"].classes)
        title = f"SST-5: {self.best}, {self.title}"
        return pictures.confusion_figure(shares, title=title, caption=paper.confusion_facts())

    def printed_cells(self) -> pd.DataFrame:
        """The cells of figure 1b that the report prints, and ours with their intervals."""
        frame, rows = self.sentiment(), []
        for (true, called), printed in paper.CONFUSION.items():
            predicted = frame.loc[frame["label"] == true, "prediction"]
            ours = analysis.mean_estimate(predicted == called)
            row = {"true class": true, "called": called, "share": ours.value, "low": ours.low, "high": ours.high}
            rows.append(row | {"share paper": printed, "share difference": ours.value - printed, "n": len(predicted)})
        return pd.DataFrame(rows)

    def qqp_confusion(self) -> Figure:
        """Confusion of QQP dev by the best method."""
        frame = Dev().predictions(self.methods[self.best], "qqp")
        shares = analysis.confusion(frame["label"], frame["prediction"], 2)
        names = ("different", "duplicate")
        return pictures.confusion_figure(shares, names, title=f"QQP: {self.best}, {self.title}")

    def sts_agreement(self) -> Figure:
        """Predicted against labelled similarity on STS dev by the best method."""
        return pictures.regression_figure(Dev().predictions(self.methods[self.best], "sts"))

    def error_by_length(self) -> Figure:
        """Error of the best method by the number of words, on dev."""
        frames = {task: Dev().predictions(self.methods[self.best], task) for task in THREE}
        return pictures.error_by_length_figure(
            {task: analysis.error_by_length(frame, self.study.corpus[task].dev) for task, frame in frames.items()}
        )

    def learning_curves(self) -> Figure:
        """Dev scores of the baseline by epoch."""
        return figures.learning_curves(self.study.baseline().history, title=f"Baseline, {self.title}")

    def figure_3(self) -> Figure:
        """Dev scores by epoch for the weights of Table 3."""
        ours, runs = self.study.table(3)
        if not runs:
            raise MissingRunError("none of its runs is finished")
        return figures.score_by_epoch(
            {f"λ = {weight:g}": run.history for weight, run in zip(ours["weight"], runs, strict=True)}
        )

    def method_differences(self) -> Figure:
        """Differences of Table 7's means and evennesses with their intervals."""
        found = self.differences(ReportingHalf()).query("task in ('mean', 'evenness')")
        return figures.differences(found.assign(system=found["system"] + " − " + found["against"]))

    def table(self, name: str) -> pd.DataFrame:
        """The table called `name`, one of `table_names`."""
        makers: dict[str, Callable[[], pd.DataFrame]] = {
            "table_7": lambda: self.all_methods(7, ReportingHalf()),
            "table_7_differences": lambda: self.differences(ReportingHalf()),
            "table_8": lambda: self.all_methods(8, Test()),
            "table_8_differences": lambda: self.differences(Test()),
            "table_seeds": self.seeds_summary,
            "table_seeds_differences": self.seeds_differences,
            "table_calibration": self.calibration,
            "table_figure_1a": lambda: self.planes.neighbourhoods,
            "table_figure_1b": self.printed_cells,
        }
        return makers[name]() if name in makers else self.grid(int(name.removeprefix("table_")))

    @property
    def table_names(self) -> list[str]:
        """What there is to tell here: without labels on test no Table 8, with one seed no differences over seeds."""
        without = {f"table_{number}" for number in range(1, 7)} - self.study.preset.grids.keys()
        without |= set() if self.test_is_labelled else {"table_8", "table_8_differences"}
        without |= set() if len(self.seeds) > 1 else {"table_seeds_differences"}
        return [name for name in CAPTIONS if name not in without]

    def write_table(self, name: str) -> pd.DataFrame:
        """Write the table called `name` into the study's folder, and return it as text to be shown."""
        table = self.table(name)
        tables.write_table(table, name, self.study.tables, caption=CAPTIONS[name].format(corpus=self.title))
        return tables.pretty(table)

    def write_figure(self, name: str, folder: str | Path) -> None:
        """Write the figure called `name` as PDF and PNG, and figure 1a as its page too."""
        figures.save(self.figures[name](), name, folder)
        if name == "figure_1a":
            self.planes.hover_page(folder)

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

    @property
    def figures(self) -> Mapping[str, Callable[[], Figure]]:
        """What makes each figure, by its file name."""
        return {
            "learning_curves": self.learning_curves,
            "figure_3": self.figure_3,
            "method_differences": self.method_differences,
            **{f"reliability_{task}": lambda task=task: self.reliability(task) for task in ("sst", "qqp")},
            "figure_1a": self.planes.figure,
            "figure_1b": self.figure_1b,
            "qqp_confusion": self.qqp_confusion,
            "sts_agreement": self.sts_agreement,
            "error_by_length": self.error_by_length,
        }


def trained(run: Run) -> str:
    """Epochs x steps x batch size, and the learning rate."""
    e = run.experiment
    return f"{e.epochs} x {e.steps} x {e.batch_size}, {e.learning_rate:g}"


def cost(system: System) -> dict[str, str | float]:
    """Models that run for one prediction of each task, and seconds of training, those of what they started from too."""
    if isinstance(system, Ensemble):
        models = [len(system.members[task]) for task in THREE]
        members = [run for task in THREE for run in system.members[task].values()]
    else:
        models, members = [1] * len(THREE), system.members if isinstance(system, Soup) else [system]
    trained = {run.id: run.seconds for member in members for run in ensembles.ancestry(member)}
    return {"models": ", ".join(map(str, models)), "seconds": sum(trained.values())}
