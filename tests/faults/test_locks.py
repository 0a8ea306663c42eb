"""Two writers of one run: the second is refused at once and told who holds the lock."""

import errno
import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest
from store_helpers import fork

from mtlib.errors import LockedError, StorageError
from mtlib.training.files import RunLock


def test_second_writer_is_refused_and_told_who_holds_the_lock(tmp_path):
    path, holder = tmp_path / "run.lock", f"process {os.getpid()} on {socket.gethostname()}"

    def second():
        try:
            RunLock(path).__enter__()
        except LockedError as error:
            (tmp_path / "message").write_text(str(error))
            raise

    with RunLock(path):
        assert fork(second) == 75
        assert (tmp_path / "message").read_text() == f"{path}: held by {holder}"
        with pytest.raises(LockedError, match=holder):
            RunLock(path).__enter__()
        Path(f"{path}.holder").unlink()
        with pytest.raises(LockedError, match=": held by a process that has not yet given its name$"):
            RunLock(path).__enter__()
    with RunLock(path):
        assert Path(f"{path}.holder").exists()
    assert not Path(f"{path}.holder").exists()


def test_lock_is_freed_by_sigkill(tmp_path):
    path = tmp_path / "run.lock"
    reading, writing = os.pipe()
    if (process := os.fork()) == 0:
        with RunLock(path):
            os.write(writing, b"held")
            signal.pause()
    try:
        assert os.read(reading, 4) == b"held"
        with pytest.raises(LockedError, match=f"process {process} on "):
            RunLock(path).__enter__()
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(reading)
        os.close(writing)
    with RunLock(path):
        assert json.loads(Path(f"{path}.holder").read_bytes())["pid"] == os.getpid()


def test_lock_never_waits(tmp_path, monkeypatch):
    def refuse_to_wait(_):
        raise AssertionError("the lock waits")

    with RunLock(tmp_path / "run.lock"), monkeypatch.context() as patch:
        patch.setattr(time, "sleep", refuse_to_wait)
        with pytest.raises(LockedError):
            RunLock(tmp_path / "run.lock").__enter__()


def test_lock_is_released_though_the_name_of_its_holder_is_gone(tmp_path):
    with RunLock(tmp_path / "run.lock"):
        (tmp_path / "run.lock.holder").unlink()
    with RunLock(tmp_path / "run.lock"):
        pass


def test_lock_that_cannot_be_made(tmp_path):
    path = tmp_path / "run.lock"
    path.mkdir()
    with pytest.raises(StorageError, match=f"^{path}: cannot lock: Is a directory EISDIR$"):
        RunLock(path).__enter__()


def test_lock_is_released_when_the_holder_cannot_be_named(tmp_path, monkeypatch):
    path = tmp_path / "run.lock"

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(StorageError, match="ENOSPC"):
            RunLock(path).__enter__()
    with RunLock(path):
        pass
