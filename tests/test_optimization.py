"""Learning-rate factors against torch's own schedulers and hand computations."""

import math

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from mtlib.errors import ConfigurationError
from mtlib.training.optimization import halving, learning_rate_factor, parameter_groups, set_learning_rate


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def plateau(losses):
    """torch's factor: the rate is halved when more than two epochs in a row are no better than the best."""
    sgd = optimizer()
    scheduler = lr_scheduler.ReduceLROnPlateau(sgd, factor=0.5, patience=2, threshold=0.0, eps=0.0)
    for loss in losses:
        scheduler.step(loss)
    return sgd.param_groups[0]["lr"]


@settings(deadline=None)
@given(moves=st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=40))
def test_halving_is_torchs_plateau_where_every_fall_reaches_a_new_best(moves):
    losses = [100.0]
    for rises, size in moves:
        losses.append(losses[-1] + size if rises else min(losses) - size)
    assert halving(losses) == plateau(losses)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([], 1),
        ([1.0], 1),
        ([4, 3, 2, 1], 1),
        ([1, 2, 3], 1),
        ([1, 2, 3, 4], 0.5),
        ([1, 2, 3, 4, 5, 6], 0.5),
        ([1, 2, 3, 4, 5, 6, 7], 0.25),
        ([1, 2, 3, 2, 3, 4, 5], 0.5),
        ([1, 2, 2, 3, 4], 1),
        ([1, 2, math.nan, 3, 4], 0.5),
        ([1, 2, math.inf, 3, 2], 1),
    ],
)
def test_halving_by_hand(losses, expected):
    assert halving(losses) == expected


def test_three_epochs_above_the_best_that_do_not_rise_in_a_row_separate_us_from_torch():
    losses = [1.0, 4.0, 3.0, 3.5]  # one rise, a fall that stays above the best, one rise
    assert halving(losses) == 1
    assert plateau(losses) == 0.5


@pytest.mark.parametrize("warmup", [2, 5, 10])
def test_warmup_is_torchs_linear_rate(warmup):
    sgd = optimizer()
    scheduler = lr_scheduler.LinearLR(sgd, start_factor=1 / warmup, total_iters=warmup - 1)
    for number in range(20):
        ours = learning_rate_factor("constant", number, 20, warmup)
        assert ours == pytest.approx(sgd.param_groups[0]["lr"], rel=1e-9)
        sgd.step()
        scheduler.step()


@pytest.mark.parametrize("warmup", [0, 4])
def test_linear_decay_is_torchs_linear_rate_after_the_warmup(warmup):
    sgd = optimizer()
    scheduler = lr_scheduler.LinearLR(sgd, start_factor=1.0, end_factor=0.0, total_iters=20 - warmup)
    for number in range(warmup, 20):
        ours = learning_rate_factor("linear", number, 20, warmup)
        assert ours == pytest.approx(sgd.param_groups[0]["lr"], rel=1e-9)
        sgd.step()
        scheduler.step()
    assert learning_rate_factor("linear", 20, 20, warmup) == 0


def test_factors_combine():
    assert learning_rate_factor("constant", 7, 20) == 1
    assert learning_rate_factor("halve", 7, 20, losses=[1, 2, 3, 4]) == 0.5
    assert learning_rate_factor("halve", 0, 20, warmup=4, losses=[1, 2, 3, 4]) == 0.125
    assert learning_rate_factor("constant", 7, 20, losses=[1, 2, 3, 4]) == 1


@settings(deadline=None)
@given(number=st.integers(0, 99), warmup=st.integers(0, 100))
def test_factors_stay_between_zero_and_one_and_no_step_is_wasted(number, warmup):
    for schedule in ("constant", "linear"):
        assert 0 < learning_rate_factor(schedule, number, 100, warmup) <= 1


def layered() -> torch.nn.Module:
    """Parameters that are called as a model's are: two layers, embeddings, a head."""
    made = torch.nn.Module()
    made.encoder, made.heads = torch.nn.Module(), torch.nn.ModuleDict({"sst": torch.nn.Linear(2, 2)})
    made.encoder.embeddings = torch.nn.Embedding(4, 2)
    made.encoder.encoder = torch.nn.Module()
    made.encoder.encoder.layer = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(2))
    return made


def test_layer_decay_multiplies_from_the_heads_down():
    model = layered()
    groups = parameter_groups(model, 0.1, 0.5)
    scales = {id(parameter): group["scale"] for group in groups for parameter in group["params"]}
    expected = {"heads.sst.weight": 1, "heads.sst.bias": 1, "encoder.embeddings.weight": 0.125}
    expected |= {
        f"encoder.encoder.layer.{n}.{part}": s for n, s in ((0, 0.25), (1, 0.5)) for part in ("weight", "bias")
    }
    assert {name: scales[id(parameter)] for name, parameter in model.named_parameters()} == expected
    optimizer = torch.optim.SGD(groups, lr=1.0)
    set_learning_rate(optimizer, 0.4)
    model.encoder.encoder.layer[0].weight.grad = torch.ones(2, 2)
    before = model.encoder.encoder.layer[0].weight.detach().clone()
    optimizer.param_groups[4]["weight_decay"] = optimizer.param_groups[2]["weight_decay"] = 0.0
    optimizer.step()
    torch.testing.assert_close(before - model.encoder.encoder.layer[0].weight.detach(), torch.full((2, 2), 0.1))
    assert optimizer.param_groups[0]["lr"] == 0.4  # that of the history


FUNNEL = transformers.FunnelConfig(vocab_size=9, block_sizes=[2, 2], d_model=8, n_head=2, d_head=4, d_inner=8)
ALBERT = transformers.AlbertConfig(vocab_size=9, hidden_size=8, embedding_size=8, num_attention_heads=2)


@pytest.mark.parametrize(
    ("encoder", "found"),
    [
        (transformers.AlbertModel(ALBERT), "one without any"),
        (transformers.FunnelModel(FUNNEL), "2 numbered of 4"),
    ],
)
def test_layer_decay_needs_layers(encoder, found):
    model = torch.nn.ModuleDict({"encoder": encoder, "heads": torch.nn.ModuleDict()})
    expected = f"layer_decay: expected an encoder whose layers are numbered, found {found}"
    with pytest.raises(ConfigurationError, match=f"^{expected}$"):
        parameter_groups(model, 0.1, 0.5)
    assert len(parameter_groups(model, 0.1)) == 2


def test_alike_rates_are_two_groups():
    groups = parameter_groups(layered(), 0.1)
    assert [(group["weight_decay"], group["scale"]) for group in groups] == [(0.1, 1.0), (0.0, 1.0)]


@pytest.mark.parametrize(("layer_decay", "embeddings"), [(1.0, 1.0), (0.5, 0.125)])
def test_heads_learn_at_a_rate_of_their_own(layer_decay, embeddings):
    model = layered()
    optimizer = torch.optim.SGD(parameter_groups(model, 0.0, layer_decay, 10.0), lr=1.0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_learning_rate(optimizer, 0.1)
    optimizer.step()
    moved = {name: before[name] - parameter.detach() for name, parameter in model.named_parameters()}
    for name, rate in (
        ("heads.sst.weight", 1.0),
        ("heads.sst.bias", 1.0),
        ("encoder.embeddings.weight", embeddings / 10),
    ):
        torch.testing.assert_close(moved[name], torch.full_like(moved[name], rate))
