"""Every saved item is needed: without any one of them a killed run no longer comes to the same bits."""

import re

import pytest
import torch
from run_helpers import SMART_AND_TEACHER, after_step, fresh, kill, tiny

from mtlib.training import loop
from mtlib.training.checkpoints import Checkpoint, CheckpointStore

GROUPS = {
    "weights of the encoder": r"model\.encoder\..*",
    "weights of the heads": r"model\.heads\..*",
    "first moments": r"optimizer\..*\.exp_avg",
    "second moments": r"optimizer\..*\.exp_avg_sq",
    "steps of the optimizer": r"optimizer\..*\.step",
    "all of the optimizer": r"optimizer\..*",
    "teacher": r"penalty\.bregman\..*",
}
EMPTY = {
    "history": [],
    "best": {"epoch": 0, "quality": float("-inf")},
    "sums": {},
    "counts": {},
    "seconds": 0.0,
}
MIDDLE = 9
"""Steps done when the run is killed: in the middle of its fifth epoch, after the first halving."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The experiment with penalties, teacher and halving, the best epoch made its third, and its outcome."""
    folder = tmp_path_factory.mktemp("whole")
    assert child(folder) == 0
    return tiny(SMART_AND_TEACHER).outcome(folder)


def third_epoch_is_best(patch):
    score = loop.Training._score
    patch.setattr(loop.Training, "_score", lambda self: (score(self)[0], -abs(self.done - 6.0)))


def child(folder, *prepares):
    return tiny(SMART_AND_TEACHER).child(
        folder, lambda patch: [prepare(patch) for prepare in (third_epoch_is_best, *prepares)]
    )


def killed(folder) -> None:
    """Kill the run in its middle, with that step saved, and at its very end."""

    def in_next_step(patch):
        step = loop.Training._step
        patch.setattr(loop.Training, "_step", lambda self, n: kill() if n == MIDDLE else step(self, n))

    assert child(folder, in_next_step) < 0


def in_finish(patch):
    patch.setattr(loop.Training, "finish", lambda self: kill())


def forgets(change):
    """A loop that neither saves nor restores something: what was saved is replaced as `change` says."""

    def prepare(patch):
        latest = CheckpointStore.latest
        patch.setattr(CheckpointStore, "latest", lambda self: (found := latest(self)) and change(found))

    return prepare


def test_nothing_forgotten(whole, tmp_path):
    killed(tmp_path)
    assert child(tmp_path, in_finish) < 0
    assert child(tmp_path) == 0
    assert tiny(SMART_AND_TEACHER).outcome(tmp_path) == whole


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_of_tensors_forgotten(whole, tmp_path, group):
    """On resume the group is as in a new run: initial weights and teacher, moments of zero."""
    initial = fresh(tiny(SMART_AND_TEACHER))
    hits = []

    def change(found: Checkpoint) -> Checkpoint:
        tensors = dict(found.tensors)
        for name in found.tensors:
            if re.fullmatch(GROUPS[group], name):
                hits.append(name)
                tensors[name] = initial.get(name, torch.zeros_like(found.tensors[name]))
        assert hits
        return Checkpoint(found.step, tensors, found.state)

    killed(tmp_path)
    assert child(tmp_path, forgets(change)) == 0
    assert tiny(SMART_AND_TEACHER).outcome(tmp_path) != whole


@pytest.mark.parametrize("name", EMPTY)
def test_a_noted_value_forgotten(whole, tmp_path, name):
    """On resume the value is as in a new run."""
    assert EMPTY.keys() == set(loop.NOTED)

    def change(found: Checkpoint) -> Checkpoint:
        assert found.state[name] != EMPTY[name]
        return Checkpoint(found.step, found.tensors, {**found.state, name: EMPTY[name]})

    killed(tmp_path)
    assert child(tmp_path, forgets(change)) == 0
    assert tiny(SMART_AND_TEACHER).outcome(tmp_path) != whole


@pytest.mark.parametrize("left_out", [*GROUPS.values(), *EMPTY])
def test_what_is_left_out_of_the_checkpoint_is_missed_on_resume(tmp_path, left_out):
    """A loop that only forgets to save it: the run that resumes is refused with exit code 66."""

    def without(patch):
        save = CheckpointStore.save

        def leaving_out(self, step, tensors, state):
            kept = {name: tensor for name, tensor in tensors.items() if not re.fullmatch(left_out, name)}
            return save(self, step, kept, {name: value for name, value in state.items() if name != left_out})

        patch.setattr(CheckpointStore, "save", leaving_out)

    assert child(tmp_path, without, after_step(2)) < 0
    assert child(tmp_path) == 66
