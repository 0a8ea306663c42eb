"""Notebook 08: what the best method gets wrong."""

from functools import cached_property
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from mtlib.study import analysis, paper, pictures
from mtlib.study.chapters.chapter import Chapter, figure, table
from mtlib.study.chapters.methods import Methods
from mtlib.study.grids import Study
from mtlib.study.parts import THREE, Dev, ReportingHalf, Test
from mtlib.tasks import TASKS
from mtlib.training.runs import Run


class Errors(Chapter):
    """The mistakes of the best of the six methods, on all of dev where nothing else is said."""

    def __init__(self, study: Study, folder: str | Path = "figures"):
        super().__init__(study, folder)
        self.methods = Methods(study, folder)

    @property
    def best(self) -> str:
        """The method's name."""
        return self.methods.best

    @cached_property
    def run(self) -> Run:
        """The method's run."""
        return self.methods.methods[self.best]

    @cached_property
    def frames(self) -> dict[str, pd.DataFrame]:
        """Its dev predictions of each task."""
        return {task: Dev().predictions(self.run, task) for task in THREE}

    @cached_property
    def lengths(self) -> dict[str, pd.DataFrame]:
        """Error by the number of words, for each task."""
        corpus = self.study.corpus
        return {task: analysis.error_by_length(frame, corpus[task].dev) for task, frame in self.frames.items()}

    @table("table_figure_1b", "Cells of the confusion matrix that the report prints, SST dev, {corpus}")
    def printed_cells(self) -> pd.DataFrame:
        """The cells of figure 1b that the report prints, and ours with their intervals."""
        frame, rows = self.frames["sst"], []
        for (true, called), printed in paper.CONFUSION.items():
            predicted = frame.loc[frame["label"] == true, "prediction"]
            ours = analysis.mean_estimate(predicted == called)
            row = {"true class": true, "called": called, "share": ours.value, "low": ours.low, "high": ours.high}
            rows.append(row | {"share paper": printed, "share difference": ours.value - printed, "n": len(predicted)})
        return pd.DataFrame(rows)

    @table("table_sentiment_errors", "Errors of {chapter.best} on SST, {corpus}")
    def how_far(self) -> pd.DataFrame:
        """Accuracy, recalls, and how far off the mistakes are, on dev, its reporting half, and a labelled test."""
        where = {"all of dev": Dev(), "reporting half of dev": ReportingHalf()}
        where |= {"test": Test()} if self.methods.test_is_labelled else {}
        rows = {}
        for name, part in where.items():
            frame = part.predictions(self.run, "sst")
            rows[name] = analysis.ordinal_summary(frame["label"], frame["prediction"], TASKS["sst"].classes)
        return pd.DataFrame(rows).T.rename_axis("part").reset_index()

    @table("table_recall", "Recall by class, SST dev, {corpus}")
    def recalls(self) -> pd.DataFrame:
        """Recall of each class with its interval, and the shares called lower and higher."""
        rows = []
        for label, group in self.frames["sst"].groupby("label"):
            recall = analysis.mean_estimate(group["prediction"] == label)
            row = {"class": pictures.SENTIMENTS[label], "n": len(group), "recall": recall.value, "low": recall.low}
            below, above = (group["prediction"] < label).mean(), (group["prediction"] > label).mean()
            rows.append(row | {"high": recall.high, "called lower": below, "called higher": above})
        return pd.DataFrame(rows)

    @figure("figure_1b")
    def figure_1b(self) -> Figure:
        """Confusion of SST, the report's printed cells in the caption."""
        frame = self.frames["sst"]
        shares = analysis.confusion(frame["label"], frame["prediction"], TASKS["sst"].classes)
        title = f"SST-5: {self.best}, {self.title}"
        return pictures.confusion_figure(shares, title=title, caption=paper.confusion_facts())

    @figure("error_by_length")
    def error_by_length(self) -> Figure:
        """Error by the number of words."""
        return pictures.error_by_length_figure(self.lengths)

    @figure("qqp_confusion")
    def qqp_confusion(self) -> Figure:
        """Confusion of QQP."""
        frame = self.frames["qqp"]
        shares = analysis.confusion(frame["label"], frame["prediction"], 2)
        names = ("different", "duplicate")
        return pictures.confusion_figure(shares, names, title=f"QQP: {self.best}, {self.title}")

    @figure("sts_agreement")
    def sts_agreement(self) -> Figure:
        """Predicted against labelled similarity."""
        return pictures.regression_figure(self.frames["sts"])
