"""Files that are whole or absent, names that stay inside their folder, and the lock of a run. POSIX systems only."""

import errno
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from mtlib.errors import CheckpointError, ConfigurationError, LockedError, StorageError

_TEMPORARY = re.compile(r"\.tmp-([0-9]{1,9})-.*", re.DOTALL)
_OS_ERROR = re.compile(r"\(os error ([0-9]{1,5})\)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)

LONGEST_NAME = 100
"""Characters of a run's name."""

LONGEST_ID = LONGEST_NAME + 9
"""Characters of a run's id: its name, a hyphen and eight digits."""

RUN_FILES = ("config.json", "status.json")
"""What every run's folder has."""

CLOCK = 2.0
"""Seconds by which the start of one process may differ between two looks: the system counts it from its own start."""

BOOT = Path("/proc/sys/kernel/random/boot_id")
"""Linux: what tells one start of the system from another."""


def encode_json(value: Any) -> bytes:
    """JSON text of `value`, the same bytes for the same value: ASCII, indented, keys in the order given.

    Floats are written so that they read back to the same bits; NaN and the infinities are written as `NaN`, `Infinity`
    and `-Infinity`, which Python's json reads back (strict JSON cannot express them). Mappings need string keys.
    Raises TypeError for what JSON cannot hold.
    """
    return (json.dumps(value, indent=2) + "\n").encode("ascii")


def write_atomic(path: str | os.PathLike, data: bytes) -> None:
    """Write `data` to `path` so that any reader, and any crash, sees the old content or the new.

    Raises StorageError; the old content then stands.
    """
    path = Path(path)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    with storage("write", path):
        try:
            write_synced(temporary, data)
            os.rename(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """`write_atomic` of `encode_json(value)`."""
    write_atomic(path, encode_json(value))


def lives(pid: int) -> bool:
    """Whether a process of that number runs on this machine; none has a number that no system gives."""
    return 0 < pid < 2**31 and psutil.pid_exists(pid)


def this_process() -> dict[str, Any]:
    """What a status says of the process that wrote it: number, start, and machine."""
    pid = os.getpid()
    return {"pid": pid, "started": _ticks(pid) or _started(pid), "host": platform.node()}


def is_gone(about: Mapping[str, Any]) -> bool:
    """Whether the process that wrote a status (`this_process`) is known to have ended; of another machine's it is not.

    One that was given its number later is told apart by its start: on Linux as the kernel counts it, whatever the clock
    is set to; elsewhere, and in statuses of earlier versions, in seconds since 1970. Where the status does not say it,
    the number alone counts.
    """
    pid, said = about.get("pid"), about.get("started")
    if about.get("host") != platform.node() or not isinstance(pid, int):
        return False
    started = _started(pid)
    if started is None or not isinstance(said, int | float | str):
        return started is None
    if isinstance(said, str):
        return said != _ticks(pid)
    return not started - CLOCK <= said <= started + CLOCK


def _started(pid: int) -> float | None:
    """When process `pid` started, in seconds since 1970, or None when there is none."""
    try:
        return psutil.Process(pid).create_time() if lives(pid) else None
    except psutil.NoSuchProcess:
        return None


def _ticks(pid: int) -> str | None:
    """When process `pid` started, as Linux counts it: its start of the system, and ticks since; else None."""
    try:
        return f"{BOOT.read_text().strip()} {Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    except (OSError, ValueError, IndexError):
        return None


def sweep(folder: str | os.PathLike) -> None:
    """Remove the temporaries in `folder` of this process and of processes that no longer live on this machine.

    Only the holder of the run's lock may call it. Raises StorageError.
    """
    folder = Path(folder)
    with storage("sweep", folder):
        for path in folder.iterdir():
            match = _TEMPORARY.fullmatch(path.name)
            if match and (int(match[1]) == os.getpid() or not lives(int(match[1]))):
                remove_all([path])


def remove_all(paths: Iterable[Path]) -> None:
    """Remove files, folders with all that is in them, and links, which are not followed. Raises OSError."""
    for path in paths:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def safe_name(name: str, longest: int = LONGEST_NAME) -> str:
    """`name`, if it is a valid folder name on every system and cannot lead out of its parent.

    That is 1 to `longest` of the characters A-Z a-z 0-9 . _ - beginning with a letter or a digit, no full stop last,
    and no name of a Windows device. Raises ConfigurationError.
    """
    fits = isinstance(name, str) and len(name) <= longest and _NAME.fullmatch(name)
    if not fits or name.endswith(".") or _DEVICES.fullmatch(name):
        raise ConfigurationError(
            f"run name {str(name)[:120]!r}: expected 1 to {longest} letters, digits, '.', '_' or '-', beginning with a "
            "letter or digit, not ending with '.', and no device name such as CON"
        )
    return name


def inside(root: str | os.PathLike, path: str | os.PathLike) -> Path:
    """The real place of `path`, symbolic links followed. Raises CheckpointError when it is not within `root`."""
    real_root, real = (Path(os.path.realpath(place)) for place in (root, path))
    if not real.is_relative_to(real_root):
        raise CheckpointError(f"{path}: expected a place inside {real_root}, found a link to {real}")
    return real


def outside_runs(folder: str | os.PathLike) -> Path:
    """`folder`, if no run, store of runs or stored model is there or above: what they hold is theirs alone.

    Raises ConfigurationError, StorageError for a folder called `runs` that cannot be read.
    """
    real = Path(os.path.realpath(folder))
    for place in (real, *real.parents):
        if os.path.isfile(place / "multitask.json") or _is_run(place) or _is_store(place):
            raise ConfigurationError(f"{folder}: expected a folder outside of runs and stored models, found {place}")
    return Path(folder)


def _is_run(place: Path) -> bool:
    return all(os.path.isfile(place / name) for name in RUN_FILES)


def _is_store(place: Path) -> bool:
    with storage("read", place):
        return place.name == "runs" and place.is_dir() and any(map(_is_run, place.iterdir()))


@contextmanager
def staged(folder: Path, is_own: Callable[[Path], bool], replaced: Sequence[str] = ()) -> Iterator[Path]:
    """A new folder inside `folder` (made if it is missing) whose files the end of the block moves into `folder`, one
    after the other, each over what had its name; replaced: names that go where the block writes none.

    is_own: whether what `folder` holds may be replaced; else a name that is there is a ConfigurationError.
    A block that raises leaves `folder` as it was; so does a process killed in it, but for a temporary folder that the
    next call clears away. Raises StorageError where something cannot be written.
    """
    place = folder / f".tmp-{os.getpid()}-staged"
    is_new = not folder.is_dir()
    with storage("write", folder):
        make_folder(folder)
        sweep(folder)
        place.mkdir()
        try:
            yield place
            sync_tree(place)
            there = sorted({*os.listdir(place)} & {*os.listdir(folder)})
            if there and not is_own(folder):
                expected = "expected a new folder, or that of an earlier export"
                raise ConfigurationError(f"{folder}: {expected}, found a {there[0]} of something else")
            for name in {*replaced} - {*os.listdir(place)}:
                (folder / name).unlink(missing_ok=True)
            for name in sorted(os.listdir(place)):  # safetensors' files are their owner's alone
                (place / name).chmod(place.stat().st_mode & 0o666)
                os.replace(place / name, folder / name)
        finally:
            shutil.rmtree(place, ignore_errors=True)
            if is_new:
                with suppress(OSError):  # not where something was moved
                    folder.rmdir()
        sync_folder(folder)


class RunLock:
    """Exclusive hold of a run, as a context manager; the kernel frees it when its process dies, even by SIGKILL.

    Beside the lock file `path` stands `<path>.holder`, which names the process. Entering raises LockedError at once
    if another process or object holds it, StorageError if the folder cannot be written.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._holder = self.path.with_name(self.path.name + ".holder")
        self._lock = FileLock(self.path)

    def __enter__(self) -> "RunLock":
        with storage("lock", self.path):
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise LockedError(f"{self.path}: held by {self._describe_holder()}") from None
        try:
            write_json(self._holder, this_process())
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._holder.unlink()
        self._lock.release()

    def _describe_holder(self) -> str:
        try:
            holder = json.loads(self._holder.read_bytes())
            return f"process {holder['pid']} on {holder['host']}"
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return "a process that has not yet given its name"


@contextmanager
def storage(action: str, path: Path) -> Iterator[None]:
    """Turn an operating system's error in the block (disk full, read-only, input/output) into StorageError, code 74.

    Libraries written in Rust raise errors of their own for it, whose text ends in "(os error 28)".
    """
    try:
        yield
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "")
        raise StorageError(f"{path}: cannot {action}: {error.strerror or error} {name}".rstrip()) from error
    except Exception as error:
        if not (match := _OS_ERROR.search(str(error))):
            raise
        number = int(match[1])
        name = errno.errorcode.get(number, "")
        raise StorageError(f"{path}: cannot {action}: {os.strerror(number)} {name}".rstrip()) from error


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and wait until the disk has it. Raises OSError."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in the folder `path`. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Wait until the disk has everything below `folder`. Raises OSError."""
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        else:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def make_folder(path: Path) -> None:
    """Create `path` and its missing parents, each made durable in the folder that holds it. Raises OSError."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)
