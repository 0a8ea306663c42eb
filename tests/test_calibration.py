"""Calibration against closed forms and simulated probabilities."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from mtlib.errors import ConfigurationError, DataError
from mtlib.study import calibration as c
from mtlib.study.eval_splits import ChoosingHalf, ReportingHalf, Stored, Test, probabilities


def simulated(n=6000, sharpen=1.0, classes=3, seed=0):
    """Labels drawn from true probabilities; the stated ones have logits `sharpen` times too large."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, (n, classes))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) > random.random((n, 1))).argmax(axis=1)
    frame = pd.DataFrame({"id": [f"c{i}" for i in range(n)], "label": labels, "prediction": true.argmax(axis=1)})
    frame = frame.assign(**{f"p{k}": true[:, k] for k in range(classes)})
    return c.scaled(frame, 1 / sharpen)


def test_closed_form_of_two_bins():
    frame = pd.DataFrame({"label": [0, 0, 1, 1], "p0": [0.9, 0.9, 0.9, 0.3], "p1": [0.1, 0.1, 0.1, 0.7]})
    # Confidence .9: 3 examples, 2 right; confidence .7: 1 example, right.
    assert c.expected_calibration_error(frame, 10) == pytest.approx(0.75 * abs(2 / 3 - 0.9) + 0.25 * 0.3)
    diagram = c.reliability(frame, 10)
    assert diagram["count"].sum() == 4 and diagram.loc[8, "count"] == 3 and diagram.loc[6, "accuracy"] == 1
    assert np.isnan(diagram.loc[0, "accuracy"])


def test_bin_edges_belong_to_the_bin_below():
    frame = pd.DataFrame({"label": [0, 0], "p0": [0.6, 1.0], "p1": [0.4, 0.0]})
    assert list(np.flatnonzero(c.reliability(frame, 5)["count"])) == [2, 4]


def test_diagram_agrees_with_sklearn():
    frame = simulated(sharpen=2.0)
    table = probabilities(frame)
    right = table.argmax(axis=1) == frame["label"]
    share, confidence = calibration_curve(right, table.max(axis=1), n_bins=15)
    diagram = c.reliability(frame, 15).query("count > 0")
    assert diagram["accuracy"].to_numpy() == pytest.approx(share)
    assert diagram["confidence"].to_numpy() == pytest.approx(confidence)


def test_true_probabilities_are_calibrated_and_sharp_ones_are_not():
    assert c.expected_calibration_error(simulated(20_000)) < 0.015
    assert c.expected_calibration_error(simulated(sharpen=3)) > 0.1


def test_log_loss_agrees_with_sklearn():
    frame = simulated(sharpen=2)
    assert c.log_loss(frame) == pytest.approx(log_loss(frame["label"], probabilities(frame)))


def test_chance_is_the_error_of_labels_that_are_drawn_from_the_probabilities():
    errors = [c.expected_calibration_error(simulated(500, seed=seed)) for seed in range(300)]
    limits = [c.error_by_chance(simulated(500, seed=seed)) for seed in range(5)]
    assert limits == pytest.approx([np.quantile(errors, 0.95)] * 5, rel=0.12)
    sure = pd.DataFrame({"label": [0, 1], "p0": [1.0, 1.0], "p1": [0.0, 0.0]})
    assert c.error_by_chance(sure) == 0


def test_of_no_examples_there_is_no_calibration():
    none = simulated(5).head(0)
    assert np.isnan(c.error_by_chance(none))
    assert np.isnan(c.expected_calibration_error(none)) and np.isnan(c.log_loss(none))


def test_temperature_divides_logits():
    frame = pd.DataFrame({"label": [1], "p0": [0.2], "p1": [0.8]})
    scaled = c.scaled(frame, 2.0)
    assert scaled["p1"].item() == pytest.approx(1 / (1 + np.exp(-np.log(4) / 2)))
    pd.testing.assert_frame_equal(c.scaled(frame, 1.0), frame)
    assert c.scaled(frame, 1e6)["p1"].item() == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("sharpen", [0.5, 1.0, 2.5])
def test_temperature_scaling_finds_the_factor_and_helps_on_the_other_half(sharpen):
    system = Stored({("dev", "sst"): simulated(sharpen=sharpen)})
    assert c.fit_temperature(system, "sst", ChoosingHalf()) == pytest.approx(sharpen, rel=0.06)
    before, after = c.calibration_table({"it": system}, ReportingHalf()).to_dict("records")
    assert (before["system"], before["task"], before["temperature"]) == ("it", "sst", 1)
    assert before["change"] == before["low"] == before["high"] == 0
    assert after["change"] == pytest.approx(after["log loss"] - before["log loss"])
    assert after["low"] <= after["change"] <= after["high"]
    assert (after["high"] < 0) == (before["ece"] > before["by chance"]) == (sharpen != 1)
    assert after["ece"] < after["by chance"]


def test_fitting_reads_the_choosing_half_only():
    system = Stored({("dev", "sst"): simulated()})
    for part in (ReportingHalf(), Test()):
        with pytest.raises(ConfigurationError, match="ChoosingHalf"):
            c.fit_temperature(system, "sst", part)


def test_a_temperature_needs_an_example():
    frame = pd.DataFrame({"id": [], "label": [], "prediction": [], "p0": [], "p1": []})
    with pytest.raises(DataError, match="qqp: expected an example in the choosing half of dev"):
        c.fit_temperature(Stored({("dev", "qqp"): frame}), "qqp")


def test_reliability_is_drawn_with_its_error():
    figure = c.reliability_plot({"as trained": simulated(300), "scaled": c.scaled(simulated(300), 2.0)}, "SST-5")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    error = c.expected_calibration_error(simulated(300))
    assert names[0] == f"as trained, ECE {error:.3f}" and len(names) == 2
    assert sum(bar.get_height() for bar in figure.axes[1].patches) == pytest.approx(2)
    full = (c.reliability(simulated(300))["count"] >= c.FEWEST).sum()
    assert len(figure.axes[0].lines[1].get_xdata()) == full
    plt.close(figure)
