"""The measurement behind the SMART notebook: penalty against radius, and what the published modes amount to."""

import numpy as np
import pandas as pd
import pytest
import torch

from mtlib.data.batches import TokenizedSplit
from mtlib.encoders import find_encoder
from mtlib.model import MultitaskModel
from mtlib.objectives.divergences import symmetric_divergence
from mtlib.objectives.smart import Smart, inner_gradient
from mtlib.study.adversary import clean_step, penalty_by_radius, published_forms
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

    off = table[table.dropout == "off"].pivot_table(index=["batch", "radius"], columns="direction", values="penalty")
    assert (off.adversarial > off.random).all()
    # A penalty is quadratic in a small radius.
    random = off.random.unstack()
    np.testing.assert_allclose(random[0.02] / random[0.01], 4, rtol=0.1)
    sizes = table[table.direction != "none"].groupby(["dropout", "batch", "radius"])["size"]
    assert (sizes.max() - sizes.min() < 1e-6).all()

    # With dropout on, two masks alone make most of what a small random d makes.
    on = table[table.dropout == "independent"].groupby(["direction", "radius"])["penalty"].mean()
    assert on["none", 0.0] > 100 * off.random.unstack()[0.01].mean()
    assert on["random", 0.01] == pytest.approx(on["none", 0.0], rel=0.8)


def test_published_forms_are_noise_or_nothing_and_ball_is_an_adversary(model, batches):
    table = published_forms(model, batches)
    assert next(model.parameters()).dtype == torch.float32
    mean = table.groupby(["mode", "direction"]).mean()
    assert mean.loc[("rescaled", "adversarial"), "share"] < 1e-2
    ratio = mean.loc[("rescaled", "adversarial"), "penalty"] / mean.loc[("rescaled", "random"), "penalty"]
    assert ratio == pytest.approx(1, rel=0.05)
    assert mean.loc[("projected", "adversarial"), "penalty"] < 1e-6
    assert mean.loc[("ball", "adversarial"), "penalty"] > 3 * mean.loc[("ball", "random"), "penalty"]
    assert mean.loc[("ball", "adversarial"), "cosine"] > 0.3
    assert table["cosine"].notna().equals(table["direction"] == "adversarial")
    assert table["share"].notna().equals((table["mode"] == "rescaled") & (table["direction"] == "adversarial"))


def test_the_measured_penalty_is_the_divergence_at_d(model, batches):
    row = penalty_by_radius(model, batches[:1], [0.1], ["random"], ["off"]).iloc[0]
    step = clean_step(model, batches[0])
    d = Smart(weight=1, mode="ball", radius=0.1, direction="random").perturbation(step)
    with torch.no_grad():
        value = symmetric_divergence(step.kind, step.forward(step.embeddings + d), step.logits)
    assert row["penalty"] == pytest.approx(value.item(), rel=1e-5)
    assert row["size"] == pytest.approx(d.abs().max().item(), rel=1e-5)
