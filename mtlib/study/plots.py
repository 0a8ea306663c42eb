"""The one figure style, `save` (vector PDF and PNG, the same bytes every time), and plots of scores and comparisons."""

import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator
from scipy.optimize import isotonic_regression

from mtlib.tasks import TASKS, in_order
from mtlib.training.files import storage, write_atomic

COLUMN_WIDTH, PAGE_WIDTH = 3.35, 6.9
"""Width in inches of a figure in one column, and across the page."""

PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"]
"""Okabe and Ito's colours, told apart with every common colour vision; its yellow is left out, it fades in print."""

TASK_COLOURS = {"sst": "#D55E00", "qqp": "#0072B2", "sts": "#009E73", "mean": "#000000", "evenness": "#CC79A7"}
OWN_COLOURS = ["#E69F00", "#56B4E9", "#8C510A", "#6A3D9A", "#7F7F7F"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
SEQUENTIAL = "cividis"

_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "figure.figsize": (COLUMN_WIDTH, 2.4),
    "figure.dpi": 120,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 300,
    "savefig.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": matplotlib.cycler(color=PALETTE),
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "lines.solid_capstyle": "butt",
    "lines.markersize": 3.2,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.hashsalt": "mtlib",
}


def use_style() -> None:
    """Set matplotlib to the house style: small sans-serif type, print widths, a colour-blind-safe palette."""
    matplotlib.rcParams.update(_STYLE)


def save(figure: Figure, name: str, folder: str | Path = "figures") -> list[Path]:
    """Write `<folder>/<name>.pdf` and `.png` and return both paths; no date or version goes into the files.

    The figure is closed afterwards. Raises StorageError when the folder cannot be written.
    """
    folder = Path(folder)
    paths = [folder / f"{name}.pdf", folder / f"{name}.png"]
    metadata = [{"CreationDate": None, "Producer": None, "Creator": None}, {"Software": None}]
    with storage("create", folder):
        folder.mkdir(parents=True, exist_ok=True)
    for path, fields in zip(paths, metadata, strict=True):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=path.suffix[1:], metadata=fields)
        write_atomic(path, buffer.getvalue())
    plt.close(figure)
    return paths


def title_of(task: str) -> str:
    """A task's name in figures: its title, "Mean" for the mean over tasks."""
    return TASKS[task].title or task if task in TASKS else task.capitalize()


def score_label(task: str) -> str:
    """Axis label of a task's score."""
    if task in TASKS:
        return "(r + 1) / 2" if TASKS[task].kind == "regression" else "accuracy"
    return "score"


def colour_of(task: str) -> str:
    """The task's own colour; of tasks that have none, each the next that no other has, in the order they are known."""
    others = [name for name in TASKS if name not in TASK_COLOURS]
    place = others.index(task) if task in others else 0
    return TASK_COLOURS.get(task, OWN_COLOURS[place % len(OWN_COLOURS)])


def styles(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """A colour and a marker for each name, in order."""
    looks = zip(names, cycle(PALETTE), cycle(MARKERS), strict=False)
    return {name: {"color": colour, "marker": marker} for name, colour, marker in looks}


def panels(number: int, columns: int = 2, height: float = 1.9, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure as wide as the page with `number` panels in rows of `columns`; `height` in inches is a row's.

    Panels of a column share the axis below it. `options` are those of `plt.subplots`.
    """
    use_style()
    columns = min(columns, number)
    rows = -(-number // columns)
    size = PAGE_WIDTH, height * rows + 0.3
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
    for unused in axes.flat[number:]:
        unused.remove()
    return figure, list(axes.flat[:number])


def entries(places: Iterable[Axes]) -> tuple[list[Any], list[str]]:
    """Handles and labels of a legend for all these panels, each label once."""
    found = [axes.get_legend_handles_labels() for axes in places]
    named = {label: handle for handles, labels in found for handle, label in zip(handles, labels, strict=True)}
    return list(named.values()), list(named)


def by_epoch(axes: Axes) -> None:
    """Label the axis of epochs, with whole numbers."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.set_xlabel("epoch")


def history_of(run: Any) -> pd.DataFrame:
    """A run's history; a history is one already."""
    return getattr(run, "history", run)


_HOLLOW: dict[str, Any] = {"markersize": 7, "markerfacecolor": "none", "markeredgewidth": 0.9}
RING = Line2D([], [], color="#777777", marker="o", linestyle="", label="stored epoch", **_HOLLOW)
"""What a legend says of the ring at the epoch whose model a run has stored."""


def learning_curves(runs: Any, columns: Sequence[str] | None = None, title: str = "") -> Figure:
    """Dev scores by epoch. `runs` is a run (or its history), or several by name.

    One run: a line a task and one for the mean, named at their ends. Several: a panel a task and one for the mean, a
    line a run (the report's figure 3). columns: of the history, by default every task's score and the mean.
    A run's stored epoch has a ring; the axis says how many dev examples an epoch is scored on, if not all.
    """
    if isinstance(runs, Mapping):
        return _panel_a_task(runs, columns, title)
    use_style()
    history = history_of(runs)
    columns = columns or _score_columns(history)
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.5))
    for column, style in styles(columns).items():
        look = {**style, "color": colour_of(column), "linewidth": 2.0 if column == "mean" else 1.3}
        axes.plot(history["epoch"], history[column], **look)
        _mark_stored(axes, runs, column, look)
    axes.set(ylabel=on_dev("score", [runs]), title=title)
    by_epoch(axes)
    label_ends(axes, {title_of(c): (history[c].iloc[-1], colour_of(c)) for c in columns})
    if hasattr(runs, "best_epoch"):
        figure.legend(handles=[RING], loc="outside upper right")
    return figure


def _panel_a_task(runs: Mapping[str, Any], columns: Sequence[str] | None, title: str) -> Figure:
    histories = {name: history_of(run) for name, run in runs.items()}
    columns = columns or _score_columns(pd.concat(histories.values()))
    figure, places = panels(len(columns))
    for axes, column in zip(places, columns, strict=True):
        for name, style in styles(runs).items():
            if column not in (history := histories[name]):
                continue
            axes.plot(history["epoch"], history[column], label=name, **style)
            _mark_stored(axes, runs[name], column, style)
        axes.set(title=title_of(column), ylabel=on_dev(score_label(column), runs.values()))
        by_epoch(axes)
    figure.suptitle(title or None, fontsize=8)
    handles = entries(places)[0] + [RING] * hasattr(next(iter(runs.values())), "best_epoch")
    figure.legend(handles=handles, loc="outside upper center", ncols=min(5, len(handles)))
    return figure


def _mark_stored(axes: Axes, run: Any, column: str, look: Mapping[str, Any]) -> None:
    """A ring at the epoch whose model a run has stored; a history alone does not know it."""
    if epoch := getattr(run, "best_epoch", None):
        score = run.history.set_index("epoch")[column][epoch]
        axes.plot(epoch, score, "o", color=look["color"], **_HOLLOW)


def on_dev(score: str, runs: Iterable[Any]) -> str:
    """ "dev accuracy", or "accuracy, ≤ 500 of dev" where an epoch of every run is scored on so many examples a task."""
    limits = {getattr(getattr(run, "experiment", None), "dev_limit", None) for run in runs}
    return f"{score}, ≤ {limits.pop()} of dev" if len(limits) == 1 and None not in limits else f"dev {score}"


def _score_columns(history: pd.DataFrame) -> list[str]:
    columns = in_order(column for column in history.columns if column in TASKS)
    return [*columns, "mean"] if "mean" in history else columns


def differences(
    comparison: pd.DataFrame, tasks: Sequence[str] | None = None, xlabel: str = "", margin: float = 0.0
) -> Figure:
    """Differences with their intervals, a panel a task and a row a pair; resolved ones filled, the others hollow.

    One pair alone has one panel, with a row a task.
    comparison: a table of `statistics.compare`. tasks: those shown, by default all, mean and evenness among them.
    margin: a band of +-margin, within which a difference is too small to matter. Intervals are those of the table, of
    each row by itself; what is resolved is by Holm's correction over all of them.
    """
    tasks = list(tasks or dict.fromkeys(comparison["task"]))
    rows = comparison[comparison["task"].isin(tasks)]
    names = rows["system"] + " − " + rows["against"]
    systems = list(dict.fromkeys(names))
    alone = len(systems) == 1
    titles, labels = (systems, [title_of(task) for task in tasks]) if alone else ([*map(title_of, tasks)], systems)
    labels = ["\n".join(textwrap.fill(line, 44) for line in label.splitlines()) for label in labels]
    height = 0.55 + 0.17 * sum(1 + label.count("\n") * 0.75 for label in labels)
    figure, axes = panels(len(titles), len(titles), height, sharex=True, sharey=True)
    for name, row in zip(names, rows.to_dict("records"), strict=True):
        column, place = tasks.index(row["task"]), systems.index(name)
        panel, place = (axes[0], column) if alone else (axes[column], place)
        colour, filled = colour_of(row["task"]), row["resolved"] == "yes"
        interval(panel, place, row["difference"], row["low"], row["high"], colour, filled)
    for number, (title, panel) in enumerate(zip(titles, axes, strict=True)):
        panel.axvline(0, color="#777777", linewidth=0.8, zorder=0)
        if margin:
            panel.axvspan(-margin, margin, color="#777777", alpha=0.18, linewidth=0, zorder=0)
        panel.set_title(title, color="black" if alone else colour_of(tasks[number]))
        panel.spines["left"].set_visible(False)
        panel.tick_params(left=False)
        panel.tick_params(axis="x", labelrotation=90 if len(titles) > 5 else 0)
        panel.xaxis.set_major_locator(MaxNLocator(8 // len(titles) + 1, steps=[1, 2, 5, 10]))
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].set_ylim(len(labels) - 0.5, -0.5)
    dot: dict[str, Any] = {"color": "#777777", "marker": "o", "markersize": 4, "linestyle": ""}
    signs = [Line2D([], [], **dot, label="resolved (Holm)"), Line2D([], [], **dot, mfc="white", label="not resolved")]
    band = [Patch(color="#777777", alpha=0.18, linewidth=0, label=f"± {margin:g}")] if margin else []
    figure.legend(handles=[*signs, *band], loc="outside upper right", ncols=3)
    figure.supxlabel(xlabel or "difference of scores, 95 % interval", fontsize=8)
    return figure


def half_widths(widths: pd.DataFrame, margin: float = 0.005) -> Figure:
    """Half an interval's width by the number of seeds, a line a column of `widths` (index: seeds); `margin` as a line.

    Where a line stays above the margin, no number of seeds shows that two systems are equivalent on so few examples.
    """
    use_style()
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.5))
    for name, style in styles(widths.columns).items():
        axes.plot(widths.index, widths[name], label=name, markevery=(0, 4), **style)
    axes.axhline(margin, color="#777777", linewidth=0.8, linestyle="--", label=f"± {margin:g}")
    axes.set(xlabel="seeds", ylabel="half-width of the 95 % interval", ylim=(0, None))
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def interval(axes: Axes, place: float, value: float, low: float, high: float, colour: str, filled: bool) -> None:
    """A value with its interval on the horizontal line at `place`; hollow unless `filled`."""
    axes.plot([low, high], [place, place], color=colour)
    axes.plot(value, place, "o", color=colour, markerfacecolor=colour if filled else "white", markersize=4)


def cost(
    scores: pd.DataFrame,
    hue: str,
    named: Sequence[str] = (),
    xlabel: str = "seconds of training",
    ylabel: str = "mean score",
) -> Figure:
    """Mean score over the seconds of training, a point a row of `scores`, which has the columns mean and seconds.

    hue: the column whose values colours and markers stand for. named: rows whose names are written beside them.
    """
    use_style()
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH, 3.0))
    kinds = list(dict.fromkeys(scores[hue]))
    look = {"palette": {kind: style["color"] for kind, style in styles(kinds).items()}, "s": 24, "edgecolor": "none"}
    look["markers"] = {kind: style["marker"] for kind, style in styles(kinds).items()}
    seaborn.scatterplot(scores, x="seconds", y="mean", hue=hue, style=hue, ax=axes, legend=len(kinds) > 1, **look)
    middle = np.sqrt(scores["seconds"].min() * scores["seconds"].max())
    for name in named:
        right = scores.loc[name, "seconds"] > middle
        place = {"xytext": (-5, 4) if right else (5, 4), "ha": "right" if right else "left"}
        axes.annotate(name, scores.loc[name, ["seconds", "mean"]], textcoords="offset points", fontsize=7, **place)
    axes.set(xscale="log", xlabel=xlabel, ylabel=ylabel)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    if legend := axes.get_legend():
        handles, labels = axes.get_legend_handles_labels()
        legend.remove()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(5, len(kinds)))
    return figure


def label_ends(axes: Axes, ends: Mapping[str, tuple[float, str]], gap: float = 0.075) -> None:
    """Name lines at the right of `axes`: label -> (last value, colour); labels keep `gap` of the height apart."""
    axes.margins(y=0.08)
    low, high = axes.get_ylim()
    finite = {label: (value, colour) for label, (value, colour) in ends.items() if np.isfinite(value)}
    order = sorted(finite, key=lambda label: finite[label][0])
    places = np.array([(finite[label][0] - low) / (high - low) for label in order])
    for label, place in zip(order, spread(places, gap), strict=True):
        axes.annotate(label, (1.02, place), xycoords="axes fraction", va="center", fontsize=7, color=finite[label][1])


def spread(places: np.ndarray, gap: float) -> np.ndarray:
    """Ascending places [n] moved as little as may be (least squares), so that neighbours are at least `gap` apart."""
    steps = gap * np.arange(len(places))
    return isotonic_regression(places - steps).x + steps if len(places) else places
