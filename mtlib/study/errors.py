"""What a system gets wrong: confusion, how far off, the worst mistakes, and error by length, with their plots."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from mtlib.errors import DataError
from mtlib.metrics import pearson
from mtlib.study.eval_splits import probabilities
from mtlib.study.plots import COLUMN_WIDTH, SEQUENTIAL, colour_of, panels, title_of, use_style
from mtlib.study.statistics import mean_interval
from mtlib.tasks import SST, TASKS, in_order


def confusion(frame: pd.DataFrame, classes: int) -> np.ndarray:
    """[true class, predicted class]: shares of each true class; a class without examples is NaN."""
    counts = confusion_matrix(frame["label"].astype(int), frame["prediction"].astype(int), labels=range(classes))
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(axis=1, keepdims=True)


def recalls(frame: pd.DataFrame, names: Sequence[str] = SST.names) -> pd.DataFrame:
    """Recall of each class with its 95 % bootstrap interval, and the shares called lower and higher."""
    rows = []
    for label, group in frame.groupby("label"):
        recall, low, high = mean_interval(group["prediction"] == label)
        row = {"class": names[int(label)], "n": len(group), "recall": recall, "low": low, "high": high}
        below, above = (group["prediction"] < label).mean(), (group["prediction"] > label).mean()
        rows.append(row | {"called lower": below, "called higher": above})
    return pd.DataFrame(rows)


def ordinal_summary(frame: pd.DataFrame, classes: int) -> pd.Series:
    """How far off the predictions of ordered classes are.

    accuracy; recall of each class; adjacent, the share of mistakes that are one class off; distance, the mean absolute
    class distance over all examples; kappa, Cohen's with quadratic weights.
    """
    labels, predictions = frame["label"].astype(int), frame["prediction"].astype(int)
    distance, shares = (labels - predictions).abs(), confusion(frame, classes)
    return pd.Series(
        {"accuracy": (distance == 0).mean()}
        | {f"recall {index}": shares[index, index] for index in range(classes)}
        | {"adjacent": (distance[distance > 0] == 1).mean(), "distance": distance.mean()}
        | {"kappa": cohen_kappa_score(labels, predictions, labels=range(classes), weights="quadratic")},
        dtype=float,
    )


def with_texts(frame: pd.DataFrame, examples: pd.DataFrame) -> pd.DataFrame:
    """Predictions joined by id with their texts (a corpus split); raises DataError for an id without a text."""
    texts = examples[[column for column in ("id", "text_a", "text_b") if column in examples]]
    joined = frame.merge(texts, on="id", how="left", validate="one_to_one")
    if joined["text_a"].isna().any():
        raise DataError(f"id {joined['id'][joined['text_a'].isna()].iloc[0]!r} has a prediction and no text")
    return joined


def worst_mistakes(frame: pd.DataFrame, examples: pd.DataFrame, count: int = 10) -> pd.DataFrame:
    """The mistakes made with most confidence, or the largest errors of a regression, with their texts, worst first."""
    joined = with_texts(frame, examples)
    if "p0" in joined:
        joined["confidence"] = probabilities(joined).max(axis=1)
        joined, measure = joined[joined["label"] != joined["prediction"]], "confidence"
    else:
        joined["error"] = (joined["label"] - joined["prediction"]).abs()
        measure = "error"
    worst = joined.sort_values([measure, "id"], ascending=[False, True]).head(count)
    texts = [column for column in ("text_a", "text_b") if column in joined]
    return worst[["id", "label", "prediction", measure, *texts]].reset_index(drop=True)


def error_by_length(frame: pd.DataFrame, examples: pd.DataFrame, bins: int = 5) -> pd.DataFrame:
    """Mean error by number of words (of both texts of a pair), in `bins` groups of about equal size.

    The error is 1 for a wrong class, |label - prediction| for a regression. Columns: shortest, longest (words), count,
    error, low, high (95 % bootstrap interval). Texts of one number of words are one group.
    """
    joined = with_texts(frame, examples)
    words = sum(joined[column].str.split().str.len() for column in ("text_a", "text_b") if column in joined)
    wrong = (joined["label"] - joined["prediction"]).abs()
    error = (wrong > 0).astype(float) if "p0" in joined else wrong
    rows = []
    groups = pd.qcut(words, bins, labels=False, duplicates="drop").fillna(0)  # all equal: no edges to cut between
    for _, group in error.groupby(groups):
        mean, low, high = mean_interval(group)
        lengths = words[group.index]
        row = {"shortest": int(lengths.min()), "longest": int(lengths.max()), "count": len(group)}
        rows.append(row | {"error": mean, "low": low, "high": high})
    return pd.DataFrame(rows)


def confusion_plot(shares: np.ndarray, names: Sequence[str] = SST.names, title: str = "", caption: str = "") -> Figure:
    """Confusion [true, predicted] as shares of the true class, right answers on the anti-diagonal (figure 1b)."""
    use_style()
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH + 0.4, COLUMN_WIDTH + (0.25 if caption else -0.15)))
    image = axes.imshow(shares, origin="lower", cmap=SEQUENTIAL, vmin=0, vmax=1)
    for (true, predicted), share in np.ndenumerate(shares):
        if np.isfinite(share):
            colour = "black" if share > 0.55 else "white"
            axes.text(predicted, true, f"{share:.2f}", ha="center", va="center", color=colour, fontsize=7)
    ticks = range(len(names))
    axes.set_xticks(ticks, [f"{index}\n{textwrap.fill(name, 9)}" for index, name in enumerate(names)])
    axes.set_yticks(ticks, [f"{textwrap.fill(name, 9)}  {index}" for index, name in enumerate(names)])
    axes.tick_params(length=0, labelsize=6.5)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(textwrap.fill(title, 48))
    bar = figure.colorbar(image, cax=axes.inset_axes((1.04, 0.0, 0.05, 1.0)))
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    if caption:
        figure.supxlabel(textwrap.fill(caption, 75), fontsize=6.5, x=0.02, ha="left")
    return figure


def length_plot(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Error by number of words with 95 % intervals, a panel a task. `tables`: task -> `error_by_length`."""
    figure, places = panels(len(tables), columns=3, height=2.0)
    for axes, task in zip(places, in_order(tables), strict=True):
        table = tables[task]
        spans = np.abs(table[["low", "high"]].to_numpy().T - table["error"].to_numpy())
        axes.errorbar(range(len(table)), table["error"], yerr=spans, color=colour_of(task), marker="o", capsize=2)
        groups = [f"{low}–{high}" for low, high in zip(table["shortest"], table["longest"], strict=True)]
        axes.set_xticks(range(len(table)), groups)
        words = "words in both sentences" if TASKS[task].is_pair else "words in the sentence"
        scale = f"mean absolute error ({TASKS[task].low:g} to {TASKS[task].high:g})"
        error = scale if TASKS[task].kind == "regression" else "error rate"
        axes.set(title=f"{title_of(task)}, n = {table['count'].sum():,}", xlabel=words, ylabel=error)
        axes.set_ylim(bottom=0)
    return figure


def agreement_plot(frame: pd.DataFrame, task: str = "sts", title: str = "") -> Figure:
    """Predicted against labelled values of a regression task, with the line of agreement and Pearson's r.

    title: the first line, by default the task's.
    """
    use_style()
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, COLUMN_WIDTH * 0.9))
    low, high = TASKS[task].low, TASKS[task].high
    axes.plot([low, high], [low, high], color="#777777", linewidth=0.8, linestyle="--", zorder=1)
    axes.scatter(frame["label"], frame["prediction"], s=6, color=colour_of(task), alpha=0.45, linewidths=0)
    r = pearson(frame["label"].to_numpy(), frame["prediction"].to_numpy())
    kind = TASKS[task].label_column.replace("_", " ")
    axes.set(title=f"{title or title_of(task)}\nr = {r:.3f}, n = {len(frame)}")
    axes.set(xlabel=f"labelled {kind} ({low:g} to {high:g})", ylabel=f"predicted {kind} ({low:g} to {high:g})")
    return figure
