"""What the proximal point method did: total loss by epoch and what moved it, halvings, student beside teacher."""

import math
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mtlib.errors import ConfigurationError
from mtlib.objectives.bregman import Bregman
from mtlib.study.figures import MARKERS, PAGE_WIDTH, PALETTE, score_label, title_of, use_style
from mtlib.study.parts import Stored
from mtlib.training.runs import Run
from mtlib.training.schedule import halving


def losses(run: Run) -> pd.DataFrame:
    """One row an epoch: epoch, total, fixed mix, a column a task, weighted penalty, learning rate.

    total: mean training loss of the epoch's steps, penalties included. It moves with the tasks' own losses and also
    with how often each is drawn; "fixed mix" is the same mean with every epoch's draws in the whole run's proportions
    (NaN for an epoch that did not draw one of the tasks).
    """
    history, tasks = run.history, run.experiment.tasks
    each = history[[f"train_loss_{task}" for task in tasks]].set_axis(list(tasks), axis=1)
    draws = history[[f"draws_{task}" for task in tasks]].set_axis(list(tasks), axis=1)
    shares, overall = draws.div(draws.sum(axis=1), axis=0), draws.sum() / draws.to_numpy().sum()
    penalty = history["train_loss"] - (shares * each.fillna(0)).sum(axis=1)
    fixed = (each * overall).sum(axis=1, skipna=False) + penalty
    table = pd.DataFrame({"epoch": history["epoch"], "total": history["train_loss"], "fixed mix": fixed})
    return table.join(each).assign(penalty=penalty, learning_rate=history["learning_rate"])


def rises(run: Run) -> dict[str, float]:
    """How often the total loss rose from one epoch to the next, in what streak, and what halving makes of it.

    epochs, rises, longest (consecutive rises), rises at fixed mix (NaN where an epoch did not draw every task),
    halvings (that the schedule "halve" makes of these losses), most (that so few epochs could have).
    """
    table = losses(run)
    up = (table["total"].diff() > 0).to_numpy()[1:]
    longest = streak = 0
    for rose in up:
        streak = streak + 1 if rose else 0
        longest = max(longest, streak)
    counts = {"epochs": len(table), "rises": int(up.sum()), "longest": longest}
    fixed = table["fixed mix"]
    counts["rises at fixed mix"] = np.nan if fixed.isna().any() else int((fixed.diff() > 0).sum())
    halvings = round(-np.log2(halving(table["total"].tolist())))
    return counts | {"halvings": halvings, "most": max(0, len(table) - 1) // 3}


def bregman_of(run: Run) -> Bregman:
    """The run's proximal penalty; raises ConfigurationError for a run without one."""
    for penalty in run.experiment.penalties:
        if isinstance(penalty, Bregman) and penalty.weight:
            return penalty
    raise ConfigurationError(f"run {run.id}: expected a Bregman penalty, found {run.experiment.penalties or 'none'}")


def momentum(run: Run) -> str:
    """The run's beta in words, such as "0.99" or "0.99, then 0.999"."""
    penalty = bregman_of(run)
    return f"{penalty.decay:g}" + (f", then {penalty.late_decay:g}" if penalty.late_decay is not None else "")


def start_share(run: Run) -> float:
    """What the starting weights still are of the teacher after the last step: the product of every update's beta."""
    penalty, updates = bregman_of(run), run.experiment.epochs * run.experiment.steps
    early = updates if penalty.late_decay is None else math.ceil(penalty.switch_at * updates)
    return penalty.decay**early * (penalty.late_decay or 1.0) ** (updates - early)


def student_and_teacher(run: Run) -> dict[str, Stored]:
    """Both models after the last epoch as systems with dev predictions: neither was chosen by anything."""
    splits = {"student": "last", "teacher": "teacher"}
    return {
        who: Stored({("dev", task): run.predictions(split, task) for task in run.experiment.tasks})
        for who, split in splits.items()
    }


def loss_figure(runs: Mapping[str, Run]) -> Figure:
    """Training loss by epoch of several runs: total, total at a fixed mix of tasks, each task's own, penalty."""
    use_style()
    tables = {name: losses(run) for name, run in runs.items()}
    tasks = next(iter(runs.values())).experiment.tasks
    titles = {"total": "Total, as drawn", "fixed mix": "Total at a fixed mix of tasks"}
    titles |= {task: title_of(task) for task in tasks} | {"penalty": "Weighted penalty"}
    rows = -(-len(titles) // 3)
    figure, panels = plt.subplots(rows, 3, figsize=(PAGE_WIDTH, 1.8 * rows + 0.3), sharex=True, squeeze=False)
    for axes, (column, title) in zip(panels.flat, titles.items(), strict=False):
        for index, (name, table) in enumerate(tables.items()):
            colour, marker = PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]
            axes.plot(table["epoch"], table[column], color=colour, marker=marker, label=name)
        axes.set_title(title)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in panels.flat[len(titles) :]:
        axes.set_visible(False)
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
    for axes in panels[:, 0]:
        axes.set_ylabel("training loss")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=min(4, len(runs)))
    return figure


def teacher_figure(runs: Mapping[str, Run], score: str = "mean") -> Figure:
    """Dev score by epoch of student (solid) and teacher (dashed), a panel a run."""
    use_style()
    figure, panels = plt.subplots(1, len(runs), figsize=(PAGE_WIDTH, 2.2), sharey=True, squeeze=False)
    for axes, (name, run) in zip(panels.flat, runs.items(), strict=True):
        history = run.history
        axes.plot(history["epoch"], history[score], color=PALETTE[0], marker="o", label="student")
        teacher = history[f"teacher_{score}"]
        axes.plot(history["epoch"], teacher, color=PALETTE[1], marker="s", linestyle="--", label="teacher")
        axes.set(title=name, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    what = "mean dev score" if score == "mean" else f"{title_of(score)}, dev {score_label(score)}"
    panels[0, 0].set_ylabel(what)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure
