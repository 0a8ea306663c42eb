"""SMART's perturbation, measured: its penalty by radius on a trained model, as a table and as a figure."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtlib.data.batches import Batch, TokenizedSplit
from mtlib.data.corpus import Corpus
from mtlib.model import MultitaskModel
from mtlib.study.adversary import penalty_by_radius, published_forms
from mtlib.study.figures import PAGE_WIDTH, PALETTE, title_of, use_style

FORM_MARKERS = {"rescaled": "*", "projected": "P"}
"""Markers of the published forms, whose radius is not chosen."""


def dev_batches(model: MultitaskModel, corpus: Corpus, number: int, size: int = 16) -> dict[str, list[Batch]]:
    """The first `number` batches of `size` dev examples of each of the model's tasks."""
    batches = {}
    for task in model.tasks:
        frame = corpus[task.name].dev.head(number * size).reset_index(drop=True)
        split = TokenizedSplit(task, frame, model.tokenizer, model.max_tokens)
        starts = range(0, len(frame), size)
        batches[task.name] = [split.batch(range(start, min(start + size, len(frame)))) for start in starts]
    return batches


def by_radius(model: MultitaskModel, batches: Mapping[str, list[Batch]], seed: int = 0) -> pd.DataFrame:
    """`adversary.penalty_by_radius` of each task's batches, with the column `task`."""
    return _by_task(penalty_by_radius, model, batches, seed)


def forms(model: MultitaskModel, batches: Mapping[str, list[Batch]], seed: int = 0) -> pd.DataFrame:
    """`adversary.published_forms` of each task's batches, with the column `task`."""
    return _by_task(published_forms, model, batches, seed)


def _by_task(measure, model: MultitaskModel, batches: Mapping[str, list[Batch]], seed: int) -> pd.DataFrame:
    parts = [measure(model, found, seed=seed).assign(task=task) for task, found in batches.items()]
    return pd.concat(parts, ignore_index=True)


def penalty_figure(measured: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Penalty against radius, both logarithmic, a panel a task: adversarial and random d, dropout off and independent.

    measured: a table of `by_radius`; lines are means over batches, the dotted level is what two dropout masks alone
    make. published: a table of `forms`; stars stand at the radius that each published form really has.
    """
    use_style()
    tasks = list(measured["task"].unique())
    figure, panels = plt.subplots(1, len(tasks), figsize=(PAGE_WIDTH, 2.7), squeeze=False)
    for axes, task in zip(panels.flat, tasks, strict=True):
        _curves(axes, measured[measured["task"] == task])
        _points(axes, published[(published["task"] == task) & published["mode"].isin(FORM_MARKERS)])
        axes.set(title=title_of(task), xscale="log", yscale="log", xlabel=r"radius, $|d|_\infty$ / mean $|x|$")
    panels[0, 0].set_ylabel("penalty")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, handlelength=3)
    return figure


COLOURS = {"adversarial": PALETTE[1], "random": PALETTE[0]}


def _curves(axes: Axes, rows: pd.DataFrame) -> None:
    for (policy, direction), group in rows.groupby(["dropout", "direction"], sort=False):
        if direction == "none":
            axes.axhline(group["penalty"].mean(), color="#777777", linestyle=":", label="two dropout masks, d = 0")
            continue
        means = group.groupby("radius")["penalty"].mean()
        style = {"linestyle": "-" if policy == "off" else "--", "marker": "o" if policy == "off" else "s"}
        axes.plot(means.index, means, color=COLOURS[direction], label=f"{direction}, dropout {policy}", **style)


def _points(axes: Axes, rows: pd.DataFrame) -> None:
    for (mode, direction), group in rows.groupby(["mode", "direction"], sort=False):
        style = {"color": COLOURS[direction], "marker": FORM_MARKERS[mode], "linestyle": "", "markersize": 8}
        style |= {"markerfacecolor": "none" if direction == "random" else COLOURS[direction]}
        axes.plot(group["radius"].mean(), group["penalty"].mean(), label=f"{mode}, {direction}", **style)
