"""Figure 1a: the SST dev sentences in the plane, by the encoder as it is found and after ranking alone."""

from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mtlib.study import analysis, pictures
from mtlib.study.grids import Study


class SentimentPlanes:
    """Embeddings and t-SNE planes of a study's SST dev sentences, each computed once and kept in the results' cache.

    texts [n], labels [n]: the sentences.
    """

    def __init__(self, study: Study):
        self.study, self.cache = study, Path(study.results) / "cache"
        dev = study.corpus["sst"].dev
        self.texts, self.labels = dev["text_a"].tolist(), dev["label"].to_numpy()

    @cached_property
    def embeddings(self) -> dict[str, np.ndarray]:
        """The SST dev sentences [n, hidden] by the encoder as it is found, and after MNRL alone."""
        start, mnrl = self.study.start(), self.study.pretrained()
        e, folder = start.experiment, self.cache / "embeddings"
        found = f"{start.fingerprint} {e.pooling} {e.max_tokens}"
        return {
            f"{Path(e.encoder).name} as it is": analysis.embedded(start.model, found, self.texts, cache=folder),
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

    @cached_property
    def neighbourhoods(self) -> pd.DataFrame:
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
        numbers = self.neighbourhoods.set_index(["encoder", "space"])
        panels = {}
        for (name, p, i), plane in self.planes.items():
            row = numbers.loc[(name, f"t-SNE {p:g}, {i}")]
            span = f"purity {row['purity']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
            outline = f"silhouette {row['silhouette']:.2f} [{row['from']:.2f}, {row['to']:.2f}]"
            panels[f"{name}\nperplexity {p:g}, {i} iterations\n{span}\n{outline}"] = plane
        return panels

    def figure(self) -> Figure:
        """t-SNE of the sentences: the encoder as it is, then after MNRL alone."""
        columns = max(2, len(self.study.preset.choices["tsne_iterations"]))
        return pictures.tsne_panels(self.panels(), self.labels, columns=columns)

    def hover_page(self, folder: str | Path) -> Path:
        """The same as one HTML file, `figure_1a.html`, whose points show their sentences."""
        title = f"SST dev sentences, {self.study.corpus.title}"
        return pictures.tsne_page(self.panels(), self.labels, self.texts, Path(folder) / "figure_1a.html", title=title)
