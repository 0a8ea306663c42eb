"""Streams are pure functions of their arguments, all of them, and stay what they are from release to release."""

import random

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from mtlib import randomness
from mtlib.errors import ConfigurationError

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

ARGUMENTS = st.tuples(st.integers(), st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]))).flatmap(
    lambda head: st.lists(st.integers(), max_size=4).map(lambda counters: (*head, *counters))
)
PINNED = {
    (0, "tasks"): 186666201410113005,
    (1, "noise", 7): 965159099747254541,
    (42, "order", 3, 11): 4805181713331476326,
    (-1, "", 0): 4199582358402898633,
    (2**70, "dropout", 10**9): 5189590603075886272,
}


def numpy_draws(*arguments):
    return randomness.generator(*arguments).random(8).tolist()


def torch_draws(*arguments):
    return torch.rand(8, generator=randomness.torch_generator(*arguments)).tolist()


def dropout_mask(*arguments):
    with randomness.seeded(*arguments):
        return functional.dropout(torch.ones(64), 0.5).tolist()


DRAWS = [numpy_draws, torch_draws, dropout_mask]


@pytest.mark.parametrize("arguments", PINNED)
def test_streams_are_the_same_in_every_release(arguments):
    assert randomness.derive(*arguments) == PINNED[arguments]


def test_draws_are_the_same_in_every_release():
    assert randomness.generator(1, "order", 2).integers(0, 1000, 6).tolist() == [651, 725, 96, 594, 915, 804]
    assert randomness.generator(1, "order", 2).random() == 0.7257499042086782
    generator = randomness.torch_generator(1, "order", 2)
    assert torch.randint(0, 1000, (6,), generator=generator).tolist() == [505, 713, 418, 302, 897, 493]
    with randomness.seeded(1, "order", 2):
        assert torch.randint(0, 1000, (6,)).tolist() == [505, 713, 418, 302, 897, 493]


@given(ARGUMENTS)
def test_derived_integers_suit_every_generator(arguments):
    derived = randomness.derive(*arguments)
    assert 0 <= derived < 2**63 and derived == randomness.derive(*arguments)
    assert randomness.torch_generator(*arguments).initial_seed() == derived


@given(ARGUMENTS, ARGUMENTS)
def test_different_arguments_are_different_streams(first, second):
    assume(first != second)
    assert randomness.derive(*first) != randomness.derive(*second)


@pytest.mark.parametrize(
    "first, second",
    [
        ((0, "a", 1, 11), (0, "a", 11, 1)),
        ((0, "a", 1, 11), (0, "a", 111)),
        ((0, "a1", 1), (0, "a", 11)),
        ((1, "1a"), (11, "a")),
        ((0, "a"), (0, "a", 0)),
        ((0, "a", 0), (0, "a", 0, 0)),
        ((0, "a", -1), (0, "a-", 1)),
        ((0, "a 1"), (0, "a", 1)),
        ((0, ""), (0, "0")),
    ],
)
@pytest.mark.parametrize("draw", DRAWS)
def test_arguments_that_read_alike_are_different_streams(draw, first, second):
    assert draw(*first) != draw(*second)


def test_a_name_that_could_read_like_another_stream_is_refused():
    with pytest.raises(ConfigurationError, match=r"^stream name 'a\\x1f1': expected no U\+001F in it$"):
        randomness.derive(0, "a\x1f1")
    with pytest.raises(ConfigurationError, match=r"^stream name '(\\x1f){120}': expected"):
        randomness.derive(0, "\x1f" * 121)


@pytest.mark.parametrize("draw", DRAWS)
def test_same_arguments_same_draws_whatever_was_drawn_before(draw):
    expected = draw(3, "noise", 17)
    draw(3, "noise", 16)
    torch.rand(5), np.random.rand(5), random.random()
    torch.manual_seed(99)
    assert draw(3, "noise", 17) == expected == draw(np.int64(3), "noise", np.int32(17))
    changed = [draw(4, "noise", 17), draw(3, "noises", 17), draw(3, "noise", 18), draw(3, "noise", 17, 0)]
    assert all(other != expected for other in changed)


@pytest.mark.parametrize("fails", [False, True])
def test_seeded_restores_the_global_state(fails):
    torch.manual_seed(5)
    expected = torch.rand(4).tolist()
    torch.manual_seed(5)
    numpy_state, python_state = np.random.get_state()[1].tolist(), random.getstate()
    try:
        with randomness.seeded(0, "dropout", 1):
            outer = torch.rand(1)
            with randomness.seeded(0, "dropout", 2):
                torch.rand(100)
            inner = torch.rand(1)
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert torch.rand(4).tolist() == expected
    assert np.random.get_state()[1].tolist() == numpy_state and random.getstate() == python_state
    with randomness.seeded(0, "dropout", 1):
        assert torch.equal(torch.rand(2), torch.cat([outer, inner])), "the inner context left the outer stream alone"


def test_successive_steps_are_unrelated():
    """First draws of 4,000 successive steps look uniform and uncorrelated, within 5 standard errors."""
    n = 4000
    for draw in (
        lambda step: randomness.generator(0, "x", step).random(),
        lambda step: torch.rand(1, generator=randomness.torch_generator(0, "x", step)).item(),
    ):
        values = np.array([draw(step) for step in range(n)])
        assert abs(values.mean() - 0.5) < 5 / np.sqrt(12 * n)
        assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 5 / np.sqrt(n)


def test_a_stream_reaches_the_generators_of_gpus_and_gives_them_back_as_they_were(monkeypatch):
    gpu = torch.Generator().manual_seed(5)
    before = torch.rand(4, generator=gpu.clone_state()).tolist()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "default_generators", (gpu,))
    with randomness.seeded(1, "dropout", 3):
        inside = torch.rand(8, generator=gpu).tolist()
    assert inside == torch_draws(1, "dropout", 3)
    with pytest.raises(RuntimeError), randomness.seeded(1, "dropout", 3):
        raise RuntimeError("the state is restored after an error too")
    assert torch.rand(4, generator=gpu).tolist() == before


@pytest.mark.parametrize("name", ["mps", "xpu"])
def test_a_stream_reaches_other_accelerators_and_gives_them_back_as_they_were(monkeypatch, name):
    other, module = torch.Generator().manual_seed(5), getattr(torch, name)
    before = torch.rand(4, generator=other.clone_state()).tolist()
    monkeypatch.setattr(module, "is_available", lambda: True)
    monkeypatch.setattr(module, "get_rng_state", other.get_state)
    monkeypatch.setattr(module, "set_rng_state", other.set_state)
    monkeypatch.setattr(module, "manual_seed", other.manual_seed)
    with randomness.seeded(1, "dropout", 3):
        inside = torch.rand(8, generator=other).tolist()
    assert inside == torch_draws(1, "dropout", 3)
    assert torch.rand(4, generator=other).tolist() == before
