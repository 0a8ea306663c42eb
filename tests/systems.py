"""Made-up systems: predictions of the three tasks on the same examples, with a chosen share of right answers."""

import numpy as np
import pandas as pd

from mtlib.study.eval_splits import Stored


def classes(right, labels=None):
    """Predictions of QQP that are right where `right` says so."""
    right = np.asarray(right, bool)
    labels = np.arange(len(right)) % 2 if labels is None else labels
    ids = [f"q{i:05d}" for i in range(len(right))]
    return pd.DataFrame({"id": ids, "label": labels, "prediction": np.where(right, labels, 1 - labels)})


def values(labels, predictions):
    """Predictions of a regression, or of any classes."""
    ids = [f"s{i:05d}" for i in range(len(labels))]
    return pd.DataFrame({"id": ids, "label": np.asarray(labels, float), "prediction": np.asarray(predictions, float)})


def system(seed, n=400, skill=0.8, noise=1.0):
    """A system with predictions for three tasks on the same examples as every other."""
    base, own = np.random.default_rng(7), np.random.default_rng(seed)
    sst = base.integers(0, 5, n)
    similarity = base.uniform(0, 5, n)
    frames = {
        "sst": values(sst, np.where(own.random(n) < skill, sst, (sst + 1) % 5)),
        "qqp": classes(own.random(n) < skill),
        "sts": values(similarity, similarity + own.normal(0, noise, n)),
    }
    return Stored({(split, task): frame for split in ("dev", "test") for task, frame in frames.items()})
