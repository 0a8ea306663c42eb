"""A user's own grid of runs: read from a YAML file, trained by the pipeline, gathered into one table and one figure."""

import itertools
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure
from pydantic import Field, model_validator

from mtlib.config import Experiment, Strict, checked, nearest, preset
from mtlib.errors import ConfigurationError
from mtlib.study.figures import COLUMN_WIDTH, PALETTE, save, use_style
from mtlib.study.grids import Study, summary
from mtlib.study.parts import ReportingHalf, task_scores
from mtlib.study.statistics import compare, seeds_summary
from mtlib.study.tables import write_table
from mtlib.training.runs import Run

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Range(Strict):
    """Numbers at equal ratios, both ends among them; in YAML `{from: 1.0e-4, to: 1.0e-2, points: 3}`."""

    start: Annotated[Finite, Field(alias="from", gt=0)]
    end: Annotated[Finite, Field(alias="to", gt=0)]
    points: Annotated[int, Field(ge=2)]

    @property
    def values(self) -> list[float]:
        """The numbers, to six digits."""
        return [float(f"{value:.6g}") for value in np.geomspace(self.start, self.end, self.points)]


class Sweep(Strict):
    """Every combination of the grid's values at every seed.

    preset: whose experiment the runs start from. corpus: None is the preset's. experiment: fields of every run.
    grid: values by key: an experiment field, `sampler.FIELD`, or `KIND.FIELD` of a penalty that `experiment` has.
    """

    preset: str
    corpus: str | None = None
    seeds: Annotated[list[int], Field(min_length=1)] = [0]
    experiment: dict[str, Any] = {}
    grid: Annotated[dict[str, Annotated[list[Any], Field(min_length=1)] | Range], Field(min_length=1)]

    @model_validator(mode="after")
    def _known_keys(self):
        for key in self.grid:
            first, _, entry = key.partition(".")
            if first in ("seed", "name") or not entry and first not in Experiment.model_fields:
                raise ValueError(f"grid: {key!r} is no field to vary{nearest(key, Experiment.model_fields)}")
            if entry and first != "sampler" and first not in self.kinds:
                raise ValueError(f"grid: {key!r}: `experiment` has no penalty {first!r}, found {sorted(self.kinds)}")
        return self

    @model_validator(mode="after")
    def _once(self):
        for key, values in {"seeds": self.seeds, **self.grid}.items():
            if isinstance(values, list) and any(value in values[:place] for place, value in enumerate(values)):
                raise ValueError(f"{key}: a value occurs twice in {values}")
        return self

    @property
    def kinds(self) -> set[str]:
        """Kinds of the penalties that every run has."""
        return {entry["kind"] for entry in self.experiment.get("penalties", [])}

    def combinations(self) -> list[dict[str, Any]]:
        """One value a key, and the seed, for each run."""
        values = {key: each.values if isinstance(each, Range) else each for key, each in self.grid.items()}
        every = itertools.product(*values.values(), self.seeds)
        return [dict(zip([*values, "seed"], row, strict=True)) for row in every]

    def fields(self, chosen: dict[str, Any]) -> dict[str, Any]:
        """The experiment fields of one combination, the seed apart."""
        fields = {"penalties": [dict(entry) for entry in self.experiment.get("penalties", [])]}
        fields = {**self.experiment, **fields}
        for key, value in chosen.items():
            first, _, entry = key.partition(".")
            if not entry:
                fields[key] = value
            elif first == "sampler":
                sampler = fields.get("sampler", "round_robin")
                fields["sampler"] = ({"kind": sampler} if isinstance(sampler, str) else sampler) | {entry: value}
            else:
                next(penalty for penalty in fields["penalties"] if penalty["kind"] == first)[entry] = value
        return {key: value for key, value in fields.items() if key != "seed"}


def is_sweep(name: str) -> bool:
    """Whether `name` is the path of a sweep's file, not a preset."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return False
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return isinstance(content, dict) and "grid" in content


def read(path: str) -> Sweep:
    """The sweep in a YAML file; raises ConfigurationError naming the key, and for a run that cannot be meant."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: expected a sweep in YAML: {error}") from error
    sweep = checked(Sweep, content, path)
    base = preset(sweep.preset).experiment
    for chosen in sweep.combinations():
        checked(Experiment, {**base, **sweep.fields(chosen)}, f"{path}: {chosen}")
    return sweep


def runs(sweep: Sweep) -> list[tuple[str, Any]]:
    """Name and maker (a function of the study) of each run."""
    found = []
    for chosen in sweep.combinations():
        words = [f"{key.rpartition('.')[2]}-{value}" for key, value in chosen.items()]
        name = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(words)).strip("-.")[:90]
        found.append((name, partial(_made, seed=chosen["seed"], name=name, fields=sweep.fields(chosen))))
    return found


def _made(study: Study, seed: int, name: str, fields: dict[str, Any]) -> Run:
    return study.at(seed).run(name, **fields)


def gather(path: str, corpus: str | None = None, results: str | Path = "results", figures: str | Path = "figures"):
    """The table of a sweep's runs, one row a run; writes it and its figure, and trains what is missing.

    Into `<results>/tables/<sweep>-<corpus>/` as `sweep.{csv,md,tex}`; of several settings also `sweep_differences`, all
    against the first, and of several seeds `sweep_seeds`, both on the reporting half of dev. The figure is
    `<figures>/<sweep>-<corpus>/sweep.{pdf,png}`.
    """
    sweep = read(path)
    study = Study(sweep.preset, corpus or sweep.corpus, results, called=path)
    about = f"{study.corpus.title}, preset {sweep.preset}"  # reads the corpus, once for all seeds
    shown = [
        {key: str(value) if isinstance(value, (list, dict)) else value for key, value in chosen.items()}
        for chosen in sweep.combinations()
    ]
    trained = [make(study) for _, make in runs(sweep)]
    table = pd.DataFrame([chosen | summary(run) for chosen, run in zip(shown, trained, strict=True)])
    systems: dict[str, list[Run]] = defaultdict(list)
    for chosen, run in zip(shown, trained, strict=True):
        systems[", ".join(f"{key} {chosen[key]}" for key in sweep.grid)].append(run)
    for name, found in compared(systems).items():
        caption = f"Sweep {Path(path).stem}, reporting half of dev, {about}"
        write_table(found, f"sweep_{name}", study.tables, caption=caption)
    write_table(table, "sweep", study.tables, caption=f"Sweep {Path(path).stem} on dev, {about}")
    save(figure(table, list(sweep.grid)), "sweep", Path(figures) / study.tables.name)
    return table


def compared(systems: Mapping[str, Sequence[Run]]) -> dict[str, pd.DataFrame]:
    """What several settings and several seeds allow to say, on the reporting half and the tasks that all runs have.

    systems: the runs of each setting, one a seed. "differences": every setting against the first (`compare`), "seeds":
    mean, deviation and t-interval of each setting's scores (`seeds_summary`).
    """
    every = [run for found in systems.values() for run in found]
    tasks = [task for task in every[0].experiment.tasks if all(task in run.experiment.tasks for run in every)]
    tables, half = {}, ReportingHalf()
    if tasks and len(systems) > 1:
        tables["differences"] = compare(systems, next(iter(systems)), half, tasks)
    if tasks and len(every) > len(systems):
        scores = [{"setting": name} | task_scores(run, half, tasks) for name, found in systems.items() for run in found]
        tables["seeds"] = seeds_summary(pd.DataFrame(scores), ["setting"], (*tasks, "mean"))
    return tables


def figure(table: pd.DataFrame, keys: list[str]) -> Figure:
    """Mean dev score against each key's values, a panel a key: a dot a run, and the values' means, numbers joined."""
    use_style()
    size = (COLUMN_WIDTH * 0.8 * len(keys), 2.4)
    drawn, panels = plt.subplots(1, len(keys), figsize=size, sharey=True, squeeze=False)
    for axes, key in zip(panels.flat, keys, strict=True):
        values = table[key]
        numbers = pd.api.types.is_numeric_dtype(values) and values.dtype != bool
        if not numbers:
            values = values.astype(str).str.replace("_", " ")
            axes.tick_params("x", rotation=30)
            axes.margins(x=0.2)
        elif values.min() > 0 and values.max() >= 10 * values.min():
            axes.set_xscale("log")
        means = table.groupby(values, sort=numbers)["mean"].mean()
        line = "-" if numbers else "none"
        axes.plot(means.index, means, color=PALETTE[0], marker="o", linestyle=line, label="mean of the value's runs")
        axes.plot(values, table["mean"], ".", color="#777777", label="one run", zorder=1)
        axes.set_xlabel(key.replace("_", " "))
    panels[0, 0].set_ylabel("mean dev score")
    drawn.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return drawn
