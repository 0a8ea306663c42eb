"""Samplers and penalties of other code: known by their kind once they are imported, and never taken for another."""

import gc
from typing import Literal

import numpy as np
import pytest

import mtlib
from mtlib.errors import ConfigurationError
from mtlib.objectives.penalty import Penalty
from mtlib.samplers import Annealed, Sampler


class FirstOnly(Sampler):
    """The first task alone."""

    kind: Literal["first_only"] = "first_only"
    share: float = 1.0

    def probabilities(self, sizes, epoch, epochs):
        return np.array([self.share, *[0.0] * (len(sizes) - 1)])


class Gentle(mtlib.Smart):
    """A penalty that builds on another."""

    kind: Literal["gentle"] = "gentle"


@pytest.fixture
def forgotten():
    """Classes made by a test are gone after it."""
    yield
    gc.collect()
    assert Sampler.kinds() and Penalty.kinds()


def test_own_samplers_and_penalties_are_read_back(corpus, tmp_path):
    settings = {
        "sampler": FirstOnly(),
        "penalties": [Gentle(weight=0.0)],
        "epochs": 1,
        "steps_per_epoch": 2,
        "dev_limit": None,
    }
    experiment = mtlib.experiment("smoke", **settings)
    run = mtlib.fit(experiment, corpus, tmp_path, progress="none")
    assert run.experiment == experiment and isinstance(run.experiment.sampler, FirstOnly)
    assert mtlib.experiment("smoke", **experiment.model_dump(mode="json")) == experiment
    assert run.history["draws_sst"].tolist() == [2]


def test_the_library_s_own_kinds():
    assert {"round_robin", "proportional", "square_root", "annealed", "first_only"} <= Sampler.kinds().keys()
    assert {"smart", "bregman", "gentle"} <= Penalty.kinds().keys()
    assert Sampler.read({"kind": "annealed"}) == Sampler.read("annealed") == Annealed()


@pytest.mark.parametrize(
    "value", [None, 3, [], {}, {"kind": 3}, {"kind": ["annealed"]}, "anealed", "", "x" * 9999, {"a": 1}]
)
def test_anything_else_is_no_sampler(value):
    with pytest.raises(ConfigurationError, match="unknown sampler") as error:
        mtlib.experiment("smoke", sampler=value)
    assert len(str(error.value)) < 600


def test_a_value_that_goes_by_the_kind_of_another_class_is_refused(forgotten):
    class Loud(mtlib.Smart):
        pass

    for value in (Loud(weight=1.0), mtlib.Smart(weight=1.0), {"kind": "smart", "weight": 1.0}):
        with pytest.raises(ConfigurationError, match=r"'smart' is that of mtlib.*Smart and .*Loud"):
            mtlib.experiment("smoke", penalties=[value])
    del Loud, value


def test_a_base_class_is_no_penalty_and_no_sampler():
    with pytest.raises(ConfigurationError, match="needs a `kind` of its own"):
        mtlib.experiment("smoke", penalties=[Penalty(kind="none", weight=1.0)])
    with pytest.raises(ConfigurationError, match="needs a `kind` of its own"):
        mtlib.experiment("smoke", sampler=Sampler(kind="annealed"))


def test_a_class_that_is_defined_again_takes_the_place_of_the_first(forgotten):
    def define():
        class Again(Sampler):
            kind: Literal["again"] = "again"

        return Again

    first, second = define(), define()
    assert Sampler.kinds()["again"] is second
    assert Sampler.read(first()) == first()
    del first, second


@pytest.mark.parametrize("share", [np.nan, -1.0, 0.0, np.inf])
def test_probabilities_that_are_none_are_refused(share):
    with pytest.raises(ConfigurationError, match="sampler first_only: expected 3 probabilities"):
        FirstOnly(share=share).schedule([1, 2, 3], 1, 5, 0)
