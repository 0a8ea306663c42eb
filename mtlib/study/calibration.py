"""Calibration: expected calibration error, reliability diagrams, temperature scaling (Guo et al., 2017)."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from mtlib.errors import DataError
from mtlib.model import MultitaskModel
from mtlib.randomness import generator
from mtlib.study.eval_splits import (
    CHOOSING,
    REPORTING,
    ChoosingHalf,
    Part,
    System,
    probabilities,
    require_choosing,
    tasks_of,
)
from mtlib.study.plots import COLUMN_WIDTH, MARKERS, PALETTE, use_style
from mtlib.study.statistics import mean_interval
from mtlib.tasks import TASKS
from mtlib.training.runs import Run

FEWEST = 5
"""Examples that a bin of confidence needs for its accuracy to be drawn."""


def reliability(frame: pd.DataFrame, bins: int = 15) -> pd.DataFrame:
    """Reliability diagram of predictions with probabilities: one row for each bin of confidence.

    The confidence is the largest class probability, the bins are equally wide and closed on the right. Columns: low,
    high, count, confidence (mean), accuracy (share of right answers); the last two are NaN in an empty bin.
    """
    table, edges = probabilities(frame), np.linspace(0, 1, bins + 1)
    answers = pd.DataFrame({"confidence": table.max(axis=1), "accuracy": table.argmax(axis=1) == frame["label"]})
    places = pd.cut(answers["confidence"].clip(upper=1), edges, labels=False)
    diagram = answers.groupby(places).mean().reindex(range(bins))
    diagram.insert(0, "count", places.value_counts().reindex(range(bins), fill_value=0))
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:]}).join(diagram)


def expected_calibration_error(frame: pd.DataFrame, bins: int = 15) -> float:
    """Mean distance between confidence and accuracy, weighted by the examples of each bin (Guo et al., eq. 3).

    Of no examples it is NaN.
    """
    if frame.empty:
        return float("nan")
    diagram = reliability(frame, bins).query("count > 0")
    return float(np.average((diagram["accuracy"] - diagram["confidence"]).abs(), weights=diagram["count"]))


def error_by_chance(frame: pd.DataFrame, bins: int = 15, *, draws: int = 2000, seed: int = 0) -> float:
    """The calibration error that probabilities like these stay below in 95 % of draws if they are true.

    So many examples never hit their probabilities exactly. Consistency resampling (Broecker and Smith 2007): each
    answer is right with its own confidence. Of no examples it is NaN.
    """
    if frame.empty:
        return float("nan")
    confidence = probabilities(frame).max(axis=1).clip(max=1)
    places = pd.cut(confidence, np.linspace(0, 1, bins + 1), labels=False)
    members = np.eye(bins, dtype=np.float32)[places]  # [n, bins]
    random = generator(seed, "calibration by chance", draws)
    gaps = (random.random((draws, len(frame))) < confidence) - confidence  # right minus confidence, [draws, n]
    return float(np.quantile(np.abs(gaps.astype(np.float32) @ members).sum(axis=1) / len(frame), 0.95))


def log_losses(frame: pd.DataFrame) -> np.ndarray:
    """Negative log probability of each label [n], in nats."""
    return -np.log(np.clip(probabilities(frame)[np.arange(len(frame)), frame["label"].astype(int)], 1e-12, 1))


def log_loss(frame: pd.DataFrame) -> float:
    """Mean negative log probability of the labels, in nats; of no examples NaN."""
    return float("nan") if frame.empty else float(log_losses(frame).mean())


def scaled(frame: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """The frame with probabilities of logits divided by `temperature`; predictions stay as they are."""
    table = softmax(np.log(np.clip(probabilities(frame), 1e-12, 1)) / temperature, axis=1)
    return frame.assign(**{f"p{index}": table[:, index] for index in range(table.shape[1])})


def fit_temperature(system: System, task: str, half: ChoosingHalf = CHOOSING) -> float:
    """The temperature in [0.05, 20] with the least log loss on the choosing half of dev.

    Raises DataError where that half has no example.
    """
    frame = require_choosing(half).predictions(system, task)
    if frame.empty:
        raise DataError(f"{task}: expected an example in the choosing half of dev to fit a temperature to, found none")
    optimum = minimize_scalar(
        lambda log_t: log_loss(scaled(frame, float(np.exp(log_t)))), bounds=np.log([0.05, 20]), method="bounded"
    )
    return float(np.exp(optimum.x))


def calibrated(run: Run) -> MultitaskModel:
    """A finished run's model, with the temperature of each task that has classes, fitted on its choosing half of dev.

    `predict(..., calibrated=True)` uses them, and `save_pretrained` and `push_to_hub` keep them.
    """
    model = run.model()
    with_classes = [task.name for task in model.tasks if task.kind != "regression"]
    model.temperatures = {name: fit_temperature(run, name) for name in with_classes}
    return model


def calibration_table(
    systems: Mapping[str, System], on: Part = REPORTING, tasks: Sequence[str] | None = None, bins: int = 15
) -> pd.DataFrame:
    """Calibration on `on`: a row as trained, at temperature 1, and one at the temperature that fits the choosing half.

    tasks: by default all of a system's that have classes. Columns: system, task, temperature, ece, by chance (what an
    ece stays below if the probabilities are true), log loss, change (of the log loss, against as trained), low, high
    (its 95 % interval over resampled examples).
    """
    rows = []
    for name, system in systems.items():
        for task in tasks or [task for task in tasks_of(system) if TASKS[task].kind != "regression"]:
            frame, fitted = on.predictions(system, task), fit_temperature(system, task)
            for temperature, after in ((1.0, frame), (fitted, scaled(frame, fitted))):
                row = {"system": name, "task": task, "temperature": temperature}
                row |= {"ece": expected_calibration_error(after, bins), "by chance": error_by_chance(after, bins)}
                change, low, high = mean_interval(log_losses(after) - log_losses(frame))
                rows.append(row | {"log loss": log_loss(after), "change": change, "low": low, "high": high})
    return pd.DataFrame(rows)


def reliability_plot(frames: Mapping[str, pd.DataFrame], title: str = "", bins: int = 15) -> Figure:
    """Accuracy by confidence, a line for each of the labelled predictions in `frames`; below, how many have it.

    The line leaves out bins of fewer than `FEWEST` examples, whose accuracy is chance; bars and ECE have them all.
    """
    use_style()
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(COLUMN_WIDTH, 3.4), sharex=True, gridspec_kw={"height_ratios": [3, 1]}
    )
    upper.plot([0, 1], [0, 1], color="#777777", linewidth=0.8, linestyle="--")
    for index, (label, frame) in enumerate(frames.items()):
        diagram, width = reliability(frame, bins), 0.8 / bins / len(frames)
        shown = diagram[diagram["count"] >= FEWEST]
        name = f"{label}, ECE {expected_calibration_error(frame, bins):.3f}"
        style = {"color": PALETTE[index % len(PALETTE)], "label": name}
        upper.plot(shown["confidence"], shown["accuracy"], marker=MARKERS[index % len(MARKERS)], **style)
        middle = (diagram["low"] + diagram["high"]) / 2 + (index - (len(frames) - 1) / 2) * width
        lower.bar(middle, diagram["count"] / len(frame), width, **style)
    upper.set(ylabel="accuracy", title=title, ylim=(-0.03, 1.03))
    figure.legend(*upper.get_legend_handles_labels(), loc="outside upper center", ncols=1)
    lower.set(xlabel="confidence (largest class probability)", ylabel="share of\nexamples", xlim=(0, 1.02))
    return figure
