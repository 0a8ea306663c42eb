"""What is measured on a model: penalty by radius, what the published modes amount to, ranking loss, linear probe."""

import dataclasses
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

import mtlib
from mtlib.data.batches import TokenizedSplit
from mtlib.encoders import find_encoder
from mtlib.errors import ConfigurationError
from mtlib.model import MultitaskModel
from mtlib.objectives.divergences import symmetric_divergence
from mtlib.objectives.ranking import multiple_negatives_ranking_loss
from mtlib.objectives.smart import Smart, inner_gradient
from mtlib.study import probes
from mtlib.study.probes import clean_step, dev_batches, penalty_by_radius, published_forms
from mtlib.tasks import QQP, SST, STS

WORDS = "red green blue small large old new bright dark warm cold quick slow calm loud soft".split()


@pytest.fixture(scope="module")
def model():
    encoder, tokenizer = find_encoder("tiny", None, 0).load()
    model = MultitaskModel(encoder, tokenizer, [SST, QQP, STS], seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    return model.eval()


@pytest.fixture(scope="module")
def batches(model):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(3, 12))) for _ in range(16)]
    frame = pd.DataFrame({"id": [str(i) for i in range(16)], "text_a": texts, "text_b": texts[::-1], "label": 0})
    return [
        TokenizedSplit(task, frame, model.tokenizer, 32).batch(rows)
        for task in (SST, QQP, STS)
        for rows in (range(8), range(8, 16))
    ]


def test_clean_step_is_the_models_own_output(model, batches):
    for batch in batches:
        step = clean_step(model, batch)
        with torch.no_grad():
            assert torch.equal(step.logits, model(batch.task.name, batch.inputs))
            assert torch.equal(step.forward(step.embeddings), step.logits)


def test_dropout_policies_of_a_clean_step(model, batches):
    with torch.no_grad():
        shared = clean_step(model, batches[0], dropout="shared")
        assert torch.equal(shared.forward(shared.embeddings), shared.logits)
        own = clean_step(model, batches[0], dropout="independent")
        assert not torch.equal(own.forward(own.embeddings), own.logits)
        again = clean_step(model, batches[0], dropout="independent")
        assert torch.equal(own.logits, again.logits)
    model.eval()


def test_bfloat16_leaves_every_example_its_adversary(model, batches):
    smart = Smart(weight=1, mode="ball", radius=0.1)
    for batch in batches:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            step = clean_step(model, batch)
            g = inner_gradient(step, smart.noise(step))
        assert step.logits.dtype == torch.float32
        assert (g.abs().amax((1, 2)) > 0).all()


def test_penalty_by_radius(model, batches):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    radii = [0.01, 0.02, 0.1]
    table = penalty_by_radius(model, batches, radii)
    assert not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert len(table) == len(batches) * (2 * 2 * len(radii) + 1)
    assert table.equals(penalty_by_radius(model, batches, radii))

    cells = ["task", "batch", "radius"]
    off = table[table.dropout == "off"].pivot_table(index=cells, columns="direction", values="penalty")
    assert (off.adversarial > off.random).all()
    # A penalty is quadratic in a small radius.
    random = off.random.unstack()
    np.testing.assert_allclose(random[0.02] / random[0.01], 4, rtol=0.1)
    sizes = table[table.direction != "none"].groupby(["dropout", *cells])["size"]
    assert (sizes.max() - sizes.min() < 1e-6).all()

    # With dropout on, two masks alone make most of what a small random d makes.
    on = table[table.dropout == "independent"].groupby(["direction", "radius"])["penalty"].mean()
    assert on["none", 0.0] > 100 * off.random.unstack()[0.01].mean()
    assert on["random", 0.01] == pytest.approx(on["none", 0.0], rel=0.8)


def test_published_forms_are_noise_or_nothing_and_ball_is_an_adversary(model, batches):
    table = published_forms(model, batches)
    assert next(model.parameters()).dtype == torch.float32
    mean = table.drop(columns="task").groupby(["mode", "direction"]).mean()
    assert mean.loc[("rescaled", "adversarial"), "share"] < 1e-2
    ratio = mean.loc[("rescaled", "adversarial"), "penalty"] / mean.loc[("rescaled", "random"), "penalty"]
    assert ratio == pytest.approx(1, rel=0.05)
    assert mean.loc[("projected", "adversarial"), "penalty"] < 1e-6
    assert mean.loc[("ball", "adversarial"), "penalty"] > 3 * mean.loc[("ball", "random"), "penalty"]
    assert mean.loc[("ball", "adversarial"), "cosine"] > 0.3
    assert table["cosine"].notna().equals(table["direction"] == "adversarial")
    assert table["share"].notna().equals((table["mode"] == "rescaled") & (table["direction"] == "adversarial"))


def test_the_measured_penalty_is_the_divergence_at_d(model, batches):
    table = penalty_by_radius(model, batches[:1], [0.1])
    (row,) = table[(table["direction"] == "random") & (table["dropout"] == "off")].to_dict("records")
    step = clean_step(model, batches[0])
    d = Smart(weight=1, mode="ball", radius=0.1, direction="random").perturbation(step)
    with torch.no_grad():
        value = symmetric_divergence(step.kind, step.forward(step.embeddings + d), step.logits)
    assert row["penalty"] == pytest.approx(value.item(), rel=1e-5)
    assert row["size"] == pytest.approx(d.abs().max().item(), rel=1e-5)


def test_batches_are_the_first_dev_examples_of_each_task(model, corpus):
    batches = dev_batches(model, corpus, 2, size=8)
    assert [batch.task.name for batch in batches] == ["sst", "sst", "qqp", "qqp", "sts", "sts"]
    labels = torch.cat([batch.labels for batch in batches if batch.task.name == "sst"])
    assert labels.tolist() == corpus["sst"].dev["label"].head(16).tolist()
    assert [len(batch.rows) for batch in dev_batches(model, corpus, 9, size=16)][:2] == [16, 14]


def test_penalties_are_drawn_by_task(model, batches):
    table, forms = penalty_by_radius(model, batches, [0.01, 0.1]), published_forms(model, batches)
    figure = probes.penalty_plot(table, forms)
    assert [axes.get_title() for axes in figure.axes] == ["QQP", "SST-5", "STS-B"]
    line = figure.axes[1].get_lines()[0]
    rows = table.query("task == 'sst' and dropout == 'off' and direction == 'adversarial'")
    assert line.get_ydata() == pytest.approx(rows.groupby("radius")["penalty"].mean().to_numpy())
    plt.close(figure)


@pytest.mark.parametrize("size", [5, 7, 20])
@pytest.mark.parametrize("policy", ["keep", "mask"])
@pytest.mark.parametrize("classes", [5, 3])
def test_chance_is_the_loss_of_equal_vectors(corpus, size, policy, classes):
    dev = corpus["sst"].dev
    splits = dataclasses.replace(corpus["sst"], dev=dev[dev["label"] < classes])
    held = dataclasses.replace(corpus, splits=dict(corpus.splits) | {"sst": splits})
    labels = torch.arange(size) % classes
    vectors = torch.ones(size, 3, dtype=torch.float64)
    expected = multiple_negatives_ranking_loss(vectors, vectors, labels=labels, false_negatives=policy).item()
    found = probes.chance_loss(mtlib.pretraining("smoke", batch_size=size, false_negatives=policy), held)
    assert found == pytest.approx(expected, abs=1e-12)


def test_ranking_loss_of_a_stored_model_is_what_its_training_scored(corpus, tmp_path):
    settings = mtlib.pretraining("smoke", epochs=1, precision="float32")
    run = mtlib.fit(settings, corpus, tmp_path, progress="none")
    assert probes.ranking_loss(run, settings, corpus) == pytest.approx(run.scores["dev_loss"], rel=1e-5)


def test_a_probe_reads_what_is_in_the_vectors(corpus, monkeypatch):
    random = np.random.default_rng(0)
    frames = corpus["sst"].train, corpus["sst"].dev
    labels = {frame["text_a"].iloc[0]: frame["label"].to_numpy() for frame in frames}

    def vectors(source, texts, cache):
        known = labels[texts.iloc[0]]
        return random.normal(size=(len(known), 8)) + source.told * np.eye(8)[known]

    monkeypatch.setattr(probes, "sentence_vectors", vectors)
    found = [probes.linear_probe(SimpleNamespace(told=told), corpus).predictions("dev", "sst") for told in (0, 5)]
    blind, seeing = ((frame["label"] == frame["prediction"]).mean() for frame in found)
    assert seeing > 0.95 and blind < 0.5
    assert found[0]["id"].tolist() == corpus["sst"].dev["id"].tolist()


@pytest.mark.parametrize("task, own", [("sst", "red green blue"), ("qqp", ("red green", "dark warm cold"))])
def test_perturbed_answers_are_those_of_the_training_s_own_adversary(model, task, own):
    radii = (0.01, 0.1, 1.0)
    table = probes.perturbed_answers(model, task, own, radii, seed=3)
    assert table["direction"].tolist() == ["none"] + ["adversarial"] * 3 + ["random"] * 3
    clean = model.predict(task, own, precision="float32")
    shared = [name for name in table if name in clean]
    assert table.loc[0, shared].tolist() == pytest.approx(clean.loc[0, shared].tolist(), abs=1e-6)
    measured = penalty_by_radius(model, [model.tokenize(model.task(task), [own]).batch([0])], radii, seed=3)
    measured = measured[measured["dropout"] == "off"].set_index(["direction", "radius"])["penalty"]
    p = table.filter(regex=r"^p\d").to_numpy()
    penalties = ((p - p[0]) * (np.log(p) - np.log(p[0]))).sum(axis=1)
    for row, penalty in zip(table.itertuples(), penalties, strict=True):
        if row.direction != "none":
            assert penalty == pytest.approx(measured[row.direction, row.radius], rel=1e-3, abs=1e-7)
    assert penalties[3] > 10 * penalties[1] and penalties[2] > penalties[5]


def test_one_input_is_perturbed_at_a_time(model):
    with pytest.raises(ConfigurationError, match="expected one input, found 2"):
        probes.perturbed_answers(model, "sst", ["red", "green"])
