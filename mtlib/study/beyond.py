"""Methods beyond the report, put side by side: which are trained, at what cost, and averaged weights as systems."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mtlib.checking import nearest
from mtlib.data.corpus import TITLES
from mtlib.data.phrases import phrases_file
from mtlib.errors import ConfigurationError
from mtlib.experiments import Experiment
from mtlib.study.eval_splits import Stored, System
from mtlib.study.study import Study
from mtlib.tasks import TASKS
from mtlib.training.runs import Run

Menu = Mapping[str, tuple[Experiment, float]]
"""By name, a method's experiment and what one of its steps costs in plain steps."""


def chosen(menu: Menu, methods: Sequence[str], study: Study) -> list[str]:
    """The methods that are trained: those named, without one that draws phrases where the corpus has none (it says so).

    Raises ConfigurationError for a name that is not on the menu.
    """
    for name in methods:
        if name not in menu:
            raise ConfigurationError(f"methods: unknown {name[:60]!r}{nearest(name, menu)}")
    left_out = [name for name in methods if menu[name][0].phrases and not _has_phrases(study, menu[name][0])]
    if left_out:
        print(f"Left out, for this corpus has no file of phrases: {', '.join(left_out)}")
    return [name for name in methods if name not in left_out]


def _has_phrases(study: Study, experiment: Experiment) -> bool:
    folder = "" if study.source in TITLES else study.root / study.source
    return any(phrases_file(folder, TASKS[task]) for task in experiment.tasks)


def at_equal_cost(menu: Menu) -> dict[str, Experiment]:
    """Every method that costs more than plain training once more, with as few steps as cost what a plain run does."""
    return {
        f"{name}, equal cost": experiment.but(steps_per_epoch=max(1, round(experiment.steps_per_epoch / cost)))
        for name, (experiment, cost) in menu.items()
        if cost > 1
    }


def averaged(runs: Sequence[Run]) -> dict[str, list[Stored]]:
    """Of runs that keep averages: their last weights and each average after the last epoch, as systems over seeds."""
    averages = getattr(runs[0].experiment, "averages", ())
    names = {"last weights": "last", **{each.kind.upper(): each.kind for each in averages}}
    systems: dict[str, list[Stored]] = {name: [] for name in names}
    for run in runs:
        for name, split in names.items():
            systems[name].append(
                Stored({("dev", task): run.predictions(split, task) for task in run.experiment.task_names})
            )
    return systems


def costs(systems: Mapping[str, Sequence[System]], nominal: Mapping[str, float], plain: str = "plain") -> pd.DataFrame:
    """Columns system, cost (of a step, in plain steps, as counted), measured cost (a run's seconds over a plain one's).

    Seconds hold the scoring of dev, and whatever else the machine did meanwhile; a system that is no run has none.
    """
    seconds = {name: np.mean([getattr(run, "seconds", np.nan) for run in runs]) for name, runs in systems.items()}
    rows = [(name, nominal.get(name.split(",")[0], 1.0), seconds[name] / seconds[plain]) for name in systems]
    return pd.DataFrame(rows, columns=["system", "cost", "measured cost"])
