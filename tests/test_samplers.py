"""Samplers: the published probabilities, their frequencies in draws, and sequences that follow from the seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mtlib.errors import ConfigurationError
from mtlib.samplers import Annealed, Proportional, RoundRobin, Sampler, SquareRoot
from mtlib.training.loop import positions

SIZES = (8544, 141505, 6040)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(1, (0.0547, 0.9066, 0.0387)), (5, (0.1265, 0.7723, 0.1012)), (10, (0.2713, 0.4756, 0.2531))],
)
def test_annealed_probabilities_are_the_published_ones(epoch, expected):
    assert Annealed().probabilities(SIZES, epoch, 10) == pytest.approx(expected, abs=5e-5)


def test_annealed_with_one_epoch_is_proportional():
    assert Annealed().probabilities(SIZES, 1, 1) == pytest.approx(Proportional().probabilities(SIZES, 1, 1))


def test_annealed_with_two_epochs_reaches_its_end():
    assert Annealed().probabilities((1, 32), 2, 2) == pytest.approx((1 / 3, 2 / 3))  # 32^0.2 = 2


def test_round_robin_has_equal_shares_and_the_base_has_none():
    assert RoundRobin().probabilities(SIZES, 1, 10).tolist() == [1 / 3] * 3
    with pytest.raises(TypeError, match="^Sampler does not define probabilities$"):
        Sampler(kind="nothing").probabilities(SIZES, 1, 1)


def test_schedules_are_the_same_in_every_release():
    assert Annealed().schedule((3, 5, 2), 2, 12, seed=1).tolist() == [
        [2, 2, 2, 1, 0, 0, 1, 0, 1, 1, 0, 1],
        [1, 2, 1, 1, 0, 1, 0, 0, 0, 1, 0, 0],
    ]


def test_square_root_by_hand():
    assert SquareRoot().probabilities((100, 400, 900), 3, 10) == pytest.approx((10 / 60, 20 / 60, 30 / 60))


def test_annealed_refuses_an_epoch_outside_the_run():
    with pytest.raises(ConfigurationError, match="from 1 to 10, found 11"):
        Annealed().probabilities(SIZES, 11, 10)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=6), st.integers(1, 12), st.data())
def test_probabilities_sum_to_one_and_keep_the_order_of_sizes(sizes, epochs, data):
    epoch = data.draw(st.integers(1, epochs))
    for sampler in (Annealed(), Proportional(), SquareRoot()):
        p = sampler.probabilities(sizes, epoch, epochs)
        assert p.sum() == pytest.approx(1)
        assert (np.diff(p[np.argsort(sizes, kind="stable")]) >= -1e-12).all()


@pytest.mark.parametrize("sampler", [Annealed(), Proportional(), SquareRoot()], ids=lambda sampler: sampler.kind)
def test_draws_follow_the_probabilities(sampler):
    schedule = sampler.schedule(SIZES, 2, 50_000, seed=3)
    for epoch in range(2):
        observed = np.bincount(schedule[epoch], minlength=3)
        expected = sampler.probabilities(SIZES, epoch + 1, 2) * 50_000
        assert stats.chisquare(observed, expected).pvalue > 1e-3


@pytest.mark.parametrize("kind", ["round_robin", "proportional", "square_root", "annealed"])
def test_a_schedule_is_a_function_of_its_seed(kind):
    sampler = Sampler.read(kind)
    first = sampler.schedule(SIZES, 4, 50, seed=1)
    assert first.shape == (4, 50)
    assert (first == sampler.schedule(SIZES, 4, 50, seed=1)).all()
    assert kind == "round_robin" or (first != sampler.schedule(SIZES, 4, 50, seed=2)).any()


def test_round_robin_takes_turns_across_epochs():
    assert RoundRobin().schedule(SIZES, 2, 4, seed=0).tolist() == [[0, 1, 2, 0], [1, 2, 0, 1]]


@settings(max_examples=50)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_positions_count_the_earlier_steps_of_the_same_task(schedule):
    expected = [schedule[:step].count(task) for step, task in enumerate(schedule)]
    assert positions(np.array(schedule)).tolist() == expected
