"""The one figure style, the figures of training curves, and `save`: vector PDF and PNG, the same bytes every time."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mtlib.tasks import TASKS
from mtlib.training.files import storage, write_atomic

COLUMN_WIDTH, PAGE_WIDTH = 3.35, 6.9
"""Width in inches of a figure in one column, and across the page."""

PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"]
"""Okabe and Ito's colours, told apart with every common colour vision; the yellow is left out, it fades in print."""

TASK_COLOURS = {"sst": "#D55E00", "qqp": "#0072B2", "sts": "#009E73", "mean": "#000000", "evenness": "#CC79A7"}
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
SEQUENTIAL, DIVERGING = "cividis", "RdBu"

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
    """What figures call a task: its title, "Mean" for the mean over tasks."""
    return TASKS[task].title or task if task in TASKS else task.capitalize()


def score_label(task: str) -> str:
    """Axis label of a task's score."""
    if task in TASKS:
        return "(r + 1) / 2" if TASKS[task].kind == "regression" else "accuracy"
    return "score"


def colour_of(task: str) -> str:
    """The task's own colour, one of the palette's for a task that has none."""
    return TASK_COLOURS.get(task, PALETTE[(3 + sum(task.encode())) % len(PALETTE)])


def learning_curves(history: pd.DataFrame, title: str = "") -> Figure:
    """Dev score by epoch, one line a task and one for the mean, named at their ends. `history` has one row an epoch."""
    use_style()
    history = getattr(history, "history", history)
    columns = _score_columns(history)
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.5))
    for index, column in enumerate(columns):
        style = {"linewidth": 2.0} if column == "mean" else {}
        axes.plot(history["epoch"], history[column], color=colour_of(column), marker=MARKERS[index], **style)
    axes.set(xlabel="epoch", ylabel="dev score", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    label_ends(axes, {title_of(c): (history[c].iloc[-1], colour_of(c)) for c in columns})
    return figure


def score_by_epoch(histories: Mapping[str, pd.DataFrame], tasks: Sequence[str] | None = None) -> Figure:
    """Dev scores by epoch of several runs, a panel a task and one for the mean (the report's figure 3).

    `histories` maps a run's label, such as "λ = 10", to its history (one row an epoch).
    """
    use_style()
    histories = {label: getattr(history, "history", history) for label, history in histories.items()}
    columns = list(tasks or _score_columns(next(iter(histories.values()))))
    rows = (len(columns) + 1) // 2
    figure, panels = plt.subplots(rows, 2, figsize=(PAGE_WIDTH, 1.9 * rows + 0.3), sharex=True, squeeze=False)
    for axes, column in zip(panels.flat, columns, strict=False):
        for index, (label, history) in enumerate(histories.items()):
            colour, marker = PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]
            axes.plot(history["epoch"], history[column], color=colour, marker=marker, label=label)
        axes.set(title=title_of(column), ylabel=f"dev {score_label(column)}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in panels.flat[len(columns) :]:
        axes.set_visible(False)
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(histories))
    return figure


def differences(comparison: pd.DataFrame, xlabel: str = "difference of dev scores") -> Figure:
    """Differences with their intervals, one row a comparison; resolved ones filled, the others hollow.

    `comparison` has the columns system, task, difference, low, high and resolved (`statistics.compare`).
    """
    use_style()
    systems, tasks = list(dict.fromkeys(comparison["system"])), list(dict.fromkeys(comparison["task"]))
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH, 0.7 + (0.16 * len(tasks) + 0.1) * len(systems)))
    shifts = (np.arange(len(tasks)) - (len(tasks) - 1) / 2) * 0.8 / len(tasks)
    for row in comparison.to_dict("records"):
        place = systems.index(row["system"]) + shifts[tasks.index(row["task"])]
        colour = colour_of(row["task"])
        axes.plot([row["low"], row["high"]], [place, place], color=colour)
        fill = colour if row["resolved"] == "yes" else "white"
        axes.plot(row["difference"], place, "o", color=colour, markerfacecolor=fill, markersize=4)
    for task in tasks:
        axes.plot([], [], "o-", color=colour_of(task), label=title_of(task))
    axes.plot([], [], "o", color="#777777", markerfacecolor="white", label="not resolved")
    axes.axvline(0, color="#777777", linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(systems)), systems)
    axes.grid(axis="y", visible=False)
    axes.set(xlabel=xlabel, ylim=(len(systems) - 0.5, -0.5))
    figure.legend(loc="outside upper center", ncols=len(tasks) + 1)
    return figure


def label_ends(axes: Axes, ends: Mapping[str, tuple[float, str]], gap: float = 0.075) -> None:
    """Name lines at the right of `axes`: label -> (last value, colour); labels keep `gap` of the height apart."""
    axes.margins(y=0.08)
    low, high = axes.get_ylim()
    finite = {label: (value, colour) for label, (value, colour) in ends.items() if np.isfinite(value)}
    order = sorted(finite, key=lambda label: finite[label][0])
    wanted = np.array([(finite[label][0] - low) / (high - low) for label in order])
    for label, place in zip(order, spread(wanted, gap), strict=True):
        axes.annotate(label, (1.02, place), xycoords="axes fraction", va="center", fontsize=7, color=finite[label][1])


def spread(places: np.ndarray, gap: float) -> np.ndarray:
    """Ascending places [n] moved as little as a pooled average does, so that neighbours are at least `gap` apart."""
    groups: list[list[float]] = []
    for place in places - gap * np.arange(len(places)):
        groups.append([place])
        while len(groups) > 1 and np.mean(groups[-2]) >= np.mean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    flat = np.concatenate([np.full(len(group), np.mean(group)) for group in groups]) if groups else np.array([])
    return flat + gap * np.arange(len(places))


def _score_columns(history: pd.DataFrame) -> list[str]:
    return [column for column in history.columns if column in TASKS or column == "mean"]
