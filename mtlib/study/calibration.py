"""Calibration: expected calibration error, reliability diagrams, temperature scaling (Guo et al., 2017)."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn import metrics

from mtlib.model import MultitaskModel
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


def log_loss(frame: pd.DataFrame) -> float:
    """Mean negative log probability of the labels, in nats; of no examples NaN."""
    if frame.empty:
        return float("nan")
    table = probabilities(frame)
    return float(metrics.log_loss(frame["label"].astype(int), table, labels=range(table.shape[1])))


def scaled(frame: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """The frame with probabilities of logits divided by `temperature`; predictions stay as they are."""
    table = softmax(np.log(np.clip(probabilities(frame), 1e-12, 1)) / temperature, axis=1)
    return frame.assign(**{f"p{index}": table[:, index] for index in range(table.shape[1])})


def fit_temperature(system: System, task: str, half: ChoosingHalf = CHOOSING) -> float:
    """The temperature in [0.05, 20] with the least log loss on the choosing half of dev."""
    frame = require_choosing(half).predictions(system, task)
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
    """Calibration on `on`, before and after temperature scaling fitted on the choosing half of dev.

    tasks: by default all of a system's that have classes. Columns: system, task, temperature, ece, ece scaled, log
    loss, log loss scaled.
    """
    rows = []
    for name, system in systems.items():
        for task in tasks or [task for task in tasks_of(system) if TASKS[task].kind != "regression"]:
            frame, temperature = on.predictions(system, task), fit_temperature(system, task)
            after = scaled(frame, temperature)
            row = {"system": name, "task": task, "temperature": temperature}
            row |= {"ece": expected_calibration_error(frame, bins)}
            row |= {"ece scaled": expected_calibration_error(after, bins)}
            rows.append(row | {"log loss": log_loss(frame), "log loss scaled": log_loss(after)})
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
