"""Neighbourhoods, silhouettes and t-SNE against sklearn, closed forms and invariants; their plots and the page."""

import re
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.metrics import silhouette_samples
from sklearn.neighbors import KNeighborsClassifier

import mtlib
from mtlib.errors import DataError
from mtlib.study import embeddings as e
from mtlib.study.cache import Cache
from mtlib.study.statistics import mean_interval


def blobs(n=200, distance=3.0, seed=0):
    """Four classes in eight dimensions, `distance` apart."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    return random.normal(0, 1, (n, 8)) + distance * np.eye(8)[labels], labels


def test_purity_of_one_neighbour_is_the_leave_one_out_accuracy():
    vectors, labels = blobs(distance=1.5)
    hits = []
    for i in range(len(labels)):
        others = np.arange(len(labels)) != i
        knn = KNeighborsClassifier(1, metric="cosine").fit(vectors[others], labels[others])
        hits.append(knn.predict(vectors[[i]])[0] == labels[i])
    assert e.purities(vectors, labels, k=1).tolist() == hits


def test_random_labels_have_no_structure():
    vectors, labels = blobs()
    assert (e.silhouettes(vectors, labels) == silhouette_samples(vectors, labels, metric="cosine")).all()
    shuffled = np.random.default_rng(0).permutation(labels)
    assert abs(e.silhouettes(vectors, shuffled).mean()) < 0.05
    chance, (_, low, high) = e.chance_purity(shuffled), mean_interval(e.purities(vectors, shuffled))
    assert chance == pytest.approx(4 * 50 * 49 / (200 * 199)) and low < chance < high


def test_measures_ignore_scale_rotation_and_order_of_rows():
    vectors, labels = blobs(distance=1.5)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    order = np.random.default_rng(2).permutation(len(labels))
    for measure in (e.purities, e.silhouettes):
        plain, moved = measure(vectors, labels), measure((7 * vectors @ rotation)[order], labels[order])
        assert moved == pytest.approx(plain[order])


def test_purity_in_the_plane_is_by_euclidean_distance():
    """Points on one ray have the same direction, so cosine cannot tell them apart; the plane can."""
    plane = np.array([[radius, radius] for radius in (1, 1.1, 1.2, 9, 9.1, 9.2)])
    labels = np.array([0, 0, 0, 1, 1, 1])
    assert e.purities(plane, labels, 2, metric="euclidean").tolist() == [1] * 6
    assert e.silhouettes(plane, labels, metric="euclidean").mean() > 0.9
    assert e.silhouettes(plane, labels).mean() < 0.5


def test_too_few_examples_and_one_class_are_refused():
    vectors, labels = blobs(8)
    with pytest.raises(DataError, match="more than 10"):
        e.purities(vectors, labels)
    with pytest.raises(DataError, match="two classes"):
        e.silhouettes(vectors, labels * 0)
    with pytest.raises(DataError, match="vectors"):
        e.silhouettes(vectors, labels[1:])


def test_structure_is_the_measures_of_each_system_and_finds_a_real_gain():
    (near, labels), (far, _) = blobs(160, 0.5), blobs(160, 3.0)
    table = e.structure({"before": near, "same": near.copy(), "after": far}, labels, "before", draws=500)
    cells = table.set_index(["system", "measure"])
    for name, vectors in (("before", near), ("after", far)):
        for measure, each in (("purity", e.purities), ("silhouette", e.silhouettes)):
            mean, low, high = mean_interval(each(vectors, labels), draws=500)
            assert cells.loc[(name, measure), "value"] == pytest.approx(mean)
            assert cells.loc[(name, measure), ["value low", "value high"]].tolist() == pytest.approx(
                [low, high], abs=0.02
            )
    assert cells.loc["after", "resolved"].tolist() == ["yes", "yes"]
    assert cells.loc["same", "resolved"].tolist() == ["no", "no"] and not cells.loc["same", "difference"].any()
    assert cells.loc["before", "resolved"].tolist() == ["", ""] and cells.loc["before", "p"].isna().all()
    figure = e.structure_plot(table, 0.25)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["before", "same", "after"]
    plt.close(figure)


def test_tsne_is_deterministic_keeps_blobs_apart_and_is_cached(tmp_path, monkeypatch):
    vectors, labels = blobs(80, distance=8)
    cache = Cache(tmp_path)
    plane = e.tsne(vectors, 10, 260, cache=cache)
    assert plane.shape == (80, 2) and (plane == e.tsne(vectors, 10, 260)).all()
    assert KNeighborsClassifier(3).fit(plane, labels).score(plane, labels) > 0.97
    monkeypatch.setattr(e, "TSNE", None)
    assert (e.tsne(vectors, 10, 260, cache=cache) == plane).all()
    for changed in ({"perplexity": 11}, {"iterations": 261}, {"seed": 1}, {"vectors": vectors + 1e-3}):
        with pytest.raises(TypeError):
            e.tsne(**{"vectors": vectors, "perplexity": 10, "iterations": 260, "cache": cache} | changed)


def test_vectors_are_computed_once_for_each_source_and_texts(tmp_path):
    loaded = []

    class Lengths:
        def to(self, device):
            return self

        def eval(self):
            return self

        def embed(self, texts):
            return np.array([[len(text), 1] for text in texts], np.float32)

    def source(identity):
        def model():
            loaded.append(identity)
            return Lengths()

        return SimpleNamespace(identity=identity, model=model, experiment=SimpleNamespace(precision="float32"))

    cache = Cache(tmp_path)
    first = e.sentence_vectors(source("w"), ["a", "bcd"], cache)
    assert first.tolist() == [[1, 1], [3, 1]] and loaded == ["w"]
    assert (e.sentence_vectors(source("w"), ["a", "bcd"], cache) == first).all() and loaded == ["w"]
    for identity, texts in (("v", ["a", "bcd"]), ("w", ["abc", "d"]), ("w", ["a", "bce"])):
        e.sentence_vectors(source(identity), texts, cache)
    assert loaded == ["w", "v", "w", "w"]


def test_an_encoder_as_found_is_what_training_begins_with():
    experiment = mtlib.experiment("smoke", precision="float32", seed=3)
    found = e.AsFound(experiment)
    vectors = e.sentence_vectors(found, ["red cat", "a small blue bird"])
    assert (vectors == found.model().embed(["red cat", "a small blue bird"])).all()
    others = [e.AsFound(experiment.model_copy(update=change)) for change in ({"seed": 4}, {"pooling": "cls"})]
    assert len({found.identity, *(other.identity for other in others)}) == 3


def test_planes_are_drawn_and_written_as_a_page_without_network_or_markup(tmp_path):
    vectors, labels = blobs(20)
    texts = [f"sentence {i} <script>alert({i})</script> <b>& more</b>" for i in range(20)]
    planes = {"base": vectors[:, :2], "after\nMNRL": vectors[:, 2:4]}
    page = e.tsne_page(planes, labels, texts, tmp_path / "page" / "tsne.html", title="<script>t</script>").read_text()
    assert re.findall(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=", page) == []
    assert "sentence 7 " in page and "very negative" in page
    assert "<script>alert" not in page and "<b>&" not in page and "<script>t" not in page
    figure = e.tsne_plot(planes, labels, columns=2)
    assert [axes.get_title() for axes in figure.axes] == ["base", "after\nMNRL"]
    drawn = np.concatenate([points.get_offsets() for points in figure.axes[1].collections])
    assert sorted(map(tuple, drawn)) == sorted(map(tuple, planes["after\nMNRL"]))
    plt.close(figure)
