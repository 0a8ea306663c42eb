"""Are probabilities true? Expected calibration error, reliability diagrams, temperature scaling (Guo et al., 2017)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar

from mtlib.errors import DataError
from mtlib.study.parts import ChoosingHalf, Part, System, require_choosing


def probabilities(frame: pd.DataFrame) -> np.ndarray:
    """The class probabilities [n, classes] of stored predictions; raises DataError when there are none."""
    columns = [f"p{index}" for index in range(len(frame.columns)) if f"p{index}" in frame.columns]
    if len(columns) < 2:
        raise DataError(f"class probabilities: expected the columns p0, p1, ..., found {list(frame.columns)}")
    return frame[columns].to_numpy(float)


def reliability(frame: pd.DataFrame, bins: int = 15) -> pd.DataFrame:
    """Reliability diagram of predictions with probabilities: one row for each bin of confidence.

    The confidence is the largest class probability, the bins are equally wide and closed on the right. Columns: low,
    high, count, confidence (mean), accuracy (share of right answers); the last two are NaN in an empty bin.
    """
    table = probabilities(frame)
    confidence, right = table.max(axis=1), table.argmax(axis=1) == frame["label"].to_numpy()
    places = np.clip(np.ceil(confidence * bins - 1e-9).astype(int) - 1, 0, bins - 1)
    count = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(places, weights=confidence, minlength=bins) / count
        share = np.bincount(places, weights=right, minlength=bins) / count
    edges = np.linspace(0, 1, bins + 1)
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:], "count": count, "confidence": mean, "accuracy": share})


def expected_calibration_error(frame: pd.DataFrame, bins: int = 15) -> float:
    """Mean distance between confidence and accuracy, weighted by the examples of each bin (Guo et al., eq. 3)."""
    diagram = reliability(frame, bins).query("count > 0")
    gap = (diagram["accuracy"] - diagram["confidence"]).abs()
    return float((gap * diagram["count"]).sum() / diagram["count"].sum())


def log_loss(frame: pd.DataFrame) -> float:
    """Mean negative log probability of the labels, in nats."""
    table = np.clip(probabilities(frame), 1e-12, 1)
    return float(-np.log(table[np.arange(len(frame)), frame["label"].to_numpy(int)]).mean())


def scaled(frame: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """The frame with probabilities of logits divided by `temperature`; predictions stay as they are."""
    logits = np.log(np.clip(probabilities(frame), 1e-12, 1)) / temperature
    table = np.exp(logits - logits.max(axis=1, keepdims=True))
    table /= table.sum(axis=1, keepdims=True)
    return frame.assign(**{f"p{index}": table[:, index] for index in range(table.shape[1])})


def fit_temperature(system: System, half: ChoosingHalf, task: str) -> float:
    """The temperature in [0.05, 20] with the least log loss on the choosing half of dev."""
    frame = require_choosing(half).predictions(system, task)
    found = minimize_scalar(
        lambda log_t: log_loss(scaled(frame, float(np.exp(log_t)))), bounds=np.log([0.05, 20]), method="bounded"
    )
    return float(np.exp(found.x))


def calibration_table(system: System, on: Part, tasks: Sequence[str] = ("sst", "qqp"), bins: int = 15) -> pd.DataFrame:
    """Calibration on `on`, before and after temperature scaling fitted on the choosing half of dev.

    Columns: task, temperature, ece, ece scaled, log loss, log loss scaled.
    """
    rows = []
    for task in tasks:
        frame, temperature = on.predictions(system, task), fit_temperature(system, ChoosingHalf(), task)
        after = scaled(frame, temperature)
        rows.append(
            {"task": task, "temperature": temperature, "ece": expected_calibration_error(frame, bins)}
            | {"ece scaled": expected_calibration_error(after, bins)}
            | {"log loss": log_loss(frame), "log loss scaled": log_loss(after)}
        )
    return pd.DataFrame(rows)
