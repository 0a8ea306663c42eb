"""The preset `paper` as far as a CPU can prove it: kinds of runs, passes and sums; two steps of each kind are slow."""

import importlib
from pathlib import Path

import numpy as np
import pytest

import mtlib
from mtlib.workbook.plan import Plan

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def proof():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("paper_preset")


def test_every_run_of_the_preset_is_of_a_kind_that_the_cost_model_knows(proof):
    runs = list(Plan("paper", "sample").experiments.values())
    assert {3, 4, 6, 8, 9, 10} == {proof.passes(each) for each in runs}
    plain = mtlib.experiment("paper")
    assert proof.passes(plain.but(penalties=[mtlib.Smart(weight=0.0)])) == 3
    both = plain.but(penalties=[mtlib.Smart(weight=1.0), mtlib.Bregman(weight=1.0, decay=0.9)])
    assert proof.passes(both) == 9
    four, five = proof.memory(plain, 48), proof.memory(plain.but(penalties=[mtlib.Bregman(weight=1.0, decay=0.9)]), 48)
    assert five - four == pytest.approx(4 * proof.WEIGHTS + (four - 16 * proof.WEIGHTS)), "a teacher, and its pass"


def test_hours_are_steps_times_seconds(proof):
    run = mtlib.experiment("paper", epochs=1, steps_per_epoch=3600)
    machine = proof.Machine(product=1e12, memory=1e11)
    one = proof.seconds(machine, 16 * 48, 48, proof.LAYERS, proof.WIDTH)
    assert proof.hours([run, run], machine, 48) == pytest.approx(2 * one)
    launched = proof.hours([run], machine, 48, launch=1e-5) - proof.hours([run], machine, 48)
    assert launched == pytest.approx(3 * proof.LAYERS * proof.KERNELS * 1e-5)


@pytest.mark.slow
def test_two_steps_of_every_kind_at_bert_base_s_size(proof):
    table, runs = proof.prove("paper", 48)
    assert table["runs"].sum() == len(runs) and table["kind"].is_unique
    assert np.isfinite(table["loss"]).all()
