"""Two processes on one run: the single process's result, and no process that outlives the other."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import run_helpers
import safetensors.torch
import torch
from accelerate import PartialState
from conftest import made_up_corpus
from run_helpers import PRETRAINING, SMART_AND_TEACHER, Tiny, after_step, tiny

import mtlib
from mtlib.device import PATIENCE
from mtlib.objectives import smart
from mtlib.training import loop
from mtlib.training.checkpoints import CheckpointStore
from mtlib.training.runs import RunStore
from mtlib.training.start import Start

SECONDS = 30
"""How long a process waits for the other, where nothing is meant to hang."""


def uneven(**changes) -> Tiny:
    """Batches of five, dropout off, a teacher; an odd number of dev examples after each epoch."""
    settings = {
        "batch_size": 5,
        "epochs": 2,
        "steps_per_epoch": 3,
        "schedule": "linear",
        "dev_limit": 9,
        "precision": "float32",
    }
    penalties = [mtlib.Bregman(weight=1.0, decay=0.9)]
    return Tiny(tiny(SMART_AND_TEACHER, **{**settings, "penalties": penalties, **changes}).settings)


def start(experiment: Tiny, folder: Path, rank: int, port: int, prepare, seconds: float) -> int:
    """Process number of a forked child that is one of two ranks; its exit code is that of `mtlib`."""
    folder.mkdir(exist_ok=True, parents=True)
    if process := os.fork():
        return process
    code = 99
    try:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", PATIENCE: str(seconds)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        PartialState._reset_state()
        with pytest.MonkeyPatch.context() as patch:
            prepare(patch)
            experiment.run(folder, patch)
        code = 0
    except mtlib.errors.MtlibError as error:
        (folder / f"error{rank}").write_text(str(error))
        code = error.exit_code
    except SystemExit as error:
        code = error.code
    finally:
        os._exit(code)


def both(
    experiment: Tiny, folder: Path, first=lambda patch: None, second=lambda patch: None, seconds: float = SECONDS
) -> list[int]:
    """Exit codes, or minus the signals, of two ranks of `experiment` after their preparations."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [start(experiment, folder, rank, port, act, seconds) for rank, act in enumerate((first, second))]
    codes = dict.fromkeys(processes)
    try:
        deadline = time.monotonic() + 60
        while None in codes.values() and time.monotonic() < deadline:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process in codes:
                codes[process] = os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
    finally:
        for process in (process for process, code in codes.items() if code is None):
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
    return list(codes.values())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder of an uninterrupted run of two processes."""
    uneven()  # loads everything once, before forking
    folder = tmp_path_factory.mktemp("two")
    assert both(uneven(), folder) == [0, 0]
    return folder


def test_two_processes_come_to_what_one_does(whole, tmp_path):
    assert uneven().child(tmp_path) == 0
    (two,), (one,) = RunStore(whole).all(), RunStore(tmp_path).all()
    assert (two.read("environment.json")["world_size"], one.read("environment.json")["world_size"]) == (2, 1)
    assert two.path.name == one.path.name and two.complete
    same = one.history.columns.difference(["seconds"])
    np.testing.assert_allclose(two.history[same], one.history[same], rtol=1e-3, atol=1e-4)
    for (name, a), (_, b) in zip(two.model().named_parameters(), one.model().named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=name)
    for task in one.experiment.tasks:
        a, b = (run.predictions("dev", task) for run in (two, one))
        assert a["id"].tolist() == b["id"].tolist() and a["id"].is_unique
        np.testing.assert_allclose(a.drop(columns="id"), b.drop(columns="id"), rtol=1e-3, atol=1e-3)


def doubled(patch: pytest.MonkeyPatch) -> None:
    """Train in float64, where AdamW does not make a weight's whole step out of the rounding of a gradient near 0."""
    made = Start.model
    patch.setattr(Start, "model", lambda start: made(start).double())


@pytest.mark.parametrize(
    "penalty",
    [
        mtlib.Smart(weight=1.0),
        mtlib.Smart(weight=100.0, mode="projected", epsilon=0.05, eta=0.02, sigma=0.01, steps=2),
        mtlib.Smart(weight=1.0, mode="ball"),
        mtlib.Smart(weight=1.0, mode="ball", direction="random"),
        mtlib.Bregman(weight=1.0, decay=0.9),
    ],
    ids=["rescaled", "projected", "ball", "random ball", "bregman"],
)  # fmt: skip
def test_penalties_of_two_processes_are_those_of_one(tmp_path, penalty):
    experiment = uneven(epochs=1, steps_per_epoch=12, penalties=[penalty], schedule="constant")
    assert both(experiment, tmp_path / "two", doubled, doubled) == [0, 0]
    assert experiment.child(tmp_path / "one", doubled) == 0
    (two,), (one,) = RunStore(tmp_path / "two").all(), RunStore(tmp_path / "one").all()
    for file in ("model.safetensors", "heads.safetensors"):
        found, expected = (safetensors.torch.load_file(run.path / "model" / file) for run in (two, one))
        for name, weight in expected.items():
            torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-9, msg=name)
        assert {weight.dtype for weight in expected.values()} == {torch.float64}
    logged = [name for name in one.history if name.startswith((penalty.kind, "train_loss"))]
    assert len(logged) > 3
    np.testing.assert_allclose(two.history[logged], one.history[logged], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("batch_size", "aggregate"), [(5, "sum"), (4, "upgrad"), (7, "famo")])
def test_joint_steps_of_two_processes_are_those_of_one(tmp_path, batch_size, aggregate):
    penalties = [mtlib.Smart(weight=1.0, mode="ball"), mtlib.Bregman(weight=1.0, decay=0.9)]
    joint = {"step": "joint", "sampler": "annealed", "batch_size": batch_size, "penalties": penalties}
    joint["aggregate"] = aggregate
    experiment = uneven(epochs=2, steps_per_epoch=5, schedule="constant", **joint)
    assert both(experiment, tmp_path / "two") == [0, 0] and experiment.child(tmp_path / "one") == 0
    (two,), (one,) = RunStore(tmp_path / "two").all(), RunStore(tmp_path / "one").all()
    for (name, a), (_, b) in zip(two.model().named_parameters(), one.model().named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-6, msg=name)
    same = one.history.columns.difference(["seconds"])
    np.testing.assert_allclose(two.history[same], one.history[same], rtol=1e-3, atol=1e-5)


def test_processes_send_no_pickles(tmp_path):
    def forbid(patch):
        for name in ("all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list"):
            patch.setattr(torch.distributed, name, None)
        patch.setattr(pickle, "loads", None)
        patch.setattr(pickle, "Unpickler", None)
        for name in ("_pickler", "_unpickler"):  # what torch's own collectives hold of it
            patch.setattr(torch.distributed.distributed_c10d, name, None)

    assert both(uneven(epochs=1), tmp_path, forbid, forbid) == [0, 0]


@pytest.mark.slow
def test_accelerate_starts_two_processes_on_a_cpu(tmp_path):
    command = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no -m mtlib train"
    documented = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    assert command in " ".join(documented.replace("\\\n", "").split())
    options = ["--preset", "smoke", "--set", "epochs=1", "--set", "steps_per_epoch=2", "--results", str(tmp_path)]
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *command.split(), *options]
    clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    subprocess.run(launch, env=clean, check=True, capture_output=True, timeout=240)
    (run,) = RunStore(tmp_path).all()
    assert run.complete and run.read("environment.json")["world_size"] == 2


def test_a_step_whose_inner_gradient_is_not_finite_is_skipped_by_all(tmp_path):
    def broken(patch):
        gradient = smart.inner_gradient
        patch.setattr(smart, "inner_gradient", lambda step, d: gradient(step, d) * (np.nan if step.number == 2 else 1))

    experiment = uneven(penalties=[mtlib.Smart(weight=1.0)])
    assert both(experiment, tmp_path / "two", second=broken) == [0, 0]
    assert experiment.child(tmp_path / "one", broken) == 0
    assert (tmp_path / "two" / "state").read_text() == (tmp_path / "two" / "state1").read_text()
    (two,), (one,) = RunStore(tmp_path / "two").all(), RunStore(tmp_path / "one").all()
    skipped = two.history["smart/skipped"]
    assert skipped.tolist() == one.history["smart/skipped"].tolist() and skipped.max() == pytest.approx(1 / 3)
    np.testing.assert_allclose(two.history["smart/penalty"], one.history["smart/penalty"], rtol=1e-3)


def test_both_processes_hold_the_same_state_and_only_the_first_writes(whole):
    assert (whole / "state").read_text() == (whole / "state1").read_text()
    (run,) = RunStore(whole).all()
    assert not list(run.path.rglob(".tmp-*")) and not (run.path / "checkpoints").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_the_other_and_the_run_resumes(whole, tmp_path, rank):
    prepares = [lambda patch: None, lambda patch: None]
    prepares[rank] = after_step(3)
    codes = both(uneven(), tmp_path, *prepares)
    assert codes[rank] == -signal.SIGKILL and codes[1 - rank] == 74
    assert "another process of this run ended" in (tmp_path / f"error{1 - rank}").read_text()
    (run,) = RunStore(tmp_path).all()
    assert run.status in ("failed", "interrupted")
    assert both(uneven(), tmp_path) == [0, 0]
    assert uneven().outcome(tmp_path) == uneven().outcome(whole)


def test_a_process_that_ends_early_ends_the_other(tmp_path):
    assert both(uneven(), tmp_path, second=after_step(3, lambda: os._exit(0))) == [74, 0]
    assert not RunStore(tmp_path).all()[0].complete


def test_a_process_that_hangs_is_not_waited_for(tmp_path):
    codes = both(uneven(), tmp_path, second=after_step(3, lambda: time.sleep(6)), seconds=3)
    assert codes == [74, 74]


def test_sigterm_to_one_process_stops_both_after_the_same_step(whole, tmp_path):
    codes = both(uneven(), tmp_path, second=after_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert codes == [143, 143]
    assert RunStore(tmp_path).all()[0].checkpoints.latest().step == 3
    assert both(uneven(), tmp_path) == [0, 0]
    assert uneven().outcome(tmp_path) == uneven().outcome(whole)


def test_a_run_of_two_processes_does_not_continue_with_one(tmp_path):
    assert both(uneven(), tmp_path, *[after_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM))] * 2) == [143, 143]
    assert uneven().child(tmp_path) == 66
    assert uneven().child(tmp_path, allow_inexact=True) == 0
    assert RunStore(tmp_path).all()[0].read("environment.json")["inexact"] == [{"world_size": [2, 1]}]


def test_processes_that_find_different_checkpoints_are_refused(tmp_path):
    assert both(uneven(), tmp_path, *[after_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM))] * 2) == [143, 143]

    def older(patch):
        patch.setattr(CheckpointStore, "latest", lambda self: None)

    assert both(uneven(), tmp_path, second=older) == [66, 66]
    assert "step and SHA-256 to begin with: expected the same in every process" in (tmp_path / "error0").read_text()


def test_processes_that_would_train_on_different_corpora_are_refused_before_the_first_step(tmp_path):
    def flipped(patch):
        corpus = made_up_corpus(rows=24)
        corpus["sst"].train.loc[:, "label"] = 4 - corpus["sst"].train["label"]
        patch.setattr(run_helpers, "CORPUS", corpus)

    assert both(uneven(), tmp_path, second=flipped) == [66, 66]
    for rank in range(2):
        message = (tmp_path / f"error{rank}").read_text()
        assert message.startswith("tiny: SHA-256 of what is trained: expected the same in every process")
    assert not RunStore(tmp_path).all()


def test_a_divergence_ends_both_processes_with_70(tmp_path):
    def broken(patch):
        objective = loop.Training._objective

        def spoil(self, batch, number):
            loss, log = objective(self, batch, number)
            return loss * (float("nan") if number == 2 else 1.0), log

        patch.setattr(loop.Training, "_objective", spoil)

    assert both(uneven(), tmp_path, second=broken) == [70, 70]


def test_pretraining_is_one_process_s_work(tmp_path):
    assert both(tiny(PRETRAINING), tmp_path) == [64, 64]
    assert "expected one process, found 2" in (tmp_path / "error0").read_text()
