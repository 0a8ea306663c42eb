"""Scores: accuracy, Pearson, their mean over the tasks, and evenness."""

from collections.abc import Mapping

import numpy as np


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Share of equal entries of two arrays [n]."""
    return float(np.mean(np.asarray(labels) == np.asarray(predictions)))


def pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Pearson's r of two arrays [n]; NaN where it is undefined (fewer than two values, or a constant array)."""
    labels, predictions = np.asarray(labels, float), np.asarray(predictions, float)
    if len(labels) < 2 or np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return float("nan")
    return float(np.corrcoef(labels, predictions)[0, 1])


def similarity_score(labels: np.ndarray, predictions: np.ndarray) -> float:
    """(r + 1) / 2, the report's similarity score; NaN where r is undefined."""
    return (pearson(labels, predictions) + 1) / 2


def mean_score(scores: Mapping[str, float]) -> float:
    """Arithmetic mean over the tasks; NaN if one of them is undefined."""
    return float(np.mean(list(scores.values())))


def evenness(scores: Mapping[str, float]) -> float:
    """1 - (max - min) over the tasks: 1 means equally good at all of them."""
    values = list(scores.values())
    return float(1 - np.ptp(values))
