"""A grid of one's own: read from a YAML file as experiments, which the notebook `sweep` trains and compares."""

import itertools
import math
from pathlib import Path
from typing import Annotated, Any, Self

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import Field, model_validator

from mtlib.checking import Strict, checked, nearest, shortened
from mtlib.errors import ConfigurationError
from mtlib.experiments import Experiment
from mtlib.numbers import Seed
from mtlib.presets import dotted, preset
from mtlib.study.plots import PAGE_WIDTH, colour_of, title_of, use_style
from mtlib.tasks import TASKS, in_order
from mtlib.yaml_files import read_yaml

LARGEST = 10_000
"""Runs of the largest sweep."""

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Range(Strict):
    """Numbers at equal ratios, both ends among them; in YAML `{from: 1.0e-4, to: 1.0e-2, points: 3}`."""

    start: Annotated[Finite, Field(alias="from", gt=0)]
    end: Annotated[Finite, Field(alias="to", gt=0)]
    points: Annotated[int, Field(ge=2, le=LARGEST)]

    @property
    def values(self) -> list[float]:
        """The numbers, to six digits."""
        return [float(f"{value:.6g}") for value in np.geomspace(self.start, self.end, self.points)]


class Sweep(Strict):
    """Every combination of the grid's values at every seed.

    preset: whose experiment the runs start from. corpus: "" is the preset's own. experiment: fields of every run.
    grid: values by key: an experiment field, `sampler.FIELD`, or `KIND.FIELD` of a penalty that `experiment` has.
    """

    preset: str
    corpus: str = ""
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    experiment: dict[str, Any] = {}
    grid: Annotated[dict[str, Annotated[list[Any], Field(min_length=1)] | Range], Field(min_length=1)]

    @model_validator(mode="after")
    def _known_keys(self) -> Self:
        if "seed" in self.experiment:
            raise ValueError("experiment: seed is not set here, but as `seeds`, of which each is trained")
        for key in self.grid:
            first, dot, entry = key.partition(".")
            if first in ("seed", "name") or not entry and (dot or first not in Experiment.model_fields):
                raise ValueError(f"grid: {key!r} is no field to vary{nearest(key, Experiment.model_fields)}")
            if entry and first != "sampler" and first not in self.kinds:
                raise ValueError(f"grid: {key!r}: `experiment` has no penalty {first!r}, found {sorted(self.kinds)}")
        return self

    @model_validator(mode="after")
    def _not_too_many(self) -> Self:
        sizes = [each.points if isinstance(each, Range) else len(each) for each in self.grid.values()]
        if (number := math.prod(sizes) * len(self.seeds)) > LARGEST:
            raise ValueError(f"grid: expected at most {LARGEST} runs, found {shortened(number)}")
        return self

    @model_validator(mode="after")
    def _once(self) -> Self:
        for key, given in {"seeds": self.seeds, **self.grid}.items():
            values = given.values if isinstance(given, Range) else given
            if any(value in values[:place] for place, value in enumerate(values)):
                raise ValueError(f"{key}: a value occurs twice in {shortened(values)}")
        return self

    @property
    def kinds(self) -> set[str]:
        """Kinds of the penalties that every run has."""
        entries = self.experiment.get("penalties", [])
        return (
            {str(entry.get("kind")) for entry in entries if isinstance(entry, dict)}
            if isinstance(entries, list)
            else set()
        )

    def combinations(self) -> list[dict[str, Any]]:
        """One value a key, and the seed, for each run."""
        values = {key: each.values if isinstance(each, Range) else each for key, each in self.grid.items()}
        every = itertools.product(*values.values(), self.seeds)
        return [dict(zip([*values, "seed"], row, strict=True)) for row in every]

    def experiments(self) -> dict[str, Experiment]:
        """An experiment for each combination, by its values in words: "radius 0.03, seed 0".

        Their tasks are the corpus', where this is a YAML file, unless `experiment` or the preset says which.
        Raises ConfigurationError naming the combination that is not a valid experiment, or the same as another.
        """
        given = preset(self.preset, self.corpus).fields({}) | self.experiment
        found: dict[str, Experiment] = {}
        first: dict[str, str] = {}
        for chosen in self.combinations():
            name = words(chosen)
            found[name] = checked(Experiment, dotted(given, chosen), f"sweep, {name[:200]}")
            if (other := first.setdefault(found[name].digest, name)) != name:
                raise ConfigurationError(f"sweep: one experiment twice, as {other[:200]!r} and as {name[:200]!r}")
        return found


def read(path: str, corpus: str = "") -> Sweep:
    """The sweep in a YAML file, on `corpus` instead of its own where one is given.

    Raises ConfigurationError naming the key, and for an impossible combination.
    """
    sweep = checked(Sweep, read_yaml(Path(path)), path)
    sweep = sweep.model_copy(update={"corpus": corpus or sweep.corpus})
    sweep.experiments()
    return sweep


def words(chosen: dict[str, Any]) -> str:
    """A combination's values in words: "smart.radius 0.03, seed 0"."""
    return ", ".join(f"{key} {value}" for key, value in chosen.items())


def figure(table: pd.DataFrame, keys: list[str]) -> Figure:
    """Dev scores against each key's values, a row a key, a panel a task and one for the mean.

    A dot is a run; the values' means are diamonds, joined where the values are numbers.
    """
    use_style()
    scores = [*in_order(name for name in table if name in TASKS), "mean"]
    size = (PAGE_WIDTH, 1.8 * len(keys) + 0.3)
    drawn, places = plt.subplots(len(keys), len(scores), figsize=size, sharex="row", squeeze=False)
    for row, key in zip(places, keys, strict=True):
        for axes, score in zip(row, scores, strict=True):
            _panel(axes, table, key, score)
    for axes, score in zip(places[0], scores, strict=True):
        axes.set_title(title_of(score), color=colour_of(score))
    drawn.supylabel("dev score", fontsize=8)
    drawn.legend(*places[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return drawn


def _panel(axes: Axes, table: pd.DataFrame, key: str, score: str) -> None:
    values = table[key]
    numbers = pd.api.types.is_numeric_dtype(values) and values.dtype != bool
    if not numbers:
        values = values.astype(str).str.replace("_", " ")
        axes.tick_params("x", rotation=30 if values.nunique() > 2 else 0)
        axes.margins(x=0.4)
    elif values.min() > 0 and values.max() >= 10 * values.min():
        axes.set_xscale("log")
        axes.set_xticks(sorted(set(values)), [f"{value:g}" for value in sorted(set(values))])
        axes.xaxis.set_minor_formatter("")
    means, line = table.groupby(values, sort=numbers)[score].mean(), "-" if numbers else "none"
    axes.plot(values, table[score], ".", color="#777777", label="one run")
    axes.plot(means.index, means, color=colour_of(score), marker="D", linestyle=line, label="mean of the value's runs")
    axes.set_xlabel(key.replace("_", " "))
