"""Figures of a corpus: label balance, text lengths and difficulty."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mtlib.data.corpus import Corpus, tokens
from mtlib.study.plots import PAGE_WIDTH, PALETTE, colour_of, entries, panels, title_of, use_style
from mtlib.tasks import TASKS, Task, in_order

SCORES = {"majority": "s", "bag_of_words": "D", "ceiling": "^"}
"""Markers of the columns of a difficulty table."""


def label_balance(corpus: Corpus) -> Figure:
    """Share of each label in each labelled split, one panel a task; similarities are rounded."""
    balance = corpus.balance()
    figure, axes = panels(len(corpus.tasks), columns=3, height=2.0)
    for place, task in zip(axes, _tasks(corpus), strict=True):
        rows = balance[balance["task"] == task.name]
        looks = {"hue_order": list(rows["split"].unique()), "palette": PALETTE[: rows["split"].nunique()]}
        rows = rows.sort_values("label").assign(label=lambda given: given["label"].map("{:.10g}".format))
        seaborn.barplot(rows, x="label", y="share", hue="split", ax=place, **looks)
        place.set(title=title_of(task.name), xlabel=task.label_column.replace("_", " "), ylabel="")
        place.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        place.get_legend().remove()
    axes[0].set_ylabel("share of the examples")
    handles, names = entries(axes)
    figure.legend(handles, names, loc="outside upper center", ncols=len(names))
    return figure


def length_histograms(corpus: Corpus, tokenizer: Any, max_tokens: int, split: str = "train") -> Figure:
    """Tokens of the examples of `split`, one panel a task, with the limit beyond which they are cut."""
    figure, axes = panels(len(corpus.tasks), columns=3, height=1.8)
    cuts = {}
    for place, task in zip(axes, _tasks(corpus), strict=True):
        counts = tokens(getattr(corpus[task.name], split), tokenizer)
        seaborn.histplot(x=counts, bins=_bins(counts), color=colour_of(task.name), linewidth=0, alpha=0.85, ax=place)
        if counts.max() > 0.7 * max_tokens:
            cut = place.axvline(max_tokens, color="black", linestyle="--", linewidth=0.8)
            cuts[f"longer texts are cut at {max_tokens} tokens"] = cut
        place.set(title=title_of(task.name), xlabel="tokens", ylabel="")
        place.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes[0].set_ylabel(f"{split} examples")
    if cuts:
        figure.legend(cuts.values(), cuts, loc="outside upper center")
    return figure


def difficulty_ladder(table: pd.DataFrame) -> Figure:
    """Scores of a difficulty table (`mtlib.data.baselines.difficulty`) on one line a task, from no skill to perfect."""
    use_style()
    figure, place = plt.subplots(figsize=(PAGE_WIDTH, 0.55 + 0.32 * len(table)))
    table = table.set_index("task").loc[in_order(table["task"])].reset_index()
    present = [name for name in SCORES if name in table]
    heights = np.arange(len(table))[::-1]
    for height, (_, row) in zip(heights, table.iterrows(), strict=True):
        place.plot(row[present].to_numpy(float), [height] * len(present), color="#BBBBBB", zorder=1)
    for colour, name in zip(PALETTE, present, strict=False):
        place.scatter(table[name], heights, marker=SCORES[name], color=colour, label=name.replace("_", " "), zorder=2)
    place.set(xlabel="score", xlim=(0, 1), ylim=(-0.5, len(table) - 0.5))
    place.set_yticks(heights, [title_of(task) for task in table["task"]])
    figure.legend(loc="outside upper center", ncols=len(present))
    return figure


def _tasks(corpus: Corpus) -> list[Task]:
    return [TASKS[name] for name in in_order(corpus)]


def _bins(counts: np.ndarray) -> np.ndarray:
    """Edges between whole numbers, at most about thirty bins up to the longest example."""
    step = max(1, -(-int(np.ptp(counts) + 1) // 30))
    return np.arange(counts.min() - 0.5, counts.max() + step + 0.5, step)
