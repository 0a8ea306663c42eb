"""The losses an experiment may choose: hand arithmetic, public implementations, and what all of them keep."""

import numpy as np
import pytest
import torch
from conftest import made_up_corpus
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr

import mtlib
from mtlib.errors import ConfigurationError
from mtlib.objectives.correlation import Correlation
from mtlib.objectives.losses import LOSSES, Loss
from mtlib.objectives.ordinal import Ordinal
from mtlib.tasks import SST
from mtlib.training.criteria import Criteria

CHOICES = {"ordinal": Ordinal(), "half ordinal": Ordinal(share=0.5), "correlation": Correlation(share=0.3)}
every_loss = pytest.mark.parametrize("loss", CHOICES.values(), ids=CHOICES)


def drawn(loss: Loss, seed: int, batch: int = 6):
    g = torch.Generator().manual_seed(seed)
    outputs = 5 if loss.label_kind == "classification" else 1
    logits = torch.randn(batch, outputs, generator=g, dtype=torch.float64, requires_grad=True)
    return logits, torch.randint(0, 5, (batch,), generator=g)


def test_the_ranked_probability_score_by_hand():
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64))
    below = [0.1, 0.3, 0.6]
    for label in range(4):
        expected = sum((p - (label <= k)) ** 2 for k, p in enumerate(below))
        assert Ordinal()(logits, torch.tensor([label])).item() == pytest.approx(expected, rel=1e-12)


def test_of_two_classes_it_is_half_of_the_brier_score():
    logits, labels = torch.randn(9, 2, dtype=torch.float64), torch.randint(0, 2, (9,))
    p = logits.softmax(-1)
    brier = (p - torch.nn.functional.one_hot(labels, 2)).square().sum(-1).mean()
    torch.testing.assert_close(Ordinal()(logits, labels), brier / 2)


@given(st.permutations(range(5)), st.integers(0, 4))
def test_a_sure_model_pays_as_many_as_the_classes_it_is_off(order, label):
    """Cross-entropy gives every wrong class the same; this one counts the classes between."""
    for predicted in order:
        logits = torch.full((1, 5), -1e3, dtype=torch.float64)
        logits[0, predicted] = 1e3
        assert Ordinal()(logits, torch.tensor([label])).item() == abs(predicted - label)


def test_it_is_proper():
    """The expected score under q is least where the model says q."""
    q = torch.tensor([0.1, 0.4, 0.2, 0.2, 0.1], dtype=torch.float64)
    logits = torch.zeros(1, 5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12)

    def closure():
        optimizer.zero_grad()
        loss = sum(q[k] * Ordinal()(logits, torch.tensor([k])) for k in range(5))
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(logits.softmax(-1)[0], q, atol=1e-5, rtol=0)


@given(st.integers(0, 1000), st.floats(0.5, 20), st.floats(-9, 9))
def test_correlation_is_scipys_and_sees_no_scale(seed, factor, shift):
    logits, labels = drawn(Correlation(), seed, 12)
    labels = labels + torch.arange(12) / 12
    expected = 1 - pearsonr(logits.detach().numpy()[:, 0], labels.numpy())[0]
    assert Correlation()(logits, labels).item() == pytest.approx(expected, abs=2e-3)
    assert Correlation()(factor * logits + shift, labels).item() == pytest.approx(expected, abs=2e-3)


def test_correlation_of_nothing_to_correlate_is_one_without_gradient():
    for logits, labels in (
        (torch.tensor([[2.0]], requires_grad=True), torch.tensor([3.0])),
        (torch.tensor([[2.0], [5.0]], requires_grad=True), torch.tensor([3.0, 3.0])),
    ):
        loss = Correlation()(logits, labels)
        loss.backward()
        assert loss == 1 and not logits.grad.any()


@every_loss
def test_a_loss_is_a_float32_scalar_that_knows_no_order_of_examples(loss):
    logits, labels = drawn(loss, 3)
    order = torch.tensor([4, 2, 0, 1, 5, 3])
    torch.testing.assert_close(loss(logits, labels), loss(logits[order], labels[order]))
    assert loss(logits.bfloat16(), labels).dtype == torch.float32
    assert loss(logits, labels).shape == ()


@every_loss
def test_a_loss_moves_between_the_kinds_own_and_its_term(loss):
    logits, labels = drawn(loss, 4)
    own, term = LOSSES[loss.label_kind](logits, labels), loss.term(logits, labels)
    half, none = loss.model_copy(update={"share": 0.25}), loss.model_copy(update={"share": 0.0})
    torch.testing.assert_close(half(logits, labels), 0.75 * own + 0.25 * term)
    assert torch.equal(none(logits, labels), own)


@every_loss
def test_its_gradient_is_that_of_differences(loss):
    logits, labels = drawn(loss, 5, 4)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), (logits,))


@every_loss
def test_it_is_read_back_and_part_of_what_a_run_is(loss):
    task = {"classification": "sst", "regression": "sts"}[loss.label_kind]
    plain = mtlib.experiment("smoke")
    changed = plain.but(losses={task: loss})
    assert changed.digest != plain.digest and f"{task}-{loss.label}" in changed.label
    assert mtlib.Experiment.model_validate(changed.model_dump(mode="json")) == changed
    assert plain.but(losses={task: loss.model_dump()}) == changed


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ({"qqp": "ordinal"}, "is for classification, qqp is binary"),
        ({"sst": "ordinl"}, "did you mean 'ordinal'"),
        ({"news": "ordinal"}, "'news' is not trained"),
        ({"sst": {"kind": "ordinal", "share": 2.0}}, "less than or equal to 1"),
        (["ordinal"], "expected a loss by the name of a task"),
        ({"sts": "correlation"}, "'correlation' compares .* batch_size of at least 2, found 1"),
    ],
)
def test_what_cannot_be_a_loss_is_refused(losses, expected):
    with pytest.raises(ConfigurationError, match=expected) as error:
        mtlib.experiment("smoke", losses=losses, batch_size=1)
    assert error.value.exit_code == 64


def test_a_loss_that_compares_nothing_takes_one_example_at_a_time():
    losses = {"sst": "ordinal", "sts": {"kind": "correlation", "share": 0.0}}
    assert mtlib.experiment("smoke", losses=losses, batch_size=1).batch_size == 1


def test_a_loss_over_the_batch_is_one_process_work():
    experiment = mtlib.experiment("smoke", losses={"sts": "correlation"})
    with pytest.raises(ConfigurationError, match="expected one process, found 2"):
        Criteria(experiment, (), 2)


def test_share_zero_is_plain_training_and_all_of_it_is_not(tmp_path):
    corpus = made_up_corpus((SST,))
    plain = mtlib.experiment("smoke", tasks=["sst"])
    runs = [
        mtlib.fit(plain.but(losses=losses), corpus, tmp_path, progress="none")
        for losses in ({}, {"sst": Ordinal(share=0.0)}, {"sst": Ordinal()})
    ]
    states = [run.model().state_dict() for run in runs]
    same = [all(torch.equal(states[0][name], state[name]) for name in state) for state in states[1:]]
    assert same == [True, False]
    assert np.isclose(runs[0].history["train_loss"], runs[1].history["train_loss"], rtol=0).all()
