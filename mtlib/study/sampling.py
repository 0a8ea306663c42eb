"""Where the steps go: a sampler's probabilities by epoch, what a run drew of each task, and both in a figure."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mtlib.samplers import Sampler
from mtlib.study.figures import MARKERS, PAGE_WIDTH, colour_of, title_of, use_style
from mtlib.training.runs import Run


def probabilities(sampler: Sampler, sizes: Mapping[str, int], epochs: int) -> pd.DataFrame:
    """Probability of each task in each epoch, columns epoch, task, probability. `sizes`: task -> training examples."""
    rows = []
    for epoch in range(1, epochs + 1):
        shares = sampler.probabilities(list(sizes.values()), epoch, epochs)
        rows += [{"epoch": epoch, "task": t, "probability": float(p)} for t, p in zip(sizes, shares, strict=True)]
    return pd.DataFrame(rows)


def draws(run: Run, sizes: Mapping[str, int]) -> pd.DataFrame:
    """`probabilities` of the run's sampler, with the batches it drew of each task and their share of the epoch."""
    experiment, history = run.experiment, run.history.set_index("epoch")
    table = probabilities(experiment.sampler, {task: sizes[task] for task in experiment.tasks}, experiment.epochs)
    cells = zip(table["epoch"], table["task"], strict=True)
    batches = [int(history.loc[epoch, f"draws_{task}"]) for epoch, task in cells]
    return table.assign(batches=batches, share=pd.Series(batches) / experiment.steps)


def totals(runs: Mapping[str, Run], sizes: Mapping[str, int]) -> pd.DataFrame:
    """One row a run and task: batches drawn and expected, and passes over the task's training examples."""
    rows = []
    for name, run in runs.items():
        table, steps, batch = draws(run, sizes), run.experiment.steps, run.experiment.batch_size
        for task, group in table.groupby("task", sort=False):
            drawn = int(group["batches"].sum())
            counts = {"batches": drawn, "expected": float(steps * group["probability"].sum())}
            rows.append({"sampler": name, "task": task} | counts | {"passes": drawn * batch / sizes[task]})
    return pd.DataFrame(rows)


def sampling_figure(tables: Mapping[str, pd.DataFrame], order: Sequence[str] | None = None) -> Figure:
    """Probability of each task by epoch (lines) and its share of the drawn batches (hollow markers), a panel a table.

    `tables` maps a panel's title to a table of `probabilities` or `draws`. order: the tasks, default as they come.
    """
    use_style()
    figure, panels = plt.subplots(1, len(tables), figsize=(PAGE_WIDTH, 2.3), sharey=True, squeeze=False)
    for axes, (title, table) in zip(panels.flat, tables.items(), strict=True):
        for index, task in enumerate(order or table["task"].unique()):
            rows, colour = table[table["task"] == task], colour_of(task)
            axes.plot(rows["epoch"], rows["probability"], color=colour, label=title_of(task))
            if "share" in rows:
                style = {"color": colour, "markerfacecolor": "white", "linestyle": "", "clip_on": False, "zorder": 3}
                axes.plot(rows["epoch"], rows["share"], marker=MARKERS[index], **style)
        axes.set(title=title, xlabel="epoch", ylim=(0, 1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    panels[0, 0].set_ylabel("share of the steps")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    if any("share" in table for table in tables.values()):
        handles.append(plt.Line2D([], [], color="#555555", marker="o", markerfacecolor="white", linestyle=""))
        labels.append("drawn")
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure
