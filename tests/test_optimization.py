"""Learning-rate factors against torch's own schedulers and hand computations."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from mtlib.training.optimization import halving, learning_rate_factor


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
