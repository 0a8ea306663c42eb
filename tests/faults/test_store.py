"""The atomic store under kills, signals, full disks and second writers."""

import ctypes
import errno
import json
import os
import resource
import signal
import sys
import warnings
from pathlib import Path

import pytest
import torch
from store_helpers import (
    NAMES,
    bits,
    content,
    fork,
    leftovers,
    on_each_call,
    same,
    snapshot,
    store_of,
)

from mtlib.errors import CheckpointError, ConfigurationError, StorageError
from mtlib.training import files
from mtlib.training.checkpoints import Checkpoint, CheckpointStore, RunLock, write_atomic, write_json
from mtlib.training.signals import Interruption

# Round trips


def test_round_trip_is_exact_to_the_bit(tmp_path):
    base = torch.arange(6, dtype=torch.float32)
    tensors = {
        "view": base[::2],
        "tied": base,
        "tied again": base,
        "transposed": torch.arange(6, dtype=torch.float64).reshape(2, 3).T,
        "scalar": torch.tensor(3, dtype=torch.int64),
        "half": torch.tensor([1.5, float("inf")], dtype=torch.bfloat16),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, 4),
        "gradient": torch.ones(2, requires_grad=True),
        "payload": torch.tensor([0x7FC12345], dtype=torch.int32).view(torch.float32),
    }
    state = {"z": 1, "a": {"loss": 0.1 + 0.2, "score": float("nan")}, "text": "\u00e9\ud800", "none": None}
    path = CheckpointStore(tmp_path / "a" / "b").save(123, tensors, state)
    assert path == tmp_path / "a" / "b" / "step-00000123" and sorted(os.listdir(path)) == NAMES
    found = CheckpointStore(tmp_path / "a" / "b").latest()
    assert found.step == 123 and {n: bits(t) for n, t in found.tensors.items()} == {
        name: bits(tensor.detach()) for name, tensor in tensors.items()
    }
    assert json.dumps(found.state) == json.dumps(state), "same values, NaN included, keys in the same order"
    found.tensors["tied"].zero_()
    assert found.tensors["tied again"][1] == 1, "each tensor has memory of its own"


def test_no_tensors_no_state_and_no_checkpoint(tmp_path):
    store = CheckpointStore(tmp_path / "none")
    assert store.latest() is None and not store.folder.exists()
    assert store.save(0, {}, {}).name == "step-00000000"
    assert store.latest() == Checkpoint(0, {}, {})


def test_only_the_newest_are_kept(tmp_path):
    store = store_of(tmp_path, 1, 2, 30, keep=2)
    assert sorted(os.listdir(tmp_path)) == ["step-00000002", "step-00000030"]
    CheckpointStore(tmp_path, keep=1).save(10**9, *content(10**9))
    assert os.listdir(tmp_path) == ["step-1000000000"] and same(store.latest(), 10**9)
    for step in (1, 2, 3):
        CheckpointStore(tmp_path / "default").save(step, *content(step))
    assert len(os.listdir(tmp_path / "default")) == 2
    with pytest.raises(ConfigurationError, match="at least 1, found 0"):
        CheckpointStore(tmp_path, keep=0)


def test_second_save_of_a_step_stands_beside_the_first(tmp_path):
    store = store_of(tmp_path, 5)
    paths = [store.save(5, {}, {"after": count}).name for count in range(11)]
    assert paths == [f"step-00000005-{count}" for count in range(1, 12)]
    assert store.latest().state == {"after": 10} and len(os.listdir(tmp_path)) == 2
    assert store.save(6, {}, {}).name == "step-00000006"


def test_a_step_behind_the_newest_is_refused(tmp_path):
    store = store_of(tmp_path, 5)
    before = snapshot(tmp_path)
    with pytest.raises(CheckpointError, match="from 5 on, found 4"):
        store.save(4, *content(4))
    with pytest.raises(CheckpointError, match="from 0 on, found -1"):
        CheckpointStore(tmp_path / "new").save(-1, {}, {})
    with pytest.raises(TypeError):
        store.save(6, {}, {"set": {1, 2}})
    assert snapshot(tmp_path) == before


def test_foreign_names_are_no_checkpoints(tmp_path):
    store = store_of(tmp_path, 3)
    for name in ("step-9", "step-000000009", "step-00000009-0", "step-00000009x", "step-" + "\u0661" * 8):
        (tmp_path / name).mkdir()
    assert same(store.latest(), 3)


def test_write_protocol_order(tmp_path, monkeypatch):
    """A power cut keeps only what fsync has confirmed, so the order of fsync and rename is the guarantee."""
    store, events = store_of(tmp_path, 1, keep=1), []
    fsync, rename = os.fsync, os.rename

    def note_fsync(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        events.append(("fsync", path.name if path != tmp_path else "parent", path.stat().st_size))
        fsync(descriptor)

    def note_rename(source, target):
        events.append(("rename", Path(source).name, Path(target).name))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    path = store.save(2, *content(2))
    temporary, pruned = f".tmp-{os.getpid()}-2", f".tmp-{os.getpid()}-step-00000001"
    assert [(kind, name) for kind, name, _ in events] == [
        ("fsync", "tensors.safetensors"),
        ("fsync", "state.json"),
        ("fsync", "manifest.json"),
        ("fsync", temporary),
        ("rename", temporary),
        ("fsync", "parent"),
        ("rename", "step-00000001"),
    ]
    sizes = {name: size for kind, name, size in events if kind == "fsync"}
    assert all(sizes[name] == (path / name).stat().st_size for name in NAMES), "fsync comes after the last byte"
    assert events[4][2] == "step-00000002" and events[6][2] == pruned and os.listdir(tmp_path) == ["step-00000002"]
    events.clear()
    CheckpointStore(tmp_path / "new" / "deep").save(1, {}, {})
    assert [name for kind, name, _ in events if kind == "fsync"][:2] == ["parent", "new"], "new folders are durable too"


# Killed or interrupted inside a save


@pytest.mark.parametrize("torn", [False, True], ids=["whole", "torn"])
def test_killed_at_every_point_inside_a_save(tmp_path, torn):
    """SIGKILL before each system call of a save; `torn` first halves the file that was about to be fsynced."""
    outcomes, point = [], 0
    while True:
        folder = tmp_path / str(point)
        store_of(folder, 1, keep=1)

        def save(point=point, folder=folder):
            def die(number, descriptor):
                if number == point:
                    path = descriptor is not None and Path(os.readlink(f"/proc/self/fd/{descriptor}"))
                    if torn and path and path.is_file():
                        os.truncate(path, path.stat().st_size // 2)
                    os.kill(os.getpid(), signal.SIGKILL)

            with pytest.MonkeyPatch.context() as patch:
                on_each_call(patch, die)
                CheckpointStore(folder, keep=1).save(2, *content(2))

        code = fork(save)
        store = CheckpointStore(folder, keep=1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = store.latest()
        assert found is not None and same(found, found.step), f"neither survived a kill at point {point}"
        outcomes.append(found.step)
        store.save(3, *content(3))
        assert os.listdir(folder) == ["step-00000003"], f"swept after a kill at point {point}"
        if code == 0:
            break
        assert code == -signal.SIGKILL
        point += 1
    assert point >= 8 and outcomes == sorted(outcomes) and set(outcomes) == {1, 2}


def test_signal_while_saving_lets_the_save_finish_once(tmp_path):
    for number, expected in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        for point in range(10):
            folder = tmp_path / f"{number}-{point}"
            store = store_of(folder, 1)

            def save(number=number, point=point, store=store):
                with pytest.MonkeyPatch.context() as patch, Interruption() as interruption:
                    on_each_call(patch, lambda count, _: count == point and os.kill(os.getpid(), number))
                    store.save(2, *content(2))
                    sys.exit(interruption.exit_code)

            assert fork(save) == expected
            assert same(store.latest(), 2) and sorted(os.listdir(folder)) == ["step-00000001", "step-00000002"]


def test_keyboard_interrupt_inside_a_save_leaves_nothing_behind(tmp_path, monkeypatch):
    store = store_of(tmp_path, 1)
    before = snapshot(tmp_path)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.save(2, *content(2))
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", b"x")
    assert snapshot(tmp_path) == before and not leftovers(tmp_path)


# The disk refuses


def refused_save(store: CheckpointStore, name: str, size: int = 50_000) -> None:
    before = snapshot(store.folder)
    try:
        store.save(2, {"weight": torch.zeros(size)}, {})
    except StorageError as error:
        assert str(error).startswith(f"{store.folder}: cannot save: ") and str(error).endswith(f" {name}"), error
        assert error.exit_code == 74
    else:
        raise AssertionError("the save succeeded")
    assert snapshot(store.folder) == before and not leftovers(store.folder) and same(store.latest(), 1)


CANNOT_MOUNT = 77


def mount_tmpfs(folder: Path, options: str, flags: int = 0) -> None:
    """A small file system of this process alone; ends the process with CANNOT_MOUNT where that is not permitted."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not flags:
        user, group = os.getuid(), os.getgid()
        if libc.unshare(0x10000000 | 0x00020000):  # CLONE_NEWUSER | CLONE_NEWNS
            sys.exit(CANNOT_MOUNT)
        try:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        except OSError:
            sys.exit(CANNOT_MOUNT)
    if libc.mount(b"none", os.fsencode(folder), b"tmpfs", flags, options.encode()):
        sys.exit(CANNOT_MOUNT)


def expect_success(code: int) -> None:
    if code == CANNOT_MOUNT:
        pytest.skip("this system does not let a process mount its own tmpfs")
    assert code == 0


def test_file_size_limit(tmp_path):
    def work():
        store = store_of(tmp_path, 1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        refused_save(store, "EFBIG")
        write_json(tmp_path / "scores.json", {"mean": 0.5})
        with pytest.raises(StorageError, match="EFBIG"):
            write_atomic(tmp_path / "scores.json", bytes(30_000))
        assert json.loads((tmp_path / "scores.json").read_bytes()) == {"mean": 0.5} and not leftovers(tmp_path)

    assert fork(work) == 0


def test_full_disk(tmp_path):
    def work():
        mount_tmpfs(tmp_path, "size=64k")
        store = store_of(tmp_path / "checkpoints", 1)
        refused_save(store, "ENOSPC")
        store.save(3, *content(3))
        assert same(store.latest(), 3)

    expect_success(fork(work))


def test_read_only_file_system(tmp_path):
    def work():
        mount_tmpfs(tmp_path, "size=1m")
        store = store_of(tmp_path / "checkpoints", 1)
        mount_tmpfs(tmp_path, "size=1m", flags=32 | 1)  # MS_REMOUNT | MS_RDONLY
        refused_save(store, "EROFS")
        with pytest.raises(StorageError, match="EROFS"), RunLock(tmp_path / "lock"):
            pass

    expect_success(fork(work))


def test_folder_without_permission(public):
    root = public
    try:
        store = store_of(root / "checkpoints", 1)
        store.folder.chmod(0o555)

        def work():
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            refused_save(store, "EACCES")
            for refused in (
                lambda: RunLock(root / "checkpoints" / "lock").__enter__(),
                lambda: write_json(store.folder / "scores.json", {}),
                lambda: CheckpointStore(store.folder / "deeper").save(1, {}, {}),
            ):
                with pytest.raises(StorageError, match="EACCES"):
                    refused()

        assert fork(work) == 0
    finally:
        (root / "checkpoints").chmod(0o755)


@pytest.mark.parametrize("call", ["open", "fsync", "rename", "mkdir", "unlink", "rmdir"])
def test_input_output_error_at_every_call(tmp_path, call, monkeypatch):
    module = files if call == "open" else os
    original, outcomes = open if call == "open" else getattr(os, call), []
    for point in range(6):
        folder = tmp_path / str(point)
        store, count = store_of(folder, 1, keep=1), iter(range(100))

        def fail(*arguments, count=count, point=point, **options):
            if next(count) == point:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return original(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(module, call, fail, raising=False)
            try:
                store.save(2, *content(2))
                error = None
            except StorageError as failure:
                error = str(failure)
        found = store.latest()
        assert same(found, found.step), f"{call} number {point}"
        outcomes.append((found.step, error is not None and "EIO" in error))
        store.save(3, *content(3))
        assert os.listdir(folder) == ["step-00000003"]
    calls_before_rename = {"open": 3, "fsync": 4, "rename": 1, "mkdir": 1, "unlink": 0, "rmdir": 0}[call]
    assert outcomes[:calls_before_rename] == [(1, True)] * calls_before_rename
    assert all(step == 2 for step, _ in outcomes[calls_before_rename:]) and (2, False) == outcomes[-1]


def test_unreadable_checkpoint_is_not_called_damaged(tmp_path, monkeypatch):
    store = store_of(tmp_path, 1, 2)

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        with pytest.raises(StorageError, match=f"^{tmp_path}: cannot read: Input/output error EIO$"):
            store.latest()
    assert same(store.latest(), 2)
