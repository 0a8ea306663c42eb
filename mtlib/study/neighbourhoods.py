"""What ranking did to sentence vectors: neighbourhoods by class and a linear probe, before and after; with figures."""

from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_samples
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mtlib.config import Pretraining
from mtlib.data.batches import TokenizedSplit
from mtlib.data.corpus import Corpus
from mtlib.model import MultitaskModel
from mtlib.objectives.ranking import class_distinct_batch, multiple_negatives_ranking_loss
from mtlib.randomness import generator
from mtlib.study import analysis
from mtlib.study.figures import COLUMN_WIDTH, PAGE_WIDTH, PALETTE, use_style
from mtlib.study.parts import Stored
from mtlib.study.statistics import bootstrap_p, percentile_interval, resolve
from mtlib.tasks import TASKS
from mtlib.training.device import Device
from mtlib.training.pretraining import DEV_BATCHES
from mtlib.training.start import Start

MEASURES = ("purity", "silhouette")


def chance_loss(settings: Pretraining) -> float:
    """The ranking loss of equal vectors: log of the number of columns a row is ranked against, log K unless masked.

    With masked columns it is the mean over rows, for classes that repeat as evenly as K allows.
    """
    pairs, classes = settings.batch_size, TASKS[settings.task].classes
    if settings.false_negatives == "keep":
        return float(np.log(pairs))
    repeats = np.array([pairs // classes + (index < pairs % classes) for index in range(classes)])
    return float((repeats * np.log(pairs - repeats + 1)).sum() / pairs)


def ranking_loss(model: MultitaskModel, settings: Pretraining, corpus: Corpus) -> float:
    """The ranking loss of `model` on the dev batches that a pretraining scores after each epoch, in its precision."""
    dev = corpus[settings.task].dev
    split, texts = TokenizedSplit(TASKS[settings.task], dev, model.tokenizer, model.max_tokens), dev["text_a"].tolist()
    losses = []
    with torch.inference_mode(), Device(settings.precision).autocast():
        for number in range(DEV_BATCHES):
            rows = class_distinct_batch(split.labels, 0, number, settings.batch_size, texts)
            batch = split.batch(np.concatenate(rows)).to(model.device)
            a, b = model.encode(batch.inputs).split(settings.batch_size)
            labels = batch.labels[: settings.batch_size]
            loss = multiple_negatives_ranking_loss(a, b, settings.scale, labels, settings.false_negatives)
            losses.append(loss.item())
    return float(np.mean(losses))


def weights(start: Start) -> str:
    """What names the sentence vectors of the encoder that runs start from, for a cache."""
    return f"{start.fingerprint} {start.experiment.pooling} {start.experiment.max_tokens}"


def vectors(
    load: Callable[[], MultitaskModel], weights: str, corpus: Corpus, task: str = "sst", *, cache: Path | None = None
) -> dict[str, np.ndarray]:
    """Sentence vectors [n, hidden] of a task's train and dev sentences, in the precision that runs are scored in.

    load, weights, cache: the model, its name and where vectors are kept, as in `analysis.embedded`.
    """
    device, found = Device(), {}
    for split in ("train", "dev"):
        texts = getattr(corpus[task], split)["text_a"].tolist()
        with device.autocast():
            found[split] = analysis.embedded(load, f"{weights} {device.precision}", texts, cache=cache)
    return found


def examples_of(measure: str, embeddings: np.ndarray, labels: np.ndarray, k: int = 10) -> np.ndarray:
    """What each example [n] adds to the mean `measure` of embeddings [n, hidden], by cosine distance.

    "purity": share of its `k` nearest neighbours that have its label. "silhouette": its silhouette coefficient.
    """
    if measure == "silhouette":
        return silhouette_samples(embeddings, labels, metric="cosine")
    neighbours = NearestNeighbors(n_neighbors=k, metric="cosine").fit(embeddings).kneighbors(return_distance=False)
    return (labels[neighbours] == labels[:, None]).mean(axis=1)


def structure(
    systems: Mapping[str, np.ndarray],
    labels: np.ndarray,
    baseline: str,
    k: int = 10,
    draws: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Purity and silhouette of each system's embeddings [n, hidden], and their differences from the baseline's.

    Columns: system, measure, value, value low, value high, and of the difference from `baseline` on the same
    sentences difference, low, high, p, p_holm, resolved. Intervals (95 %) and p are from the bootstrap over
    sentences; their neighbours are not drawn again, so they say how far these sentences can be trusted, not how
    another pool would be arranged.
    """
    weights = generator(seed, "bootstrap structure", draws).multinomial(
        len(labels), np.full(len(labels), 1 / len(labels)), size=draws
    )
    rows = []
    for measure in MEASURES:
        each = np.stack([examples_of(measure, vectors, labels, k) for vectors in systems.values()], axis=1)
        drawn, first = weights @ each / len(labels), list(systems).index(baseline)  # [draws, systems]
        for index, name in enumerate(systems):
            value, change = each[:, index].mean(), drawn[:, index] - drawn[:, first]
            low, high = percentile_interval(drawn[:, index], value)
            row = {"system": name, "measure": measure, "value": value, "value low": low, "value high": high}
            difference = value - each[:, first].mean() if name != baseline else np.nan
            low, high = percentile_interval(change, difference)
            p = bootstrap_p(change) if name != baseline else np.nan
            rows.append(row | {"difference": difference, "low": low, "high": high, "p": p})
    table = resolve(pd.DataFrame(rows))
    return table.assign(resolved=table["resolved"].where(table["system"] != baseline, ""))


def probe(vectors: Mapping[str, np.ndarray], corpus: Corpus, task: str = "sst") -> Stored:
    """Dev predictions of a linear classifier trained on the frozen encoder's sentence `vectors` of train.

    Logistic regression on standardised vectors, no setting chosen: what a head could read without moving the encoder.
    """
    dev = corpus[task].dev[["id", "label"]]
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    classifier.fit(vectors["train"], corpus[task].train["label"].to_numpy())
    return Stored({("dev", task): dev.assign(prediction=classifier.predict(vectors["dev"]))})


def pretraining_figure(history: pd.DataFrame, chance: float, start: float | None = None) -> Figure:
    """Ranking loss by epoch, train and dev, with the chance level; `start` is the dev loss before training."""
    use_style()
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.5))
    epochs, dev = history["epoch"].tolist(), history["dev_loss"].tolist()
    if start is not None:
        epochs, dev = [0, *epochs], [start, *dev]
    axes.axhline(chance, color="#777777", linewidth=0.8, linestyle="--", label=f"chance, {chance:.2f}")
    middles, train = history["epoch"] - 0.5, history["train_loss"]
    axes.plot(middles, train, color=PALETTE[0], marker="o", label="train, mean of the epoch")
    axes.plot(epochs, dev, color=PALETTE[1], marker="s", label="dev, end of the epoch")
    top = np.nanmax([chance, train.max(), *dev])
    axes.set(xlabel="epoch", ylabel="ranking loss (nats)", ylim=(0, 1.1 * top))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def structure_figure(table: pd.DataFrame, chance: float) -> Figure:
    """Purity and silhouette of every system of a `structure` table with 95 % intervals, the chance level dashed."""
    use_style()
    systems = list(dict.fromkeys(table["system"]))
    figure, panels = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 0.9 + 0.24 * len(systems)), sharey=True)
    for axes, measure, level in zip(panels, MEASURES, (chance, 0.0), strict=True):
        _intervals(axes, table[table["measure"] == measure], systems)
        axes.axvline(level, color="#777777", linewidth=0.8, linestyle="--", zorder=0)
    panels[0].set_yticks(range(len(systems)), systems)
    panels[0].set(xlabel="neighbourhood purity (dashed: chance)", ylim=(len(systems) - 0.5, -0.5))
    panels[1].set(xlabel="silhouette (dashed: no structure)")
    return figure


def _intervals(axes: Axes, rows: pd.DataFrame, systems: list[str]) -> None:
    for row in rows.to_dict("records"):
        place, colour = systems.index(row["system"]), PALETTE[0] if row["resolved"] else "#555555"
        axes.plot([row["value low"], row["value high"]], [place, place], color=colour)
        fill = "white" if row["resolved"] == "no" else colour
        axes.plot(row["value"], place, "o", color=colour, markerfacecolor=fill, markersize=4)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
