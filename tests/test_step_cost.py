"""What a step of each method computes, counted, against the passes it may cost. Nothing here is timed."""

import importlib.util
from contextlib import ExitStack
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "step_cost.py"


@pytest.fixture(scope="module")
def bench():
    """The benchmark's module."""
    spec = importlib.util.spec_from_file_location("step_cost", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def flops(bench, corpus, tmp_path_factory):
    """Operations of one step of each method over those of a plain one, on the two-layer encoder."""
    with ExitStack() as held:
        return bench.counted(bench.trainings(corpus, "tiny", 1, 8, str(tmp_path_factory.mktemp("cost")), held))


@pytest.mark.parametrize("method", ["SMART, 1 step", "BPPO", "SMART + BPPO"])
def test_a_step_computes_its_passes_and_no_more(bench, flops, method):
    limit = bench.METHODS[method][1] / bench.METHODS["plain"][1]
    assert flops[method] == pytest.approx(limit, rel=0.01)
