"""Sentence vectors by class, before and after training: measures of structure, t-SNE figures and an HTML page."""

import hashlib
import html
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.express
import seaborn
import sklearn
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_samples
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from mtlib.device import Device
from mtlib.encoders import find_encoder
from mtlib.errors import DataError
from mtlib.model import MultitaskModel
from mtlib.randomness import generator
from mtlib.study.cache import NO_CACHE, Cache, inference
from mtlib.study.plots import PALETTE, interval, panels
from mtlib.study.statistics import bootstrap_p, percentile_interval, resolve
from mtlib.tasks import SST
from mtlib.training.files import make_folder, storage, write_atomic

MEASURES = ("purity", "silhouette")
ORDERED_COLOURS = ("#B2182B", "#EF8A62", "#8C8C8C", "#67A9CF", "#2166AC")
"""For classes in order: red to blue through grey, told apart with every common colour vision."""


class AsFound:
    """The encoder of an experiment before any training. Like a run it has `experiment`, `identity` and `model()`."""

    def __init__(self, experiment: Any) -> None:
        self.experiment = experiment
        self.encoder = find_encoder(experiment.encoder, experiment.encoder_revision, experiment.seed)

    @property
    def identity(self) -> str:
        """The weights, and what turns them into sentence vectors."""
        return f"{self.encoder.fingerprint} {self.experiment.pooling} {self.experiment.max_tokens}"

    def model(self) -> MultitaskModel:
        """A model without heads, in evaluation mode."""
        encoder, tokenizer = self.encoder.load()
        options = {"pooling": self.experiment.pooling, "max_tokens": self.experiment.max_tokens}
        return MultitaskModel(encoder, tokenizer, (), **options).eval()


def sentence_vectors(source: Any, texts: Sequence[str], cache: Cache = NO_CACHE) -> np.ndarray:
    """Sentence vectors [texts, hidden] by the encoder of `source`, a run or `AsFound`, in its precision.

    They are kept in `cache` under the source's identity and the texts; the model is only loaded when they are not
    there.
    """
    texts, precision = list(texts), Device(source.experiment.precision).precision

    def compute() -> np.ndarray:
        with inference(source.model(), precision) as model:
            return model.embed(texts)

    return cache.array("vectors", [source.identity, precision, texts], compute)


def purities(vectors: np.ndarray, labels: np.ndarray, k: int = 10, *, metric: str = "cosine") -> np.ndarray:
    """Share of the `k` nearest neighbours (by `metric`) of each of the vectors [n, hidden] that have its label: [n].

    A plane of t-SNE wants the metric "euclidean". Raises DataError for n <= k.
    """
    vectors, labels = _checked(vectors, labels)
    if len(labels) <= k:
        raise DataError(f"neighbourhood purity: expected more than {k} examples, found {len(labels)}")
    neighbours = NearestNeighbors(n_neighbors=k, metric=metric).fit(vectors).kneighbors(return_distance=False)
    return (labels[neighbours] == labels[:, None]).mean(axis=1)


def chance_purity(labels: np.ndarray) -> float:
    """Expected purity of neighbours drawn at random: sum over classes of n_c (n_c - 1) / (n (n - 1))."""
    counts = np.unique(labels, return_counts=True)[1]
    return float((counts * (counts - 1)).sum() / (len(labels) * (len(labels) - 1)))


def silhouettes(vectors: np.ndarray, labels: np.ndarray, *, metric: str = "cosine") -> np.ndarray:
    """Silhouette coefficient of each of the vectors [n, hidden] grouped by labels: [n], in [-1, 1].

    Raises DataError for a single class.
    """
    vectors, labels = _checked(vectors, labels)
    if len(np.unique(labels)) < 2:
        raise DataError("silhouette: expected at least two classes, found one")
    return silhouette_samples(vectors, labels, metric=metric)


def _checked(vectors: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    vectors, labels = np.asarray(vectors), np.asarray(labels)
    if vectors.ndim != 2 or len(vectors) != len(labels):
        raise DataError(f"expected vectors [n, hidden] and labels [n], found {vectors.shape} and {labels.shape}")
    return vectors, labels


def structure(
    systems: Mapping[str, np.ndarray],
    labels: np.ndarray,
    baseline: str,
    k: int = 10,
    *,
    metric: str = "cosine",
    draws: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Purity and silhouette of each system's vectors [n, hidden], and their differences from the baseline's.

    Columns: system, measure, value, value low, value high, and of the difference from `baseline` on the same
    sentences difference, low, high, p, p_holm, resolved. Intervals (95 %) and p are from the bootstrap over
    sentences; their neighbours are not drawn again, so they say how far these sentences can be trusted, not how
    another pool would be arranged.
    """
    n, first = len(labels), list(systems).index(baseline)
    weights = generator(seed, "bootstrap structure", draws).multinomial(n, np.full(n, 1 / n), size=draws)
    rows = []
    for measure in MEASURES:
        columns = [
            purities(vectors, labels, k, metric=metric)
            if measure == "purity"
            else silhouettes(vectors, labels, metric=metric)
            for vectors in systems.values()
        ]
        measured = np.stack(columns, axis=1)  # [n, systems]
        drawn = weights @ measured / n  # [draws, systems]
        for index, name in enumerate(systems):
            value, change = measured[:, index].mean(), drawn[:, index] - drawn[:, first]
            low, high = percentile_interval(drawn[:, index], value)
            row = {"system": name, "measure": measure, "value": value, "value low": low, "value high": high}
            difference = value - measured[:, first].mean() if name != baseline else np.nan
            low, high = percentile_interval(change, difference)
            p = bootstrap_p(change) if name != baseline else np.nan
            rows.append(row | {"difference": difference, "low": low, "high": high, "p": p})
    table = resolve(pd.DataFrame(rows))
    return table.assign(resolved=table["resolved"].where(table["system"] != baseline, ""))


def structure_plot(table: pd.DataFrame, chance: float) -> Figure:
    """Purity and silhouette of every system of a `structure` table with 95 % intervals, the chance level dashed.

    Hollow: the difference from the baseline, the first, is not resolved.
    """
    systems = list(dict.fromkeys(table["system"]))
    figure, (left, right) = panels(2, height=0.6 + 0.24 * len(systems), sharey=True)
    for axes, measure, level in zip((left, right), MEASURES, (chance, 0.0), strict=True):
        for row in table[table["measure"] == measure].to_dict("records"):
            place, colour = systems.index(row["system"]), PALETTE[0] if row["resolved"] else "#555555"
            span = row["value"], row["value low"], row["value high"]
            interval(axes, place, *span, colour, row["resolved"] != "no")
        axes.axvline(level, color="#777777", linewidth=0.8, linestyle="--", zorder=0)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    left.set_yticks(range(len(systems)), systems)
    left.set(xlabel="neighbourhood purity (dashed: chance)", ylim=(len(systems) - 0.5, -0.5))
    right.set(xlabel="silhouette (dashed: no structure)")
    return figure


def tsne(
    vectors: np.ndarray, perplexity: float = 30, iterations: int = 3000, *, seed: int = 0, cache: Cache = NO_CACHE
) -> np.ndarray:
    """t-SNE of vectors [n, hidden] in the plane [n, 2], from their principal components, with cosine distances.

    The same input gives the same bits: it runs on one thread. The result is kept in `cache`.
    """
    unit = np.ascontiguousarray(vectors, np.float32)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    settings = {"perplexity": float(perplexity), "max_iter": int(iterations), "random_state": seed}

    def compute() -> np.ndarray:
        with threadpool_limits(1):
            return TSNE(init="pca", n_jobs=1, **settings).fit_transform(unit)

    weights = hashlib.sha256(unit.tobytes()).hexdigest()
    return cache.array("tsne", [weights, unit.shape, settings, sklearn.__version__], compute)


def ordered_colours(count: int) -> list[str]:
    """Colours of so many classes in order: ORDERED_COLOURS of five, else as many from red to blue through white."""
    if count == len(ORDERED_COLOURS):
        return list(ORDERED_COLOURS)
    return seaborn.color_palette("RdBu", count).as_hex()


def tsne_plot(
    planes: Mapping[str, np.ndarray], labels: np.ndarray, names: Sequence[str] = SST.names, columns: int = 3
) -> Figure:
    """t-SNE planes [n, 2] side by side, by title, coloured by class (figure 1a). The axes of t-SNE have no unit."""
    labels, lines = np.asarray(labels), max(title.count("\n") + 1 for title in planes)
    columns = min(columns, len(planes))
    figure, places = panels(len(planes), columns, height=min(3.0, 5.5 / columns) + 0.14 * lines)
    colours = ordered_colours(len(names))
    for axes, (title, plane) in zip(places, planes.items(), strict=True):
        for index in range(len(names)):
            axes.scatter(*plane[labels == index].T, s=3, color=colours[index], linewidths=0, alpha=0.8)
        axes.set(title=title, xticks=[], yticks=[])
        axes.spines[:].set_visible(True)
    handles = [
        Line2D([], [], marker="o", linestyle="", color=colour, label=name)
        for name, colour in zip(names, colours, strict=True)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(names), handletextpad=0.1)
    return figure


def tsne_page(
    planes: Mapping[str, np.ndarray],
    labels: np.ndarray,
    texts: Sequence[str],
    path: str | Path,
    names: Sequence[str] = SST.names,
    title: str = "t-SNE",
) -> Path:
    """Write the planes as one HTML page whose points show their sentence and label; it asks nothing of the network.

    Returns its path; raises StorageError when it cannot be written.
    """
    path, wrapped = Path(path), ["<br>".join(map(html.escape, textwrap.wrap(text, 60))) for text in texts]
    classes = [names[int(label)] for label in labels]
    frames = []
    for name, plane in planes.items():
        frame = pd.DataFrame({"x": plane[:, 0], "y": plane[:, 1], "class": classes, "sentence": wrapped})
        frames.append(frame.assign(plane=html.escape(name).replace("\n", "<br>")))
    colours = {
        "color_discrete_map": dict(zip(names, ordered_colours(len(names)), strict=True)),
        "category_orders": {"class": names},
    }
    facets = {"facet_col": "plane", "facet_col_wrap": 2, "height": 650 * -(-len(planes) // 2)}
    hover = {"hover_name": "sentence", "hover_data": {"x": False, "y": False, "plane": False}}
    figure = plotly.express.scatter(
        pd.concat(frames),
        x="x",
        y="y",
        color="class",
        title=html.escape(title),
        template="plotly_white",
        **colours,
        **facets,
        **hover,
    )
    figure.for_each_annotation(lambda note: note.update(text=note.text.removeprefix("plane=")))
    figure.update_xaxes(visible=False, matches=None).update_yaxes(visible=False, matches=None)
    page = figure.to_html(include_plotlyjs=True, include_mathjax=False, div_id="tsne", config={"displaylogo": False})
    with storage("create", path.parent):
        make_folder(path.parent.absolute())
    write_atomic(path, page.encode())
    return path
