"""Notebook 04: sentences of one sentiment, drawn together first."""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import mtlib
from mtlib.errors import MissingRunError
from mtlib.study import analysis, comparisons, figures, neighbourhoods
from mtlib.study.chapters.chapter import HALF, Chapter, differences, figure, table
from mtlib.study.measured import measured
from mtlib.study.parts import ReportingHalf, Stored, task_scores
from mtlib.training.runs import Run
from mtlib.training.start import Start


class Ranking(Chapter):
    """The encoder before and after multiple negatives ranking, and Table 4."""

    @cached_property
    def start(self) -> Start:
        """The encoder as it is found."""
        return self.study.start()

    @cached_property
    def pretrained(self) -> Run:
        """The preset's pretraining."""
        return self.study.pretrained()

    @cached_property
    def rankings(self) -> dict[str, Run]:
        """Pretraining at every K."""
        if not (found := self.study.rankings()):
            raise MissingRunError("none of the pretrainings is finished")
        return found

    @cached_property
    def chance(self) -> float:
        """The ranking loss of equal vectors."""
        return neighbourhoods.chance_loss(self.pretrained.experiment)

    @cached_property
    def first_loss(self) -> float:
        """The dev ranking loss before training."""
        run, corpus = self.pretrained, self.study.corpus

        def compute() -> pd.DataFrame:
            loss = neighbourhoods.ranking_loss(self.start.model().eval(), run.experiment, corpus)
            return pd.DataFrame({"dev_loss": [loss]})

        on = [run.identity, mtlib.__version__]
        return measured(self.cache / "measures", "ranking-loss", on, compute)["dev_loss"].item()

    @cached_property
    def labels(self) -> np.ndarray:
        """Classes of the SST dev sentences."""
        return self.study.corpus["sst"].dev["label"].to_numpy()

    @cached_property
    def vectors(self) -> dict[str, Mapping[str, np.ndarray]]:
        """SST sentence vectors of each encoder, "before" and by K: "train" and "dev" [n, hidden]."""
        corpus, folder = self.study.corpus, self.cache / "embeddings"
        before = self.start.model, neighbourhoods.weights(self.start)
        encoders = {"before": before} | {name: (run.model, run.identity) for name, run in self.rankings.items()}
        return {name: neighbourhoods.vectors(*encoder, corpus, cache=folder) for name, encoder in encoders.items()}

    @cached_property
    def probes(self) -> dict[str, Stored]:
        """A linear probe on each encoder's vectors."""
        return {name: neighbourhoods.probe(found, self.study.corpus) for name, found in self.vectors.items()}

    @cached_property
    def probed(self) -> pd.DataFrame:
        """Each probe against that of the untrained encoder, and larger K against the smallest; Holm's correction."""
        smallest, *others = self.rankings
        chosen = [("before", name) for name in self.rankings] + [(smallest, name) for name in others]
        found = comparisons.pairs(self.probes, chosen, ReportingHalf(), ["sst"]).query("task == 'sst'")
        return comparisons.resolve(found.drop(columns=["p_holm", "resolved"]))

    @cached_property
    def systems(self) -> dict[str, Run]:
        """The row that the report carries on with, and the same from the encoder as it is found."""
        return {"without MNRL": self.study.without_mnrl(), "after MNRL": self.study.best_mnrl()}

    @table("table_neighbourhoods", "Sentiment neighbourhoods of dev sentences, {corpus}")
    def structure(self) -> pd.DataFrame:
        """Purity and silhouette before and after."""
        on_dev = {name: found["dev"] for name, found in self.vectors.items()}
        return neighbourhoods.structure(on_dev, self.labels, "before", seed=self.study.seed)

    @table("table_ranking_sizes", f"K and masked false negatives at equal pairs seen, {{corpus}}; probe: {HALF}")
    def sizes(self) -> pd.DataFrame:
        """What each K cost, its loss, and what a probe reads from it."""
        rows = []
        for name, run in self.rankings.items():
            e, level = run.experiment, neighbourhoods.chance_loss(run.experiment)
            row = {"system": name, "steps": e.epochs * e.steps, "pairs": e.epochs * e.steps * e.batch_size}
            row |= {"chance": level, "dev loss": run.scores["dev_loss"], "seconds": run.seconds}
            rows.append(row | {"probe": task_scores(self.probes[name], ReportingHalf(), ["sst"])["sst"]})
        return pd.DataFrame(rows)

    @table("table_4")
    def table_4(self) -> pd.DataFrame:
        """Epochs of fine-tuning."""
        return self.grid(4)

    @table("table_mnrl_differences", f"With and without MNRL, {HALF}, {{corpus}}")
    def compared(self) -> pd.DataFrame:
        """With pretraining against without."""
        return comparisons.pairs(self.systems, [tuple(self.systems)], ReportingHalf(), self.tasks)

    @figure("pretraining")
    def losses(self) -> Figure:
        """Ranking loss by epoch."""
        return neighbourhoods.pretraining_figure(self.pretrained.history, self.chance, self.first_loss)

    @figure("neighbourhoods")
    def intervals(self) -> Figure:
        """The table of neighbourhoods as a figure."""
        chance = analysis.chance_purity(self.labels)
        return neighbourhoods.structure_figure(self.table("table_neighbourhoods"), chance)

    @figure("mnrl_scores")
    def score_by_epoch(self) -> Figure:
        """Dev scores by epoch with and without."""
        return figures.score_by_epoch({name: run.history for name, run in self.systems.items()})

    @figure("mnrl_differences")
    def differences(self) -> Figure:
        """The comparison's intervals."""
        return differences(self.table("table_mnrl_differences"))
