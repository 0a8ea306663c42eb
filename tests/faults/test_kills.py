"""Whole runs under SIGKILL: however often and wherever they die, they come to the same SHA-256 as uninterrupted."""

import shutil
import signal
import warnings
from pathlib import Path

import pytest
from run_helpers import PRETRAINING, SMART_AND_TEACHER, SMART_BALL, after_step, at_call, calls, kill, tiny
from store_helpers import fork, on_each_call

from mtlib.training.listing import remove
from mtlib.training.runs import RunStore

DIED = -signal.SIGKILL


@pytest.fixture(scope="module", params=[SMART_AND_TEACHER, SMART_BALL, PRETRAINING])
def whole(request, tmp_path_factory):
    """An experiment and the outcome of its uninterrupted run."""
    return finished(tiny(request.param), tmp_path_factory)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A run of four steps, penalties and teacher included, and its outcome."""
    return finished(tiny(SMART_AND_TEACHER, epochs=2, steps_per_epoch=2), tmp_path_factory)


def finished(experiment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert experiment.child(folder) == 0
    return experiment, folder, experiment.outcome(folder)


def test_the_experiments_cover_what_a_resume_has_to_keep(whole):
    experiment, folder, _ = whole
    (run,) = RunStore(folder).all()
    rates = (run.history["learning_rate"] / experiment.settings.learning_rate).tolist()
    if experiment == tiny(SMART_AND_TEACHER):
        assert rates == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25], "it halves twice, kills lie before and after"
        draws = run.history.filter(like="draws_")
        assert (draws.nunique() > 1).any(), "annealed: the tasks' shares differ from epoch to epoch"
        assert {"smart/penalty", "bregman/penalty", "teacher_mean"} <= set(run.history)
    elif experiment == tiny(SMART_BALL):
        assert run.best_epoch == 1, "the best epoch lies before most kills and stays the best"
        assert (run.history["smart/radius"] < 0.2).all()
    else:
        assert experiment == tiny(PRETRAINING) and rates == [0.625, 0.125], "linear: those of steps 4 and 8"


def test_killed_after_every_step(whole, tmp_path):
    """With a checkpoint after every step: the resumed run repeats the one step that was not yet saved."""
    experiment, _, expected = whole
    for step in range(1, experiment.steps + 1):
        folder = tmp_path / str(step)
        assert experiment.child(folder, after_step(step)) == DIED
        assert experiment.child(folder) == 0
        assert experiment.outcome(folder) == expected, f"killed after step {step}"


def test_killed_again_and_again_in_one_run(whole, tmp_path):
    """With checkpoints at most at the ends of epochs, as in real runs, so that most kills cost several steps."""
    experiment, _, expected = whole
    last = experiment.steps
    for step in sorted({1, 2, last // 2, last // 2 + 1, last - 3, last - 2, last - 1, last}):
        assert experiment.child(tmp_path, after_step(step), minutes=1e9) == DIED
    assert experiment.child(tmp_path, minutes=1e9) == 0
    assert experiment.outcome(tmp_path) == expected


def points(experiment, folder: Path, every: int) -> list[int]:
    """Numbers of the file-system calls of a run: all of its third save, and each `every`-th of the others."""
    names = calls(experiment, folder)
    saves = [number for number, name in enumerate(names) if name == "mkdir step"]
    inside = range(saves[2], saves[3])
    assert len(inside) >= 8
    return sorted({*inside, *range(0, len(names), every)})


def dies_and_resumes(experiment, expected: str, folder: Path, point: int) -> None:
    assert experiment.child(folder, at_call(point)) == DIED, f"call {point} is never reached"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert experiment.child(folder) == 0
    if not (folder / "state").is_file():
        raise AssertionError("no state was noted")
    assert experiment.outcome(folder) == expected, f"killed at file-system call {point}"


def test_killed_inside_the_save_and_throughout_the_run(short, tmp_path):
    experiment, _, expected = short
    for point in points(experiment, tmp_path / "count", every=12):
        dies_and_resumes(experiment, expected, tmp_path / str(point), point)


@pytest.mark.slow
def test_killed_at_every_file_system_call_of_a_run(short, tmp_path):
    experiment, _, expected = short
    for point in points(experiment, tmp_path / "count", every=1):
        dies_and_resumes(experiment, expected, tmp_path / str(point), point)


def removed(folder: Path, act, note=lambda *_: None) -> int:
    """`mtlib rm` of the one run below `folder` in a forked child, `act` before each file-system call."""
    store = RunStore(folder)
    (run,) = store.all()

    def work():
        with pytest.MonkeyPatch.context() as patch:
            on_each_call(patch, act, note)
            remove(store, run)

    return fork(work)


def test_killed_anywhere_inside_a_removal_the_run_is_whole_or_gone(short, tmp_path):
    """And what is left of it goes when the next run begins: the same one, which is trained again."""
    experiment, finished, expected = short
    shutil.copytree(finished, tmp_path / "count")
    with open(tmp_path / "calls", "w") as file:
        assert removed(tmp_path / "count", lambda *_: None, lambda *call: print(call, file=file, flush=True)) == 0
    names = (tmp_path / "calls").read_text().splitlines()
    renamed = next(number for number, call in enumerate(names) if "rename" in call and ".tmp-" not in call)
    assert len(names) > renamed + 10
    for point in sorted({*range(renamed + 3), *range(renamed + 3, len(names), 8)}):
        folder = Path(shutil.copytree(finished, tmp_path / str(point)))
        assert removed(folder, lambda number, _, point=point: number == point and kill()) == DIED
        left = RunStore(folder).all()
        if left:
            assert point <= renamed and left[0].complete and left[0].model().tasks
            continue
        assert experiment.child(folder) == 0 and experiment.outcome(folder) == expected
        assert not list((folder / "runs").glob(".tmp-*")), f"killed at file-system call {point}"
