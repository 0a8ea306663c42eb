"""The report's tables and figures from one study's runs: what notebooks show and `mtlib tables` rebuilds."""

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mtlib.errors import MissingRunError
from mtlib.metrics import evenness
from mtlib.study import analysis, calibration, comparisons, ensembles, figures, paper, pictures, tables
from mtlib.study.ensembles import Ensemble, Soup
from mtlib.study.grids import Study
from mtlib.study.parts import THREE, ChoosingHalf, Dev, Part, ReportingHalf, System, Test, task_scores
from mtlib.tasks import TASKS
from mtlib.training.runs import Run

HALF = "reporting half of dev"

CAPTIONS = {
    **{f"table_{number}": f"{paper.TITLES[number]}, on dev, {{corpus}}, beside the report" for number in range(1, 7)},
    "table_7": f"All methods on the {HALF}, {{corpus}}, beside the report's dev scores",
    "table_8": "All methods on test, {corpus}, beside the report",
    "table_7_differences": f"All methods, {HALF}, {{corpus}}",
    "table_8_differences": "All methods, test, {corpus}",
    "table_calibration": f"Calibration, {HALF}, {{corpus}}",
    "table_figure_1a": "Neighbourhoods of the SST dev sentences, {corpus}",
    "table_figure_1b": "Cells of the confusion matrix that the report prints, SST dev, {corpus}",
}


class Report:
    """Everything that is told of a study's six methods; what is read once is kept.

    best: the name of the method with the best mean on the choosing half of dev.
    systems: the methods, the ensemble, the ensemble without a gate, and a soup for each ancestor they share.
    """

    def __init__(self, study: Study):
        self.study, self.title = study, study.corpus.title
        self.cache = Path(study.results) / "cache"

    @cached_property
    def methods(self) -> dict[str, Run]:
        """The study's six methods."""
        return self.study.methods()

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
        corpus, folder, compute = self.study.corpus, self.cache / "soups", self.study.train
        return {
            f"soup of {ancestor}'s": ensembles.soup(list(runs.values()), corpus, folder, compute=compute)
            for ancestor, runs in ensembles.families(self.methods).items()
        }

    def grid(self, number: int) -> pd.DataFrame:
        """Table 1 to 6, ours beside the report's; raises MissingRunError when none of its runs is there."""
        ours, runs = self.study.table(number)
        if not runs:
            raise MissingRunError(f"table_{number}: none of its runs is finished")
        ours["trained"] = [f"{e.epochs} x {e.steps} x {e.batch_size}" for e in (run.experiment for run in runs)]
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
        rivals = [name for name in self.systems if name not in self.methods]
        chosen = [("baseline", name) for name in self.methods if name != "baseline"]
        chosen += [(self.best, name) for name in rivals] + [("ensemble", name) for name in self.soups]
        return comparisons.pairs(self.systems, chosen, on)

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
        """Reliability of the best method, before and after scaling, and of the ensemble, on the reporting half."""
        run, half = self.methods[self.best], ReportingHalf()
        frame = half.predictions(run, task)
        temperature = calibration.fit_temperature(run, ChoosingHalf(), task)
        frames = {self.best: frame, f"T = {temperature:.2f}": calibration.scaled(frame, temperature)}
        frames["ensemble"] = half.predictions(self.ensemble, task)
        return pictures.reliability_figure(frames, f"{figures.title_of(task)}, {self.title}", bins=10)

    @cached_property
    def sentiment_embeddings(self) -> dict[str, np.ndarray]:
        """The SST dev sentences [n, hidden] by the encoder as it is found, and after MNRL alone."""
        start, mnrl = self.study.start(), self.study.pretrained()
        e, texts, folder = start.experiment, self.study.corpus["sst"].dev["text_a"].tolist(), self.cache / "embeddings"
        found = f"{start.fingerprint} {e.pooling} {e.max_tokens}"
        return {
            f"{Path(e.encoder).name} as it is": analysis.embedded(start.model, found, texts, cache=folder),
            "after MNRL alone": analysis.embedded(mnrl.model, mnrl.identity, texts, cache=folder),
        }

    @cached_property
    def planes(self) -> dict[tuple[str, float, int], np.ndarray]:
        """t-SNE [n, 2] of both encoders at every perplexity and number of iterations of the preset."""
        choices = self.study.preset.choices
        settings = choices["tsne_perplexities"], choices["tsne_iterations"]
        return {
            (name, *key): plane
            for name, vectors in self.sentiment_embeddings.items()
            for key, plane in analysis.tsne_grid(vectors, *settings, cache=self.cache / "tsne").items()
        }

    def neighbourhoods(self) -> pd.DataFrame:
        """Silhouette and purity of 10 neighbours with their intervals: of the embeddings, and of every t-SNE plane."""
        spaces = {(name, "embeddings"): (vectors, "cosine") for name, vectors in self.sentiment_embeddings.items()}
        spaces |= {(n, f"t-SNE {p:g}, {i}"): (plane, "euclidean") for (n, p, i), plane in self.planes.items()}
        labels, rows = self.study.corpus["sst"].dev["label"].to_numpy(), []
        for (name, space), (points, metric) in spaces.items():
            purity = analysis.neighbourhood_purity(points, labels, metric=metric)
            outline = analysis.silhouette(points, labels, metric=metric)
            row = {"encoder": name, "space": space, "purity": purity.value, "low": purity.low, "high": purity.high}
            rows.append(row | {"silhouette": outline.value, "from": outline.low, "to": outline.high})
        return pd.DataFrame(rows)

    def tsne_panels(self) -> dict[str, np.ndarray]:
        """Figure 1a's planes by title: encoder, setting, and the plane's own purity and silhouette."""
        numbers = self.neighbourhoods().set_index(["encoder", "space"])
        panels = {}
        for (name, p, i), plane in self.planes.items():
            row = numbers.loc[(name, f"t-SNE {p:g}, {i}")]
            span = f"purity {row['purity']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
            outline = f"silhouette {row['silhouette']:.2f} [{row['from']:.2f}, {row['to']:.2f}]"
            panels[f"{name}\nperplexity {p:g}, {i} iterations\n{span}\n{outline}"] = plane
        return panels

    def figure_1a(self) -> Figure:
        """t-SNE of the SST dev sentences: the encoder as it is, then after MNRL alone."""
        columns = max(2, len(self.study.preset.choices["tsne_iterations"]))
        labels = self.study.corpus["sst"].dev["label"].to_numpy()
        return pictures.tsne_panels(self.tsne_panels(), labels, columns=columns)

    def hover_page(self, folder: str | Path) -> Path:
        """Figure 1a as one HTML file whose points show their sentences."""
        dev = self.study.corpus["sst"].dev
        texts, path = dev["text_a"].tolist(), Path(folder) / "figure_1a.html"
        title = f"SST dev sentences, {self.title}"
        return pictures.tsne_page(self.tsne_panels(), dev["label"].to_numpy(), texts, path, title=title)

    def sentiment(self) -> pd.DataFrame:
        """The best method's SST predictions on all of dev."""
        return Dev().predictions(self.methods[self.best], "sst")

    def figure_1b(self) -> Figure:
        """Confusion of SST dev by the best method, the report's printed cells in the caption."""
        frame = self.sentiment()
        shares = analysis.confusion(frame["label"], frame["prediction"], TASKS["sst"].classes)
        return pictures.confusion_figure(shares, title=f"{self.best}, {self.title}", caption=paper.confusion_facts())

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
        return pictures.confusion_figure(shares, ("different", "duplicate"), title=f"{self.best}, {self.title}")

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
            raise MissingRunError("figure_3: none of its runs is finished")
        return figures.score_by_epoch(
            {f"λ = {weight:g}": run.history for weight, run in zip(ours["weight"], runs, strict=True)}
        )

    def method_differences(self) -> Figure:
        """Differences of Table 7's systems with their intervals."""
        found = self.differences(ReportingHalf())
        return figures.differences(found.assign(system=found["system"] + " − " + found["against"]))

    def table(self, name: str) -> pd.DataFrame:
        """The table called `name`, one of `table_names`."""
        makers: dict[str, Callable[[], pd.DataFrame]] = {
            "table_7": lambda: self.all_methods(7, ReportingHalf()),
            "table_7_differences": lambda: self.differences(ReportingHalf()),
            "table_8": lambda: self.all_methods(8, Test()),
            "table_8_differences": lambda: self.differences(Test()),
            "table_calibration": self.calibration,
            "table_figure_1a": self.neighbourhoods,
            "table_figure_1b": self.printed_cells,
        }
        return makers[name]() if name in makers else self.grid(int(name.removeprefix("table_")))

    @property
    def table_names(self) -> list[str]:
        """Tables that this corpus and preset have: Table 8 needs labels on test, a grid its rows in the preset."""
        grids = self.study.preset.grids
        return [
            name
            for name in CAPTIONS
            if (self.test_is_labelled or not name.startswith("table_8")) and (name[6:] not in "123456" or name in grids)
        ]

    def write_table(self, name: str) -> pd.DataFrame:
        """Write the table called `name` into the study's folder, and return it as text to be shown."""
        table = self.table(name)
        tables.write_table(table, name, self.study.tables, caption=CAPTIONS[name].format(corpus=self.title))
        return tables.pretty(table)

    @property
    def figures(self) -> Mapping[str, Callable[[], Figure]]:
        """What makes each figure, by its file name."""
        return {
            "learning_curves": self.learning_curves,
            "figure_3": self.figure_3,
            "method_differences": self.method_differences,
            **{f"reliability_{task}": lambda task=task: self.reliability(task) for task in ("sst", "qqp")},
            "figure_1a": self.figure_1a,
            "figure_1b": self.figure_1b,
            "qqp_confusion": self.qqp_confusion,
            "sts_agreement": self.sts_agreement,
            "error_by_length": self.error_by_length,
        }


def cost(system: System) -> dict[str, str | float]:
    """Models that run for one prediction of each task, and seconds of training, those of what they started from too."""
    if isinstance(system, Ensemble):
        models = [len(system.members[task]) for task in THREE]
        members = [run for task in THREE for run in system.members[task].values()]
    else:
        models, members = [1] * len(THREE), system.members if isinstance(system, Soup) else [system]
    trained = {run.id: run.seconds for member in members for run in ensembles.ancestry(member)}
    return {"models": ", ".join(map(str, models)), "seconds": sum(trained.values())}
