"""Neighbourhoods, t-SNE, confusion and mistakes against sklearn, closed forms and invariants; their pictures."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix, silhouette_score
from sklearn.neighbors import KNeighborsClassifier

from mtlib.errors import CheckpointError, DataError
from mtlib.study import analysis as a
from mtlib.study import figures, paper, pictures


def blobs(n=200, distance=3.0, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    return random.normal(0, 1, (n, 8)) + distance * np.eye(8)[labels], labels


def test_purity_of_one_neighbour_is_the_leave_one_out_accuracy():
    embeddings, labels = blobs(distance=1.5)
    hits = 0
    for i in range(len(labels)):
        others = np.arange(len(labels)) != i
        knn = KNeighborsClassifier(1, metric="cosine").fit(embeddings[others], labels[others])
        hits += knn.predict(embeddings[[i]])[0] == labels[i]
    assert a.neighbourhood_purity(embeddings, labels, k=1, draws=50).value == pytest.approx(hits / len(labels))


def test_silhouette_is_sklearns_and_random_labels_have_none():
    embeddings, labels = blobs()
    found = a.silhouette(embeddings, labels)
    assert found.value == pytest.approx(silhouette_score(embeddings, labels, metric="cosine"))
    assert found.low < found.value < found.high
    shuffled = np.random.default_rng(0).permutation(labels)
    assert abs(a.silhouette(embeddings, shuffled).value) < 0.05
    purity, chance = a.neighbourhood_purity(embeddings, shuffled), a.chance_purity(shuffled)
    assert chance == pytest.approx(4 * 50 * 49 / (200 * 199)) and purity.low < chance < purity.high


def test_measures_ignore_scale_rotation_and_order_of_rows():
    embeddings, labels = blobs(distance=1.5)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    order = np.random.default_rng(2).permutation(len(labels))
    for measure in (a.neighbourhood_purity, a.silhouette):
        plain, moved = measure(embeddings, labels), measure((7 * embeddings @ rotation)[order], labels[order])
        assert (moved.value, moved.low, moved.high) == pytest.approx((plain.value, plain.low, plain.high))


def test_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(0).normal(2, 3, 900)
    found = a.mean_estimate(values)
    half = 1.96 * values.std() / 30
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert str(a.Estimate(0.5, 0.4, 0.6)) == "0.500 [0.400, 0.600]"


def test_too_few_examples_and_one_class_are_refused():
    embeddings, labels = blobs(8)
    with pytest.raises(DataError, match="more than 10"):
        a.neighbourhood_purity(embeddings, labels)
    with pytest.raises(DataError, match="two classes"):
        a.silhouette(embeddings, labels * 0)
    with pytest.raises(DataError, match="embeddings"):
        a.silhouette(embeddings, labels[1:])


def test_tsne_is_deterministic_keeps_blobs_apart_and_is_cached(tmp_path, monkeypatch):
    embeddings, labels = blobs(80, distance=8)
    plane = a.tsne(embeddings, 10, 260, cache=tmp_path)
    assert plane.shape == (80, 2) and (plane == a.tsne(embeddings, 10, 260, cache=None)).all()
    assert KNeighborsClassifier(3).fit(plane, labels).score(plane, labels) > 0.97
    monkeypatch.setattr(a, "TSNE", None)
    assert (a.tsne(embeddings, 10, 260, cache=tmp_path) == plane).all()
    for changed in ({"perplexity": 11}, {"iterations": 261}, {"seed": 1}, {"embeddings": embeddings + 1e-3}):
        settings = {"embeddings": embeddings, "perplexity": 10, "iterations": 260, "cache": tmp_path} | changed
        with pytest.raises(TypeError):
            a.tsne(**settings)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="damaged"):
        a.tsne(embeddings, 10, 260, cache=tmp_path)


def test_embeddings_are_computed_once_for_each_weights_and_texts(tmp_path):
    loaded = []

    class Lengths:
        def embed(self, texts):
            return np.array([[len(text), 1] for text in texts], np.float32)

    def load():
        loaded.append(1)
        return Lengths()

    first = a.embedded(load, "w", ["a", "bcd"], cache=tmp_path)
    assert first.tolist() == [[1, 1], [3, 1]] and len(loaded) == 1
    assert (a.embedded(load, "w", ["a", "bcd"], cache=tmp_path) == first).all() and len(loaded) == 1
    for weights, texts in (("v", ["a", "bcd"]), ("w", ["abc", "d"]), ("w", ["a", "bce"])):
        a.embedded(load, weights, texts, cache=tmp_path)
    assert len(loaded) == 4 and len(list(tmp_path.iterdir())) == 4
    np.save(next(tmp_path.iterdir()), np.zeros((5, 2)))
    with pytest.raises(CheckpointError, match="expected shape"):
        for weights, texts in (("w", ["a", "bcd"]), ("v", ["a", "bcd"]), ("w", ["abc", "d"]), ("w", ["a", "bce"])):
            a.embedded(load, weights, texts, cache=tmp_path)


def test_purity_in_the_plane_is_by_euclidean_distance():
    """Points on one ray have the same direction, so cosine cannot tell them apart; the plane can."""
    plane = np.array([[radius, radius] for radius in (1, 1.1, 1.2, 9, 9.1, 9.2)])
    labels = np.array([0, 0, 0, 1, 1, 1])
    assert a.purities(plane, labels, 2, metric="euclidean").tolist() == [1] * 6
    assert a.silhouette(plane, labels, metric="euclidean").value > 0.9
    assert a.silhouette(plane, labels).value < 0.5


def test_confusion_agrees_with_sklearn():
    random = np.random.default_rng(0)
    labels, predictions = random.integers(0, 5, 300), random.integers(0, 5, 300)
    assert (a.confusion(labels, predictions, 5, counts=True) == confusion_matrix(labels, predictions)).all()
    public = confusion_matrix(labels, predictions, normalize="true")
    assert a.confusion(labels, predictions, 5) == pytest.approx(public)
    assert np.isnan(a.confusion([0, 0], [0, 1], 3)[2]).all()


def test_ordinal_summary_by_hand():
    labels, predictions = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 2, 0, 1])
    found = a.ordinal_summary(labels, predictions, 3)
    assert found["accuracy"] == 0.5 and found["distance"] == pytest.approx(4 / 6)
    assert found[["recall 0", "recall 1", "recall 2"]].tolist() == pytest.approx([1 / 2, 1, 1 / 3])
    assert found["adjacent"] == pytest.approx(2 / 3)
    # Quadratic kappa: 1 - sum w O / sum w E, with O the counts and E the product of the margins.
    weights = np.subtract.outer(np.arange(3), np.arange(3)) ** 2
    expected = np.outer([2, 1, 3], [2, 3, 1]) / 6
    assert found["kappa"] == pytest.approx(1 - (1 + 4 + 1) / (weights * expected).sum())
    perfect = a.ordinal_summary(labels, labels, 3)
    assert perfect["kappa"] == 1 and perfect["distance"] == 0 and np.isnan(perfect["adjacent"])


def predictions():
    return pd.DataFrame(
        {"id": ["d", "a", "b", "c"], "label": [0, 1, 1, 0], "prediction": [0, 0, 0, 1]}
        | {"p0": [0.99, 0.7, 0.9, 0.2], "p1": [0.01, 0.3, 0.1, 0.8]}
    )


def examples():
    return pd.DataFrame({"id": list("abcd"), "text_a": ["x", "x y", "x y z", "w"], "text_b": ["q"] * 4})


def test_worst_mistakes_are_wrong_confident_and_have_their_own_text():
    found = a.worst_mistakes(predictions(), examples(), 2)
    assert found["id"].tolist() == ["b", "c"] and found["text_a"].tolist() == ["x y", "x y z"]
    assert found["confidence"].tolist() == [0.9, 0.8]
    values = predictions()[["id", "label"]].assign(prediction=[0.5, 1.0, 4.0, 0.25])
    assert a.worst_mistakes(values, examples(), 2)["error"].tolist() == [3.0, 0.5]
    with pytest.raises(DataError, match="'d' has a prediction and no text"):
        a.worst_mistakes(predictions(), examples().iloc[:3])


def test_error_by_length_groups_words():
    n = 600
    random = np.random.default_rng(0)
    words = random.integers(1, 31, n)
    texts = pd.DataFrame({"id": [str(i) for i in range(n)], "text_a": ["w " * k for k in words]})
    wrong = random.random(n) < words / 60
    frame = pd.DataFrame({"id": texts["id"], "label": 0, "prediction": wrong.astype(int), "p0": 0.5, "p1": 0.5})
    table = a.error_by_length(frame, texts, bins=3, draws=500)
    assert table["count"].sum() == n and table["shortest"].iloc[0] == words.min() and table["longest"].iloc[-1] == 30
    assert (table["shortest"].to_numpy()[1:] > table["longest"].to_numpy()[:-1]).all()
    inside = (words >= table["shortest"][1]) & (words <= table["longest"][1])
    assert table["error"][1] == pytest.approx(wrong[inside].mean())
    assert (table["low"] <= table["error"]).all() and (table["error"] <= table["high"]).all()
    longer = a.error_by_length(frame, texts.assign(text_b="a b"), bins=3, draws=50)
    assert (longer["shortest"] == table["shortest"] + 2).all()


def test_confusion_is_drawn_with_right_answers_on_the_anti_diagonal():
    shares = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.0, 0.4, 0.6]])
    figure = pictures.confusion_figure(shares, ("low", "middle", "high"), caption=paper.confusion_facts())
    axes = figure.axes[0]
    figure.canvas.draw()
    places = {}
    for text in axes.texts:
        x, y = axes.transData.transform(text.get_position())
        places[text.get_text()] = (round(x), round(y))
    assert places["0.90"][0] < places["0.70"][0] < places["0.60"][0]
    assert places["0.90"][1] < places["0.70"][1] < places["0.60"][1]  # upwards: bottom left to top right
    assert "0 called 1: 0.62" in figure._supxlabel.get_text().replace("\n", " ")


def test_every_picture_has_labelled_axes(tmp_path):
    frame = predictions()
    table = pd.DataFrame({"shortest": [1, 5], "longest": [4, 9], "count": [9, 9]})
    table = table.assign(error=[0.2, 0.3], low=[0.1, 0.2], high=[0.3, 0.4])
    values = pd.DataFrame({"label": [0.0, 2.0, 5.0], "prediction": [1.0, 2.0, 4.0]})
    drawn = {
        "reliability": pictures.reliability_figure({"as trained": frame, "scaled": frame}, "QQP"),
        "length": pictures.error_by_length_figure({"sst": table, "sts": table}),
        "regression": pictures.regression_figure(values),
    }
    assert drawn["length"].axes[1].get_ylabel() == "mean absolute error"
    for name, figure in drawn.items():
        assert all(axes.get_ylabel() for axes in figure.axes) and figure.axes[-1].get_xlabel()
        assert all(path.stat().st_size > 1000 for path in figures.save(figure, name, tmp_path))


def test_hover_page_is_self_contained_and_escapes_sentences(tmp_path):
    embeddings, labels = blobs(20)
    texts = [f"sentence {i} <b>& more</b>" for i in range(20)]
    panels = {"base": embeddings[:, :2], "MNRL": embeddings[:, 2:4]}
    page = pictures.tsne_page(panels, labels, texts, tmp_path / "page" / "tsne.html").read_text()
    assert re.findall(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=", page) == []
    assert "sentence 7 " in page and "very negative" in page and "<b>& more" not in page
    figure = pictures.tsne_panels(panels, labels, columns=2)
    assert [axes.get_title() for axes in figure.axes] == ["base", "MNRL"]
    drawn = np.concatenate([points.get_offsets() for points in figure.axes[1].collections])
    assert sorted(map(tuple, drawn)) == sorted(map(tuple, panels["MNRL"]))
