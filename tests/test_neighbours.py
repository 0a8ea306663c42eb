"""Nearest training examples against scikit-learn, and what is searched."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from mtlib.errors import ConfigurationError
from mtlib.study.cache import Cache
from mtlib.study.neighbours import example_vectors, nearest
from mtlib.tasks import QQP, SST

PAIR = ("red cat runs", "big dog sleeps")


def pairs(frame):
    return list(zip(frame["text_a"], frame["text_b"], strict=True))


def test_the_nearest_are_those_of_scikit_learn(run, corpus):
    for task, own in (("sst", "red cat runs"), ("qqp", PAIR)):
        frame = corpus[task].train
        inputs = pairs(frame) if task == "qqp" else frame["text_a"].tolist()
        known = QQP if task == "qqp" else SST
        vectors, asked = example_vectors(run, known, inputs), example_vectors(run, known, [own])
        cosines = cosine_similarity(asked, vectors)[0]
        found = nearest(run, task, own, frame, 7)
        assert found["cosine"].to_numpy() == pytest.approx(np.sort(cosines)[::-1][:7], abs=1e-6)
        assert found["id"].tolist() == frame["id"].iloc[np.argsort(-cosines, kind="stable")[:7]].tolist()
        assert found["name"].tolist() == [known.names[label] for label in found["label"]]


def test_vectors_are_those_that_the_head_reads(run, corpus):
    model, frame = run.model(), corpus["qqp"].train.head(9)
    vectors = example_vectors(run, QQP, pairs(frame))
    logits = vectors @ model.heads["qqp"].weight.detach().numpy().T + model.heads["qqp"].bias.detach().numpy()
    stored = model.predict("qqp", pairs(frame), precision="float32")["p1"]
    assert 1 / (1 + np.exp(-logits[:, 0])) == pytest.approx(stored.to_numpy(), abs=1e-2)


def test_an_example_is_nearest_to_itself(run, corpus, tmp_path):
    frame, cache = corpus["sts"].train, Cache(tmp_path)
    for _ in range(2):
        found = nearest(run, "sts", pairs(frame)[11], frame, 1, cache=cache)
        assert found["id"].item() == frame["id"].iloc[11] and found["cosine"].item() == pytest.approx(1, abs=1e-5)
    assert "name" not in found and len(list(tmp_path.iterdir())) == 1


def test_a_pool_is_part_of_the_examples_drawn_from_the_seed(run, corpus):
    frame = corpus["sst"].train
    everything = nearest(run, "sst", "red cat", frame, 1000, pool=None)
    assert len(everything) == len(frame) and everything["cosine"].is_monotonic_decreasing
    first, again, other = (nearest(run, "sst", "red cat", frame, 1000, pool=10, seed=seed) for seed in (0, 0, 1))
    assert len(first) == 10 and first.equals(again) and set(first["id"]) != set(other["id"])
    assert set(first["id"]) < set(everything["id"])


@pytest.mark.parametrize("task, inputs", [("qqp", "one text"), ("sst", 3), ("sst", [3]), ("nosuch", "one text")])
def test_inputs_that_the_task_does_not_read_are_refused(run, corpus, task, inputs):
    with pytest.raises(ConfigurationError):
        nearest(run, task, inputs, corpus["sst"].train)
