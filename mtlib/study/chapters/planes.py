"""Notebook 07: the SST dev sentences in the plane, by the encoder as it is found and after ranking alone."""

from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mtlib.study import analysis, neighbourhoods, pictures
from mtlib.study.chapters.chapter import Chapter, figure, table
from mtlib.study.grids import Study


class Planes(Chapter):
    """Figure 1a: embeddings and t-SNE planes of the SST dev sentences, each kept in the results' cache.

    texts [n], labels [n]: the sentences.
    """

    def __init__(self, study: Study, folder: str | Path = "figures"):
        super().__init__(study, folder)
        dev = study.corpus["sst"].dev
        self.texts, self.labels = dev["text_a"].tolist(), dev["label"].to_numpy()

    @cached_property
    def embeddings(self) -> dict[str, np.ndarray]:
        """The SST dev sentences [n, hidden] by the encoder as it is found, and after MNRL alone."""
        start, mnrl = self.study.start(), self.study.pretrained()
        folder, weights = self.cache / "embeddings", neighbourhoods.weights(start)
        encoder = Path(start.experiment.encoder).name
        return {
            f"{encoder} as it is": analysis.embedded(start.model, weights, self.texts, cache=folder),
            "after MNRL alone": analysis.embedded(mnrl.model, mnrl.identity, self.texts, cache=folder),
        }

    @cached_property
    def planes(self) -> dict[tuple[str, float, int], np.ndarray]:
        """t-SNE [n, 2] of both encoders at every perplexity and number of iterations of the preset."""
        choices = self.study.preset.choices
        settings = choices["tsne_perplexities"], choices["tsne_iterations"]
        return {
            (name, *key): plane
            for name, vectors in self.embeddings.items()
            for key, plane in analysis.tsne_grid(vectors, *settings, cache=self.cache / "tsne").items()
        }

    @table("table_figure_1a", "Neighbourhoods of the SST dev sentences, {corpus}")
    def numbers(self) -> pd.DataFrame:
        """Silhouette and purity of 10 neighbours with their intervals: of the embeddings, and of every t-SNE plane."""
        spaces = {(name, "embeddings"): (vectors, "cosine") for name, vectors in self.embeddings.items()}
        spaces |= {(n, f"t-SNE {p:g}, {i}"): (plane, "euclidean") for (n, p, i), plane in self.planes.items()}
        rows = []
        for (name, space), (points, metric) in spaces.items():
            purity = analysis.neighbourhood_purity(points, self.labels, metric=metric)
            outline = analysis.silhouette(points, self.labels, metric=metric)
            row = {"encoder": name, "space": space, "purity": purity.value, "low": purity.low, "high": purity.high}
            rows.append(row | {"silhouette": outline.value, "from": outline.low, "to": outline.high})
        return pd.DataFrame(rows)

    def panels(self) -> dict[str, np.ndarray]:
        """Figure 1a's planes by title: encoder, setting, and the plane's own purity and silhouette."""
        numbers = self.table("table_figure_1a").set_index(["encoder", "space"])
        panels = {}
        for (name, p, i), plane in self.planes.items():
            row = numbers.loc[(name, f"t-SNE {p:g}, {i}")]
            span = f"purity {row['purity']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
            outline = f"silhouette {row['silhouette']:.2f} [{row['from']:.2f}, {row['to']:.2f}]"
            panels[f"{name}\nperplexity {p:g}, {i} iterations\n{span}\n{outline}"] = plane
        return panels

    @figure("figure_1a")
    def figure_1a(self) -> Figure:
        """t-SNE of the sentences: the encoder as it is, then after MNRL alone."""
        columns = max(2, len(self.study.preset.choices["tsne_iterations"]))
        return pictures.tsne_panels(self.panels(), self.labels, columns=columns)

    @property
    def page(self) -> Path:
        """Figure 1a as an HTML page whose points show their sentences."""
        return self.folder / "figure_1a.html"

    def write_figure(self, name: str) -> Figure:
        """Write figure 1a as PDF and PNG, and as `page`."""
        drawn = super().write_figure(name)
        title = f"SST dev sentences, {self.title}"
        pictures.tsne_page(self.panels(), self.labels, self.texts, self.page, title=title)
        return drawn
