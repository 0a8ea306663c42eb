"""Scores: accuracy, Pearson, their mean over the tasks, and evenness."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike


def accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Share of equal entries of two arrays [n]; NaN where there are none.

    >>> accuracy([0, 1, 2, 3], [0, 1, 2, 0])
    0.75
    """
    labels, predictions = _paired(labels, predictions)
    return float(np.mean(labels == predictions)) if len(labels) else float("nan")


def pearson(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Pearson's r of two arrays [n].

    NaN where it is undefined: fewer than two values, a constant array, a value that is not a finite number.

    >>> pearson([1, 2, 3], [2, 4, 6]), pearson([1, 1], [0, 1])
    (1.0, nan)
    """
    labels, predictions = (values.astype(float) for values in _paired(labels, predictions))
    if len(labels) < 2 or not (np.isfinite(labels).all() and np.isfinite(predictions).all()):
        return float("nan")
    labels, predictions = _scaled(labels), _scaled(predictions)
    if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return float("nan")
    return float(np.corrcoef(labels, predictions)[0, 1])


def similarity_score(labels: ArrayLike, predictions: ArrayLike) -> float:
    """(r + 1) / 2, the report's similarity score; NaN where r is undefined."""
    return (pearson(labels, predictions) + 1) / 2


def mean_score(scores: Mapping[str, float]) -> float:
    """Arithmetic mean over the tasks; NaN if one of them is undefined."""
    return float(np.mean(list(scores.values())))


def evenness(scores: Mapping[str, float]) -> float:
    """1 - (max - min) over the tasks: 1 means equally good at all of them."""
    values = list(scores.values())
    return float(1 - np.ptp(values))


def _paired(labels: ArrayLike, predictions: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays [n]. Raises ValueError for other shapes: numpy would compare one value with all of the others."""
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape or labels.ndim != 1:
        raise ValueError(f"expected two arrays [n], found {list(labels.shape)} and {list(predictions.shape)}")
    return labels, predictions


def _scaled(values: np.ndarray) -> np.ndarray:
    """The values divided, exactly, by a power of two near the largest: their squares neither overflow nor vanish."""
    return np.ldexp(values, -int(np.frexp(np.abs(values).max())[1]))
