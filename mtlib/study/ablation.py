"""SMART taken apart: its controls, the ball at several radii, and the ladder from no penalty to an adversary."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from mtlib.objectives.smart import Smart
from mtlib.study import comparisons
from mtlib.study.grids import WEIGHT, Study
from mtlib.training.runs import Run

LADDER = ("none", "consistency", "random", "adversarial")
"""What each rung adds: dropout alone, a penalty between two masks, noise of the adversary's radius, the adversary."""

RUNGS = list(zip(LADDER, LADDER[1:], strict=False))
"""Each rung with the one before it: the pairs whose differences say what the step is worth."""


SYSTEMS: dict[str, Callable[[Study], Run]] = {
    name + ending: lambda study, call=name + tail, sampler=sampler, penalty=penalty: study.run(
        call, sampler=sampler, penalties=penalty
    )
    for name, sampler in (("baseline", "round_robin"), ("annealed", "annealed"))
    for ending, tail, penalty in (
        ("", "", []),
        ("+SMART", "-smart", [Smart(weight=WEIGHT)]),
        (", no dropout", "-no-dropout", [Smart(weight=0.0, dropout="off")]),
    )
}
"""Table 7's rows with and without SMART, and for each sampler a control without dropout and without a penalty."""


def systems(study: Study) -> dict[str, Run]:
    """The runs of SYSTEMS."""
    return {name: make(study) for name, make in SYSTEMS.items()}


def ball(study: Study, radius: float) -> Run:
    """Annealed sampling and SMART in its mode "ball", dropout off, with the preset's `ball_weight`."""
    return _annealed(study, f"ball-{radius:g}", dropout="off", **_ball(study, radius))


def best_radius(study: Study) -> float:
    """The radius whose ball, trained without dropout, has the best mean on the choosing half of dev."""
    return float(study.best({str(radius): ball(study, radius) for radius in study.preset.choices["radii"]}))


def ladder(study: Study, mode: str, radius: float | None = None) -> dict[str, Run]:
    """The four runs of LADDER for a mode of SMART, annealed sampling, dropout masks independent in every rung.

    With weight 0 and independent masks the loss is the task's alone and dropout is on: "none" is plain training.
    radius: the ball's, for mode "ball".
    """
    return {name: rung(study, name, mode, radius) for name in LADDER}


def rung(study: Study, name: str, mode: str, radius: float | None = None) -> Run:
    """The run called `name` of a `ladder`."""
    if name == "none":
        return study.run("annealed", sampler="annealed")
    options = _ball(study, radius) if mode == "ball" else {"mode": mode, "weight": WEIGHT}
    if name == "consistency":
        weight = options["weight"]
        return _annealed(study, f"consistency-{weight:g}", dropout="independent", direction="none", weight=weight)
    label = mode if radius is None else f"{mode}-{radius:g}"
    return _annealed(study, f"{label}-{name}", dropout="independent", direction=name, **options)


def _ball(study: Study, radius: float | None) -> dict[str, Any]:
    return {"mode": "ball", "radius": radius, "weight": study.preset.choices["ball_weight"]}


def _annealed(study: Study, name: str, **options) -> Run:
    return study.run(name, sampler="annealed", penalties=[Smart(**options)])


def realised(run: Run) -> dict[str, float]:
    """What the run's SMART logged: mean |d|_inf / mean|x|, mean penalty in the first and last epoch, skipped steps.

    A run without such a penalty, or with one of weight 0, has none of them.
    """
    history = run.history
    if "smart/penalty" not in history:
        return {"radius": np.nan, "first penalty": np.nan, "last penalty": np.nan, "skipped": 0}
    first, last = history["smart/penalty"].iloc[[0, -1]]
    numbers = {"radius": history["smart/radius"].mean(), "first penalty": first, "last penalty": last}
    return numbers | {"skipped": round(float((history["smart/skipped"] * run.experiment.steps).sum()))}


def answer(comparison: pd.DataFrame, task: str = "mean") -> str:
    """Adversary or noise, from the `comparisons.pairs` of a ladder's RUNGS: what the resolved steps allow to say."""
    rows = {row["system"]: row for row in comparison[comparison["task"] == task].to_dict("records")}
    said = {name: comparisons.verdict(row) for name, row in rows.items()}
    if any(row["resolved"] == "undefined" for row in rows.values()):
        return "undefined, for a score is"
    merit = rows["adversarial"]
    if merit["resolved"] == "yes":
        whose = "the adversary" if merit["difference"] > 0 else "not the adversary"
        return f"{whose}, which is {said['adversarial']} than noise of the same radius"
    helped = [
        name for name in ("consistency", "random") if rows[name]["resolved"] == "yes" and rows[name]["difference"] > 0
    ]
    if helped:
        return f"{' and '.join(helped)} helped; what the adversary adds is {said['adversarial']}"
    return f"neither can be told: no step before it helped, and what the adversary adds is {said['adversarial']}"
