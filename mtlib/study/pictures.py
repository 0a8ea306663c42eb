"""Pictures of embeddings and mistakes: t-SNE panels and their hover page, confusion, reliability, errors."""

import html
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from mtlib.metrics import pearson
from mtlib.study.calibration import expected_calibration_error, reliability
from mtlib.study.figures import COLUMN_WIDTH, MARKERS, PAGE_WIDTH, PALETTE, SEQUENTIAL, colour_of, title_of, use_style
from mtlib.tasks import TASKS
from mtlib.training.files import storage, write_atomic

SENTIMENTS = ("very negative", "negative", "neutral", "positive", "very positive")
ORDERED_COLOURS = ("#B2182B", "#EF8A62", "#8C8C8C", "#67A9CF", "#2166AC")
"""For classes in order: red to blue through grey, told apart with every common colour vision."""

PENALTIES = {"none": "no penalty", "smart": "SMART", "bregman": "Bregman"}


def tsne_panels(
    panels: Mapping[str, np.ndarray], labels: np.ndarray, names: Sequence[str] = SENTIMENTS, columns: int = 3
) -> Figure:
    """t-SNE planes [n, 2] side by side, by title, coloured by class (figure 1a). The axes of t-SNE have no unit."""
    use_style()
    labels, rows = np.asarray(labels), -(-len(panels) // columns)
    lines = max(title.count("\n") + 1 for title in panels)
    height = 0.8 * PAGE_WIDTH / columns + 0.14 * lines
    figure, axes = plt.subplots(rows, columns, figsize=(PAGE_WIDTH, rows * height + 0.3), squeeze=False)
    for place, (title, plane) in zip(axes.flat, panels.items(), strict=False):
        for index in range(len(names)):
            points = plane[labels == index]
            place.scatter(*points.T, s=3, color=ORDERED_COLOURS[index], linewidths=0, alpha=0.8)
        place.set(title=title, xticks=[], yticks=[])
        place.spines[:].set_visible(True)
    for place in axes.flat[len(panels) :]:
        place.set_visible(False)
    handles = [
        plt.Line2D([], [], marker="o", linestyle="", color=colour, label=name)
        for name, colour in zip(names, ORDERED_COLOURS, strict=False)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(names), handletextpad=0.1)
    return figure


def tsne_page(
    panels: Mapping[str, np.ndarray],
    labels: np.ndarray,
    texts: Sequence[str],
    path: str | Path,
    names: Sequence[str] = SENTIMENTS,
    title: str = "t-SNE",
) -> Path:
    """Write one self-contained HTML page whose points show their sentence and label; a menu chooses the panel.

    The page asks nothing of the network. Returns its path; raises StorageError when it cannot be written.
    """
    labels, path = np.asarray(labels), Path(path)
    wrapped = ["<br>".join(html.escape(line) for line in textwrap.wrap(text, 60)) for text in texts]
    traces, buttons = [], []
    for number, (name, plane) in enumerate(panels.items()):
        for index, label in enumerate(names):
            rows = np.flatnonzero(labels == index)
            traces.append(
                go.Scatter(
                    x=plane[rows, 0].round(3).tolist(),
                    y=plane[rows, 1].round(3).tolist(),
                    mode="markers",
                    name=label,
                    visible=number == 0,
                    marker={"color": ORDERED_COLOURS[index], "size": 6},
                    text=[wrapped[row] for row in rows],
                    hovertemplate=f"%{{text}}<br><b>{label}</b><extra></extra>",
                )
            )
        shown = [panel == number for panel in range(len(panels)) for _ in names]
        buttons.append({"label": name.replace("\n", ", "), "method": "update", "args": [{"visible": shown}]})
    axis = {"visible": False}
    figure = go.Figure(traces)
    figure.update_layout(title=title, template="plotly_white", xaxis=axis, yaxis=axis | {"scaleanchor": "x"})
    figure.update_layout(updatemenus=[{"buttons": buttons, "x": 1, "xanchor": "right", "y": 1.08}], hovermode="closest")
    page = figure.to_html(include_plotlyjs=True, include_mathjax=False, div_id="tsne", config={"displaylogo": False})
    with storage("create", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page.encode())
    return path


def confusion_figure(
    shares: np.ndarray, names: Sequence[str] = SENTIMENTS, title: str = "", caption: str = ""
) -> Figure:
    """Confusion [true, predicted] as shares of the true class, right answers on the anti-diagonal (figure 1b)."""
    use_style()
    size = len(names)
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH + 0.4, COLUMN_WIDTH + (0.5 if caption else 0.1)))
    image = axes.imshow(shares, origin="lower", cmap=SEQUENTIAL, vmin=0, vmax=1)
    for true, predicted in np.ndindex(size, size):
        share = shares[true, predicted]
        if np.isfinite(share):
            colour = "black" if share > 0.55 else "white"
            axes.text(predicted, true, f"{share:.2f}", ha="center", va="center", color=colour, fontsize=7)
    ticks = [f"{index}\n{textwrap.fill(name, 9)}" for index, name in enumerate(names)]
    axes.set_xticks(range(size), ticks)
    axes.set_yticks(range(size), [f"{textwrap.fill(name, 9)}  {index}" for index, name in enumerate(names)])
    axes.tick_params(length=0, labelsize=6.5)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    if caption:
        figure.supxlabel(textwrap.fill(caption, 75), fontsize=6.5, x=0.02, ha="left")
    return figure


def reliability_figure(frames: Mapping[str, pd.DataFrame], title: str = "", bins: int = 15) -> Figure:
    """Accuracy by confidence, a line for each of the labelled predictions in `frames`; below, how many have it."""
    use_style()
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(COLUMN_WIDTH, 3.4), sharex=True, gridspec_kw={"height_ratios": [3, 1]}
    )
    upper.plot([0, 1], [0, 1], color="#777777", linewidth=0.8, linestyle="--")
    for index, (label, frame) in enumerate(frames.items()):
        diagram = reliability(frame, bins).query("count > 0")
        name = f"{label}, ECE {expected_calibration_error(frame, bins):.3f}"
        colour = PALETTE[index]
        upper.plot(diagram["confidence"], diagram["accuracy"], color=colour, marker=MARKERS[index], label=name)
        share = diagram["count"] / diagram["count"].sum()
        middle = (diagram["low"] + diagram["high"]) / 2
        width = 0.8 / bins / len(frames)
        lower.bar(middle + (index - (len(frames) - 1) / 2) * width, share, width, color=colour)
    upper.set(ylabel="accuracy", title=title, ylim=(0, 1.02))
    upper.legend(loc="upper left")
    lower.set(xlabel="confidence (largest class probability)", ylabel="share of\nexamples", xlim=(0, 1.02))
    return figure


def error_by_length_figure(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Error by number of words with 95 % intervals, a panel a task. `tables`: task -> `analysis.error_by_length`."""
    use_style()
    figure, panels = plt.subplots(1, len(tables), figsize=(PAGE_WIDTH, 2.3), squeeze=False)
    for axes, (task, table) in zip(panels.flat, tables.items(), strict=True):
        regression = task in TASKS and TASKS[task].kind == "regression"
        places = np.arange(len(table))
        spans = np.abs(table[["low", "high"]].to_numpy().T - table["error"].to_numpy())
        axes.errorbar(places, table["error"], yerr=spans, color=colour_of(task), marker="o", capsize=2)
        axes.set_xticks(
            places, [f"{low}–{high}" for low, high in zip(table["shortest"], table["longest"], strict=True)]
        )
        unit = "words in both sentences" if task in TASKS and TASKS[task].is_pair else "words in the sentence"
        axes.set(title=title_of(task), xlabel=unit, ylabel="mean absolute error" if regression else "error rate")
        axes.set_ylim(bottom=0)
    return figure


def regression_figure(frame: pd.DataFrame, task: str = "sts") -> Figure:
    """Predicted against labelled values of a regression task, with the line of agreement and Pearson's r."""
    use_style()
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, COLUMN_WIDTH * 0.9))
    low, high = TASKS[task].low, TASKS[task].high
    axes.plot([low, high], [low, high], color="#777777", linewidth=0.8, linestyle="--", zorder=1)
    axes.scatter(frame["label"], frame["prediction"], s=6, color=colour_of(task), alpha=0.45, linewidths=0)
    r = pearson(frame["label"].to_numpy(), frame["prediction"].to_numpy())
    span = f"({low:g} to {high:g})"
    axes.set(title=f"{title_of(task)}: r = {r:.3f}, n = {len(frame)}")
    axes.set(xlabel=f"labelled similarity {span}", ylabel=f"predicted similarity {span}")
    return figure


def cost_figure(runs: pd.DataFrame, baseline: str) -> Figure:
    """Mean score of runs over their seconds of training, by penalty; hollow where another run came before.

    runs: the columns run, penalties, start ("encoder" where none came before), mean and seconds. The first run is
    named, and so is `baseline`, whose mean is a line.
    """
    use_style()
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH, 3.2))
    kinds = runs["penalties"].str.replace(r" [\d.e+-]+", "", regex=True)
    for index, (kind, group) in enumerate(runs.groupby(kinds, sort=True)):
        colour, marker = PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]
        for whole, points in group.groupby(group["start"] == "encoder"):
            face = colour if whole else "white"
            axes.scatter(points["seconds"], points["mean"], color=colour, facecolor=face, marker=marker, s=22)
        axes.plot([], [], marker, color=colour, label=PENALTIES.get(kind, kind))
    axes.plot([], [], "o", color="#777777", markerfacecolor="white", label="started from another run")
    axes.axhline(runs.set_index("run")["mean"][baseline], color="#777777", linewidth=0.8, linestyle="--", zorder=0)
    for row in runs[runs["run"].isin([baseline, runs["run"].iloc[0]])].to_dict("records"):
        name = "baseline" if row["run"] == baseline else row["run"].rpartition("-")[0]
        place = row["seconds"], row["mean"]
        right = row["seconds"] ** 2 > runs["seconds"].min() * runs["seconds"].max()
        side = {"xytext": (-5, 4), "ha": "right"} if right else {"xytext": (5, 4)}
        axes.annotate(name, place, textcoords="offset points", fontsize=7, **side)
    axes.set(xscale="log", xlabel="seconds of training, those of the runs before it too", ylabel="mean score")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    figure.legend(loc="outside upper center", ncols=kinds.nunique() + 1)
    return figure
