"""The atomic store beside pickles and links: nothing is unpickled, nothing outside the run is followed."""

import os
import pickle
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from store_helpers import NAMES, content, falls_back, quiet_latest, reseal, same, snapshot, store_of

from mtlib.errors import CheckpointError


class Bomb:
    def __init__(self, sentinel: Path):
        self.sentinel = sentinel

    def __reduce__(self):
        return Path.touch, (self.sentinel,)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_pickle_bomb_is_refused_and_never_runs(tmp_path, name, writer):
    sentinel, source = tmp_path / "sentinel", tmp_path / "bomb"
    torch.save(Bomb(sentinel), source) if writer == "torch" else source.write_bytes(pickle.dumps(Bomb(sentinel)))
    bomb = source.read_bytes()
    if writer == "pickle":
        pickle.loads(bomb)
        assert sentinel.exists(), "this bomb does go off when it is unpickled"
        sentinel.unlink()
    store = store_of(tmp_path / "checkpoints", 1, 2)
    newest = store.folder / "step-00000002"
    if name == "manifest.json":
        (newest / name).write_bytes(bomb)
    else:
        reseal(newest, **{name.split(".")[0]: bomb})
    falls_back(store, 1)
    shutil.rmtree(store.folder / "step-00000001")
    with pytest.raises(CheckpointError, match="no sound checkpoint"):
        store.latest()
    assert not sentinel.exists()


def test_pickles_beside_are_never_opened(tmp_path):
    sentinel = tmp_path / "sentinel"
    store = store_of(tmp_path / "checkpoints", 1)
    beside = [store.folder / "step-00000001" / name for name in ("pytorch_model.bin", "training.pt", "state.pkl")]
    for path in beside:
        path.write_bytes(pickle.dumps(Bomb(sentinel)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(store.latest(), 1)
    assert not sentinel.exists() and all(path.exists() for path in beside)


def test_linked_checkpoints(tmp_path):
    other = store_of(tmp_path / "other", 3)
    store = store_of(tmp_path / "run", 1, 2)
    before = snapshot(other.folder)
    (store.folder / "step-00000003").symlink_to(other.folder / "step-00000003")
    falls_back(store, 2, match="inside")
    assert snapshot(other.folder) == before
    (store.folder / "step-00000009").symlink_to(store.folder / "step-00000002")
    falls_back(store, 2, match="expected step 9, found 2")
    state = store.folder / "step-00000002" / "state.json"
    state.rename(tmp_path / "state.json")
    state.symlink_to(tmp_path / "state.json")
    falls_back(store, 1, match="expected a regular file")
    os.mkfifo(store.folder / "step-00000001" / "fifo")
    (store.folder / "step-00000001" / "manifest.json").unlink()
    (store.folder / "step-00000001" / "fifo").rename(store.folder / "step-00000001" / "manifest.json")
    with pytest.raises(CheckpointError):
        quiet_latest(store)


def test_pruning_a_link_spares_its_target(tmp_path):
    other = store_of(tmp_path / "other", 1)
    store = store_of(tmp_path / "run", 2)
    (store.folder / "step-00000001").symlink_to(other.folder / "step-00000001")
    store.save(3, *content(3))
    assert sorted(os.listdir(store.folder)) == ["step-00000002", "step-00000003"] and same(other.latest(), 1)


@pytest.mark.parametrize("bomb", [b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5_000, b"[]", b"null"])
def test_a_state_that_no_reader_can_unfold_is_refused(tmp_path, bomb):
    store = store_of(tmp_path / "checkpoints", 1, 2)
    reseal(store.folder / "step-00000002", state=bomb)
    falls_back(store, 1)
