"""Chance levels, ranking loss, structure and probe against closed forms, the training's own numbers and sklearn."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score

import mtlib
from mtlib.experiments import pretraining
from mtlib.objectives.ranking import multiple_negatives_ranking_loss
from mtlib.study import analysis
from mtlib.study import neighbourhoods as n


@pytest.mark.parametrize("size", [5, 7, 20])
@pytest.mark.parametrize("policy", ["keep", "mask"])
def test_chance_is_the_loss_of_equal_vectors(size, policy):
    labels = torch.arange(size) % 5
    vectors = torch.ones(size, 3, dtype=torch.float64)
    expected = multiple_negatives_ranking_loss(vectors, vectors, labels=labels, false_negatives=policy).item()
    found = n.chance_loss(pretraining("smoke", batch_size=size, false_negatives=policy))
    assert found == pytest.approx(expected, abs=1e-12)


def test_ranking_loss_of_a_stored_model_is_what_its_training_scored(corpus, tmp_path):
    settings = pretraining("smoke", steps_per_epoch=2, precision="float32")
    run = mtlib.pretrain(settings, corpus, tmp_path, progress="none")
    assert n.ranking_loss(run.model(), settings, corpus) == pytest.approx(run.scores["dev_loss"], rel=1e-5)


def blobs(distance, rows=160, seed=0):
    """Four classes in eight dimensions, `distance` apart."""
    random, labels = np.random.default_rng(seed), np.arange(rows) % 4
    return random.normal(size=(rows, 8)) + distance * np.eye(8)[labels], labels


def test_structure_is_the_measures_of_each_system_and_finds_a_real_gain():
    (near, labels), (far, _) = blobs(0.5), blobs(3.0)
    table = n.structure({"before": near, "same": near.copy(), "after": far}, labels, "before", draws=500)
    cells = table.set_index(["system", "measure"])
    for name, vectors in (("before", near), ("after", far)):
        expected = analysis.neighbourhood_purity(vectors, labels, draws=500)
        assert cells.loc[(name, "purity"), "value"] == pytest.approx(expected.value)
        assert cells.loc[(name, "purity"), "value low"] == pytest.approx(expected.low, abs=0.02)
        expected = silhouette_score(vectors, labels, metric="cosine")
        assert cells.loc[(name, "silhouette"), "value"] == pytest.approx(expected)
    assert cells.loc["after", "resolved"].tolist() == ["yes", "yes"]
    assert cells.loc["same", "resolved"].tolist() == ["no", "no"] and not cells.loc["same", "difference"].any()
    assert cells.loc["before", "resolved"].tolist() == ["", ""] and cells.loc["before", "p"].isna().all()
    figure = n.structure_figure(table, 0.25)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["before", "same", "after"]
    plt.close(figure)


def test_probe_reads_what_is_in_the_vectors(corpus):
    random = np.random.default_rng(0)
    labels = {split: getattr(corpus["sst"], split)["label"].to_numpy() for split in ("train", "dev")}
    noise = {split: random.normal(size=(len(known), 8)) for split, known in labels.items()}
    told = {split: noise[split] + 5 * np.eye(8)[known] for split, known in labels.items()}
    frames = [n.probe(vectors, corpus).predictions("dev", "sst") for vectors in (noise, told)]
    blind, seeing = ((frame["label"] == frame["prediction"]).mean() for frame in frames)
    assert seeing > 0.95 and blind < 0.5
    assert frames[0]["id"].tolist() == corpus["sst"].dev["id"].tolist()


def test_vectors_are_the_models_own_and_kept(corpus, run, tmp_path):
    model = run.model()
    found, texts = n.vectors(lambda: model, "it", corpus, cache=tmp_path), corpus["sst"].dev["text_a"].tolist()
    assert found["dev"] == pytest.approx(model.embed(texts), abs=0.05)
    kept = n.vectors(None, "it", corpus, cache=tmp_path)
    assert all((kept[split] == found[split]).all() for split in ("train", "dev"))
