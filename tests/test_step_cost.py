"""What a step of each method computes, counted, against the passes it may cost. Nothing here is timed."""

import importlib
from contextlib import ExitStack
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    """The benchmark's module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("step_cost")


@pytest.fixture(scope="module")
def flops(bench, corpus):
    """Operations of one step of each method over those of a plain one, on the two-layer encoder."""
    with ExitStack() as held:
        settings = {"encoder": "tiny", "steps_per_epoch": 1, "batch_size": 8, "tasks": ("sst", "qqp", "sts")}
        methods = {name: row[0] for name, row in bench.METHODS.items()}
        return bench.counted(
            {
                name: bench.mtlib_training(corpus, held, penalties=penalties, **settings)
                for name, penalties in methods.items()
            }
        )


@pytest.mark.parametrize("method", ["SMART, 1 step", "BPPO", "R-Drop", "FreeLB", "SMART + BPPO"])
def test_a_step_computes_its_passes_and_no_more(bench, flops, method):
    limit = bench.METHODS[method][1] / bench.METHODS["plain"][1]
    assert flops[method] == pytest.approx(limit, rel=0.01)
