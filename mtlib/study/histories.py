"""What a run's history shows: the tasks it drew, its losses, what its penalties logged, student and teacher."""

import math
from collections.abc import Mapping, Sequence
from typing import cast

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mtlib.errors import ConfigurationError
from mtlib.experiments import Experiment
from mtlib.objectives.bregman import Bregman
from mtlib.samplers import Sampler, apportioned
from mtlib.study.eval_splits import Stored
from mtlib.study.plots import (
    COLUMN_WIDTH,
    MARKERS,
    PALETTE,
    by_epoch,
    colour_of,
    entries,
    history_of,
    on_dev,
    panels,
    score_label,
    styles,
    title_of,
    use_style,
)
from mtlib.tasks import in_order
from mtlib.training.optimization import halving
from mtlib.training.runs import Run


def probabilities(sampler: Sampler, sizes: Mapping[str, int], epochs: int) -> pd.DataFrame:
    """Probability of each task in each epoch, columns epoch, task, probability. `sizes`: task -> training examples."""
    rows = []
    for epoch, shares in enumerate(sampler.shares(list(sizes.values()), epochs), 1):
        rows += [{"epoch": epoch, "task": t, "probability": float(p)} for t, p in zip(sizes, shares, strict=True)]
    return pd.DataFrame(rows)


def draws(run: Run, sizes: Mapping[str, int]) -> pd.DataFrame:
    """`probabilities` of the run's sampler, with the batches it drew of each task and their share of the epoch.

    Of joint steps, which have a part of each task, a task's examples are counted in whole batches' worth.
    """
    experiment, history = cast(Experiment, run.experiment), run.history.set_index("epoch")
    sizes = {task: sizes[task] for task in experiment.task_names}
    table = probabilities(experiment.sampler, sizes, experiment.epochs)
    if experiment.step == "joint":
        shares = table["probability"].to_numpy().reshape(experiment.epochs, len(sizes))
        parts = np.concatenate([apportioned(each, experiment.batch_size) for each in shares])  # examples of a step
        batches = parts * experiment.steps_per_epoch / experiment.batch_size
    else:
        batches = np.array([round(history.loc[row.epoch, f"draws_{row.task}"]) for row in table.itertuples()])
    return table.assign(batches=batches, share=batches / experiment.steps_per_epoch)


def drawn(runs: Mapping[str, Run], sizes: Mapping[str, int]) -> pd.DataFrame:
    """One row a run and task: batches drawn (`draws`) and expected, and passes over the task's training examples."""
    rows = []
    for name, run in runs.items():
        experiment, table = cast(Experiment, run.experiment), draws(run, sizes)
        steps, batch = experiment.steps_per_epoch, experiment.batch_size
        by_task = table.groupby("task")[["batches", "probability"]].sum()
        for task in in_order(experiment.task_names):
            batches, probability = by_task["batches"][task], by_task["probability"][task]
            # single steps end a pass with a smaller batch; joint ones go on into the next
            each = sizes[task] / batch if experiment.step == "joint" else -(-sizes[task] // batch)
            counts = {"batches": batches, "expected": float(steps * probability), "passes": batches / each}
            rows.append({"run": name, "task": task} | counts)
    return pd.DataFrame(rows)


def sampling_plot(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Probability of each task by epoch (lines) and its share of the drawn batches (hollow markers), a panel a table.

    `tables` maps a panel's title to a table of `probabilities` or `draws`.
    """
    figure, places = panels(len(tables), columns=max(3, len(tables)), height=2.0, sharey=True)
    for axes, (title, table) in zip(places, tables.items(), strict=True):
        for index, task in enumerate(in_order(table["task"].unique())):
            rows, colour = table[table["task"] == task], colour_of(task)
            axes.plot(rows["epoch"], rows["probability"], color=colour, label=title_of(task))
            if "share" in rows:
                style = {"color": colour, "markerfacecolor": "white", "linestyle": "", "clip_on": False, "zorder": 3}
                axes.plot(rows["epoch"], rows["share"], marker=MARKERS[index % len(MARKERS)], **style)
        axes.set(title=title, ylim=(0, 1))
        by_epoch(axes)
    places[0].set_ylabel("share of the steps")
    handles, labels = entries(places)
    if any("share" in table for table in tables.values()):
        handles.append(Line2D([], [], color="#555555", marker="o", markerfacecolor="white", linestyle=""))
        labels.append("drawn")
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


def losses(run: Run) -> pd.DataFrame:
    """One row an epoch: epoch, total, fixed mix, a column a task, weighted penalty, learning rate.

    total: mean training loss of the epoch's steps, penalties included. It moves with the tasks' own losses and also
    with how often each is drawn; "fixed mix" is the mean of the tasks' losses alone with every epoch's draws in the
    whole run's proportions (NaN for an epoch that did not draw one of the tasks). Penalties are no part of it, for they
    are logged as drawn and not by task. A task that was never drawn has a column of NaN.
    """
    history, tasks = run.history, in_order(run.experiment.task_names)
    by_task = history.reindex(columns=[f"train_loss_{task}" for task in tasks]).set_axis(tasks, axis=1)
    counts = history[[f"draws_{task}" for task in tasks]].set_axis(tasks, axis=1)
    shares, overall = counts.div(counts.sum(axis=1), axis=0), counts.sum() / counts.to_numpy().sum()
    penalty = history["train_loss"] - (shares * by_task.fillna(0)).sum(axis=1)
    fixed = (by_task * overall).sum(axis=1, skipna=False)
    table = pd.DataFrame({"epoch": history["epoch"], "total": history["train_loss"], "fixed mix": fixed})
    return table.join(by_task).assign(penalty=penalty, learning_rate=history["learning_rate"])


def rises(run: Run) -> dict[str, float]:
    """How often the total loss rose from one epoch to the next, in what streak, and what halving makes of it.

    epochs, rises, longest (consecutive rises), rises at fixed mix (of the tasks' losses without penalties; NaN where an
    epoch did not draw every task), halvings (that the schedule "halve" makes of these losses for an epoch to come),
    most (that so few epochs could have).
    """
    table = losses(run)
    up, fixed = table["total"].diff() > 0, table["fixed mix"]
    streaks = up.groupby((~up).cumsum()).sum()
    counts = {"epochs": len(table), "rises": int(up.sum()), "longest": int(streaks.max())}
    counts["rises at fixed mix"] = np.nan if fixed.isna().any() else int((fixed.diff() > 0).sum())
    halvings = round(-np.log2(halving(table["total"].tolist()[:-1])))
    return counts | {"halvings": halvings, "most": max(0, len(table) - 2) // 3}


def loss_plot(runs: Mapping[str, Run]) -> Figure:
    """Training loss by epoch of several runs: total, the tasks' at a fixed mix, each task's own, penalty."""
    tables = {name: losses(run) for name, run in runs.items()}
    titles = {"total": "Total, as drawn", "fixed mix": "Tasks at a fixed mix"}
    titles |= {task: title_of(task) for task in in_order(next(iter(runs.values())).experiment.task_names)}
    titles |= {"penalty": "Weighted penalty"}
    figure, places = panels(len(titles), columns=3, height=1.8)
    widths = np.linspace(2.4, 1.0, len(tables))  # runs that are the same show as rims around each other
    for axes, (column, title) in zip(places, titles.items(), strict=True):
        for (name, style), width in zip(styles(tables).items(), widths, strict=True):
            axes.plot(tables[name]["epoch"], tables[name][column], label=name, linewidth=width, **style)
        axes.set_title(title)
        axes.ticklabel_format(axis="y", useOffset=False)
        by_epoch(axes)
    for axes in places[::3]:
        axes.set_ylabel("training loss")
    figure.legend(*places[0].get_legend_handles_labels(), loc="outside upper center", ncols=min(5, len(runs)))
    return figure


def smart_log(run: Run) -> dict[str, float]:
    """What the run's SMART logged: mean |d|_inf / mean|x|, mean penalty in the first and last epoch, skipped steps.

    Of a joint step a task's part that was skipped counts as its share of the step, p_i; their sum is rounded.
    A run without such a penalty, or with one of weight 0, has none of them; one that skipped every step has the last.
    """
    logged = run.history.reindex(columns=["smart/radius", "smart/penalty", "smart/skipped"])
    first, last = logged["smart/penalty"].iloc[[0, -1]]
    numbers = {"radius": logged["smart/radius"].mean(), "first penalty": first, "last penalty": last}
    return numbers | {"skipped": round(float((logged["smart/skipped"] * run.experiment.steps_per_epoch).sum()))}


def start_share(run: Run) -> float:
    """Share of the starting weights in the teacher after the last step: the product of every update's decay.

    Raises ConfigurationError for a run without a Bregman penalty.
    """
    penalties = getattr(run.experiment, "penalties", ())
    penalty = next((p for p in penalties if isinstance(p, Bregman) and p.weight), None)
    if penalty is None:
        raise ConfigurationError(f"expected a run with a Bregman penalty, found {penalties or 'none'}")
    updates = run.experiment.steps
    if penalty.late_decay is None:
        return penalty.decay**updates
    early = math.ceil(penalty.switch_at * updates)
    return penalty.decay**early * penalty.late_decay ** (updates - early)


def student_and_teacher(run: Run) -> dict[str, Stored]:
    """Both models after the last epoch as systems with dev predictions: neither was chosen by anything."""
    systems = {}
    for name, split in {"student": "last", "teacher": "teacher"}.items():
        systems[name] = Stored({("dev", task): run.predictions(split, task) for task in run.experiment.task_names})
    return systems


def teacher_plot(runs: Mapping[str, Run], score: str = "mean") -> Figure:
    """Dev score by epoch of student (solid) and teacher (dashed), a panel a run."""
    figure, places = panels(len(runs), columns=3 if len(runs) in (3, 5, 6) else 4, height=2.0, sharey=True)
    for axes, (name, run) in zip(places, runs.items(), strict=True):
        history = run.history
        for who, column in {"student": score, "teacher": f"teacher_{score}"}.items():
            style = {"color": PALETTE[0], "marker": "o"}
            style |= {"color": PALETTE[1], "marker": "s", "linestyle": "--"} if who == "teacher" else {}
            axes.plot(history["epoch"], history[column], label=who, **style)
        axes.set_title(name)
        by_epoch(axes)
    name = "mean score" if score == "mean" else f"{title_of(score)}, {score_label(score)}"
    places[0].set_ylabel(on_dev(name, runs.values()))
    figure.legend(*places[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def ranking_plot(run: Run, chance: float, start: float | None = None) -> Figure:
    """Ranking loss by epoch of a pretraining (or its history), train and dev, with the chance level.

    start: the dev loss before training.
    """
    use_style()
    history = history_of(run)
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.5))
    epochs: Sequence[float] = history["epoch"].tolist()
    dev = history["dev_loss"].tolist()
    if start is not None:
        epochs, dev = [0, *epochs], [start, *dev]
    axes.axhline(chance, color="#777777", linewidth=0.8, linestyle="--", label=f"chance, {chance:.2f}")
    middles, train = history["epoch"] - 0.5, history["train_loss"]
    axes.plot(middles, train, color=PALETTE[0], marker="o", label="train, mean of the epoch")
    axes.plot(epochs, dev, color=PALETTE[1], marker="s", label="dev, end of the epoch")
    axes.set(ylabel="ranking loss (nats)", ylim=(0, 1.1 * np.nanmax([chance, train.max(), *dev])))
    by_epoch(axes)
    figure.legend(loc="outside upper center", ncols=2)
    return figure
