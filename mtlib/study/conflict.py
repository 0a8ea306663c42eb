"""Who fights whom, where and when: the tasks' gradients compared over a run, from its conflict log."""

from collections.abc import Iterator
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mtlib.study.plots import PAGE_WIDTH, title_of, use_style
from mtlib.study.statistics import mean_interval
from mtlib.tasks import in_order
from mtlib.training.conflicts import WHOLE, read
from mtlib.training.runs import Run

BINS = 20
"""Columns of a heat map, where more steps were logged."""


def gramians(run: Run) -> Iterator[tuple[int, str, pd.DataFrame]]:
    """Step (from 1), layer ("all" is the whole encoder) and Gram matrix, tasks by tasks, of every logged entry."""
    tasks = list(run.experiment.task_names)
    for (step, layer), rows in read(run).groupby(["step", "layer"], sort=False):
        matrix = pd.DataFrame(np.nan, index=tasks, columns=tasks)
        for a, b, product in zip(rows["a"], rows["b"], rows["product"], strict=True):
            matrix.loc[a, b] = matrix.loc[b, a] = product
        yield int(step), str(layer), matrix


def cosines(run: Run) -> pd.DataFrame:
    """One row a logged step, layer and pair of tasks: step, layer, pair, cosine of their gradients, ratio of lengths.

    ratio: the first task's length over the second's. NaN where a gradient is zero.
    """
    rows, tasks = [], in_order(run.experiment.task_names)
    for step, layer, products in gramians(run):
        for a, b in combinations(tasks, 2):
            first, second = np.sqrt(products.loc[a, a]), np.sqrt(products.loc[b, b])
            lengths = first * second
            cosine, ratio = (products.loc[a, b] / lengths, first / second) if lengths else (np.nan, np.nan)
            rows.append({"step": step, "layer": layer, "pair": f"{a}, {b}", "cosine": cosine, "ratio": ratio})
    return pd.DataFrame(rows)


def conflict_table(run: Run) -> pd.DataFrame:
    """One row a layer, a column a pair of tasks: the share of the logged steps at which they conflict (cosine < 0).

    Steps at which a gradient is zero have no cosine and do not count; the share of none is NaN.
    """
    table = cosines(run)
    conflict = (table["cosine"] < 0).where(table["cosine"].notna()).astype(float)
    shares = table.assign(conflict=conflict).groupby(["layer", "pair"], sort=False)["conflict"].mean()
    return shares.unstack("pair").loc[table["layer"].unique(), table["pair"].unique()]


def mean_cosines(run: Run) -> pd.DataFrame:
    """One row a pair of tasks, of the whole encoder: pair, n (logged steps), mean cosine, low, high (95 % bootstrap).

    Steps are drawn as if they knew nothing of each other.
    """
    table, rows = cosines(run).query("layer == @WHOLE").dropna(subset="cosine"), []
    for pair, own in table.groupby("pair", sort=False):
        mean, low, high = mean_interval(own["cosine"])
        name = " and ".join(title_of(task) for task in str(pair).split(", "))
        rows.append({"pair": name, "n": len(own), "cosine": mean, "low": low, "high": high})
    return pd.DataFrame(rows, columns=["pair", "n", "cosine", "low", "high"])


def layer_label(layer: str) -> str:
    """A layer's name in figures: its number, or its last word; "shared by layers" is what the encoder's stack owns."""
    last = layer.rsplit(".", 1)[-1].replace("encoder", "shared by layers")
    return f"layer {int(last) + 1}" if last.isdigit() else "whole encoder" if layer == WHOLE else last


def conflict_plot(run: Run) -> Figure:
    """Cosine of each pair of tasks' gradients over training: of the whole encoder (top) and by layer (below).

    Points are single steps; line and colours are means over bins of steps. Blue agrees, red conflicts.
    """
    use_style()
    table = cosines(run)
    pairs, layers = table["pair"].unique(), [layer for layer in table["layer"].unique() if layer != WHOLE]
    steps = table["step"].unique()
    edges = np.linspace(steps.min() - 0.5, steps.max() + 0.5, min(BINS, len(steps)) + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    table = table.assign(bin=np.digitize(table["step"], edges) - 1)
    width = PAGE_WIDTH * max(1, len(pairs) / 4)
    figure, places = plt.subplots(
        2, len(pairs), figsize=(width, 3.4), sharex=True, sharey="row", squeeze=False, height_ratios=[1, 1.1]
    )
    limit = max(0.05, table.groupby(["pair", "layer", "bin"])["cosine"].mean().abs().max())
    for column, pair in enumerate(pairs):
        own = table[table["pair"] == pair]
        whole = own[own["layer"] == WHOLE]
        top, below = places[:, column]
        top.axhline(0, color="#777777", linewidth=0.8)
        top.plot(whole["step"], whole["cosine"], ".", color="#AAAAAA", markersize=3.5, label="one logged step")
        means = whole.groupby("bin")["cosine"].mean().reindex(range(len(middles)))
        top.plot(middles, means, color="#333333", linewidth=1.2, label="mean of neighbouring steps")
        top.set_title(" and ".join(title_of(task) for task in pair.split(", ")))
        grid = own[own["layer"] != WHOLE].pivot_table(index="layer", columns="bin", values="cosine", sort=False)
        grid = grid.reindex(index=layers, columns=range(len(middles)))
        shown = below.pcolormesh(edges, np.arange(len(layers) + 1), grid, cmap="RdBu", vmin=-limit, vmax=limit)
        below.set_yticks(np.arange(len(layers)) + 0.5, [layer_label(layer) for layer in layers])
        below.grid(False)
        below.set_xlabel("step")
        below.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    places[0, 0].set_ylabel("cosine, whole encoder")
    figure.legend(*places[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    figure.colorbar(shown, ax=places[1].tolist(), label="cosine", pad=0.01)
    return figure
