"""Confusion, distances and mistakes against sklearn and numbers worked out by hand; their plots."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix

from mtlib.errors import DataError
from mtlib.study import errors as m
from mtlib.study import paper, plots


def frame_of(labels, predictions):
    return pd.DataFrame({"label": labels, "prediction": predictions})


def test_confusion_agrees_with_sklearn():
    random = np.random.default_rng(0)
    labels, predictions = random.integers(0, 5, 300), random.integers(0, 5, 300)
    public = confusion_matrix(labels, predictions, normalize="true")
    assert m.confusion(frame_of(labels, predictions), 5) == pytest.approx(public)
    assert np.isnan(m.confusion(frame_of([0, 0], [0, 1]), 3)[2]).all()


def test_cells_and_recalls_are_those_of_the_confusion():
    random = np.random.default_rng(1)
    frame = frame_of(random.integers(0, 5, 400), random.integers(0, 5, 400))
    shares = m.confusion(frame, 5)
    table = m.recalls(frame)
    assert table["recall"].to_numpy() == pytest.approx(np.diag(shares))
    assert (table["recall"] + table["called lower"] + table["called higher"]).to_numpy() == pytest.approx(1)
    assert table["class"].tolist()[::4] == ["very negative", "very positive"]


def test_ordinal_summary_by_hand():
    labels, predictions = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 2, 0, 1])
    found = m.ordinal_summary(frame_of(labels, predictions), 3)
    assert found["accuracy"] == 0.5 and found["distance"] == pytest.approx(4 / 6)
    assert found[["recall 0", "recall 1", "recall 2"]].tolist() == pytest.approx([1 / 2, 1, 1 / 3])
    assert found["adjacent"] == pytest.approx(2 / 3)
    # Quadratic kappa: 1 - sum w O / sum w E, with O the counts and E the product of the margins.
    weights = np.subtract.outer(np.arange(3), np.arange(3)) ** 2
    expected = np.outer([2, 1, 3], [2, 3, 1]) / 6
    assert found["kappa"] == pytest.approx(1 - (1 + 4 + 1) / (weights * expected).sum())
    perfect = m.ordinal_summary(frame_of(labels, labels), 3)
    assert perfect["kappa"] == 1 and perfect["distance"] == 0 and np.isnan(perfect["adjacent"])


def predictions():
    return pd.DataFrame(
        {"id": ["d", "a", "b", "c"], "label": [0, 1, 1, 0], "prediction": [0, 0, 0, 1]}
        | {"p0": [0.99, 0.7, 0.9, 0.2], "p1": [0.01, 0.3, 0.1, 0.8]}
    )


def examples():
    return pd.DataFrame({"id": list("abcd"), "text_a": ["x", "x y", "x y z", "w"], "text_b": ["q"] * 4})


def test_worst_mistakes_are_wrong_confident_and_have_their_own_text():
    found = m.worst_mistakes(predictions(), examples(), 2)
    assert found["id"].tolist() == ["b", "c"] and found["text_a"].tolist() == ["x y", "x y z"]
    assert found["confidence"].tolist() == [0.9, 0.8]
    values = predictions()[["id", "label"]].assign(prediction=[0.5, 1.0, 4.0, 0.25])
    assert m.worst_mistakes(values, examples(), 2)["error"].tolist() == [3.0, 0.5]
    with pytest.raises(DataError, match="'d' has a prediction and no text"):
        m.worst_mistakes(predictions(), examples().iloc[:3])


def test_error_by_length_groups_words():
    n = 600
    random = np.random.default_rng(0)
    words = random.integers(1, 31, n)
    texts = pd.DataFrame({"id": [str(i) for i in range(n)], "text_a": ["w " * k for k in words]})
    wrong = random.random(n) < words / 60
    frame = pd.DataFrame({"id": texts["id"], "label": 0, "prediction": wrong.astype(int), "p0": 0.5, "p1": 0.5})
    table = m.error_by_length(frame, texts, bins=3)
    assert table["count"].sum() == n and table["shortest"].iloc[0] == words.min() and table["longest"].iloc[-1] == 30
    assert (table["shortest"].to_numpy()[1:] > table["longest"].to_numpy()[:-1]).all()
    inside = (words >= table["shortest"][1]) & (words <= table["longest"][1])
    assert table["error"][1] == pytest.approx(wrong[inside].mean())
    assert (table["low"] <= table["error"]).all() and (table["error"] <= table["high"]).all()
    longer = m.error_by_length(frame, texts.assign(text_b="a b"), bins=3)
    assert (longer["shortest"] == table["shortest"] + 2).all()


def test_texts_of_one_length_are_one_group():
    texts = examples().assign(text_a="two words", text_b="one")
    table = m.error_by_length(predictions(), texts)
    wrong = predictions()["label"] != predictions()["prediction"]
    assert table[["shortest", "longest", "count", "error"]].values.tolist() == [[3, 3, 4, wrong.mean()]]
    plt.close(m.length_plot({"sst": table}))


def test_confusion_is_drawn_with_right_answers_on_the_anti_diagonal():
    shares = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.0, 0.4, 0.6]])
    figure = m.confusion_plot(shares, ("low", "middle", "high"), caption=paper.confusion_facts())
    axes = figure.axes[0]
    figure.canvas.draw()
    places = {}
    for text in axes.texts:
        x, y = axes.transData.transform(text.get_position())
        places[text.get_text()] = (round(x), round(y))
    assert places["0.90"][0] < places["0.70"][0] < places["0.60"][0]
    assert places["0.90"][1] < places["0.70"][1] < places["0.60"][1]  # upwards: bottom left to top right
    bar = axes.child_axes[0].get_window_extent()
    assert (bar.y0, bar.y1) == pytest.approx((axes.get_window_extent().y0, axes.get_window_extent().y1))
    assert "0 called 1: 0.62" in figure._supxlabel.get_text().replace("\n", " ")


def test_every_plot_has_labelled_axes(tmp_path):
    table = pd.DataFrame({"shortest": [1, 5], "longest": [4, 9], "count": [9, 9]})
    table = table.assign(error=[0.2, 0.3], low=[0.1, 0.2], high=[0.3, 0.4])
    values = pd.DataFrame({"label": [0.0, 2.0, 5.0], "prediction": [1.0, 2.0, 4.0]})
    drawn = {"length": m.length_plot({"sst": table, "sts": table}), "agreement": m.agreement_plot(values)}
    assert [axes.get_ylabel() for axes in drawn["length"].axes] == ["error rate", "mean absolute error (0 to 5)"]
    assert drawn["agreement"].axes[0].get_xlabel() == "labelled similarity (0 to 5)"
    for name, figure in drawn.items():
        assert all(axes.get_ylabel() and axes.get_xlabel() for axes in figure.axes)
        assert all(path.stat().st_size > 1000 for path in plots.save(figure, name, tmp_path))
    plt.close("all")
