"""Chosen pairs of systems: the same numbers as `compare`, evenness by hand, Holm over all, and the words."""

import numpy as np
import pandas as pd
import pytest

from mtlib.errors import ConfigurationError
from mtlib.study.comparisons import pairs, verdict, verdicts
from mtlib.study.parts import THREE, Dev, Stored, task_scores
from mtlib.study.statistics import compare, holm

N = 120


def system(seed, right):
    """Predictions on dev that are right for a share of the examples; similarity with noise instead."""
    rng, labels = np.random.default_rng(seed), np.random.default_rng(99)
    frames = {}
    for task, classes in (("sst", 5), ("qqp", 2), ("sts", None)):
        label = labels.integers(classes, size=N) if classes else labels.uniform(0, 5, N)
        wrong = (label + 1) % classes if classes else label + rng.normal(0, 4 * (1 - right), N)
        prediction = np.where(rng.random(N) < right, label, wrong) if classes else wrong
        frames["dev", task] = pd.DataFrame({"id": [str(i) for i in range(N)], "label": label, "prediction": prediction})
    return Stored(frames)


@pytest.fixture(scope="module")
def systems():
    return {"weak": system(0, 0.4), "middle": system(1, 0.6), "strong": system(2, 0.9)}


def test_pairs_are_comparisons_with_evenness(systems):
    table = pairs(systems, [("weak", "middle"), ("middle", "strong")], Dev(), draws=500)
    assert table[["system", "against"]].drop_duplicates().to_numpy().tolist() == [
        ["middle", "weak"],
        ["strong", "middle"],
    ]
    alone = compare({name: systems[name] for name in ("middle", "strong")}, "middle", Dev(), draws=500)
    columns = ["task", "baseline", "score", "difference", "low", "high", "p", "p_mcnemar"]
    mine = table[(table["system"] == "strong") & (table["task"] != "evenness")]
    pd.testing.assert_frame_equal(mine[columns].reset_index(drop=True), alone[columns])
    np.testing.assert_array_equal(table["p_holm"], holm(table["p"]))

    evenness = table[table["task"] == "evenness"].set_index("system")
    for name, first in (("middle", "weak"), ("strong", "middle")):
        a, b = (1 - np.ptp([task_scores(systems[s], Dev())[task] for task in THREE]) for s in (first, name))
        assert evenness.loc[name, ["baseline", "score", "difference"]].tolist() == pytest.approx([a, b, b - a])
        assert evenness.loc[name, "low"] <= b - a <= evenness.loc[name, "high"]


def test_a_system_equals_itself(systems):
    table = pairs({"a": systems["weak"], "b": systems["weak"]}, [("a", "b")], Dev(), draws=200)
    assert (table[["difference", "low", "high"]] == 0).all(axis=None) and (table["resolved"] == "no").all()


def test_undefined_scores_are_said_to_be_undefined(systems):
    constant = Stored({key: frame.assign(prediction=1) for key, frame in systems["weak"].frames.items()})
    table = pairs({"a": systems["weak"], "b": constant}, [("a", "b")], Dev(), draws=200).set_index("task")
    assert table.loc[["sts", "mean", "evenness"], "resolved"].tolist() == ["undefined"] * 3
    assert "undefined" in verdict(table.loc["mean"]) and table.loc["sst", "resolved"] != "undefined"


def test_unknown_system_is_refused(systems):
    with pytest.raises(ConfigurationError, match="found 'absent'"):
        pairs(systems, [("weak", "absent")], Dev())


@pytest.mark.parametrize(
    ("resolved", "difference", "word"),
    [("yes", 0.1, "better"), ("yes", -0.1, "worse"), ("no", 0.1, "not resolved"), ("undefined", np.nan, "undefined")],
)
def test_verdict(resolved, difference, word):
    row = {"system": "x", "against": "y", "task": "mean", "resolved": resolved, "difference": difference}
    row |= {"low": difference - 0.05, "high": difference + 0.05}
    assert verdict(row).startswith(word)
    sentence = verdicts(pd.DataFrame([row, row | {"task": "sst"}]))
    assert len(sentence) == 1 and sentence[0].startswith(f"x against y, mean: {word}")
