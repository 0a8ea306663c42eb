"""The atomic checkpoint store: what is loaded is exactly what was saved, or an error. Safetensors and JSON, no pickle.

Write protocol: under the run's lock, sweep what dead processes left; temporary folder; files, each with fsync; manifest
with size and SHA-256 of every file, last, fsync; rename; fsync of the parent; only then prune the oldest. A process
that dies at any point leaves the previous checkpoint or the new one, never neither. POSIX systems only.
"""

import hashlib
import json
import os
import re
import shutil
import stat
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch

from mtlib.errors import CheckpointError, ConfigurationError
from mtlib.training.files import (
    RunLock,
    encode_json,
    inside,
    make_folder,
    safe_name,
    storage,
    sweep,
    sync_folder,
    write_atomic,
    write_json,
    write_synced,
)

__all__ = ["Checkpoint", "CheckpointStore", "RunLock", "inside", "safe_name", "sweep", "write_atomic", "write_json"]

FORMAT = 1
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
LARGEST_HEADER = 16 * 2**20  # bytes of a safetensors header; a thousand tensors need about 0.1 MB
LARGEST_MANIFEST = 64 * 2**10

_STEP = re.compile(r"step-([0-9]{8,})(?:-([0-9]+))?")


class FormatError(CheckpointError):
    """A sound checkpoint of a format that this version does not read: refused, and left where it is."""


@dataclass(frozen=True)
class Checkpoint:
    """What was saved after `step` optimizer steps: `tensors` (on the CPU, memory of their own) and `state`."""

    step: int
    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]


class _Stored(NamedTuple):
    step: int
    revision: int
    path: Path


class CheckpointStore:
    """The newest `keep` checkpoints of one run, in `folder`. One writer at a time: hold the run's `RunLock`.

    `step-00000123/` holds tensors.safetensors, state.json and manifest.json; a second save of the same step becomes
    `step-00000123-1/`. Files that a manifest does not name are never opened.
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 2):
        if keep < 1:
            raise ConfigurationError(f"checkpoints to keep: expected at least 1, found {keep}")
        self.folder, self.keep = Path(folder), keep

    @property
    def empty(self) -> bool:
        """Whether no checkpoint is there, sound or damaged; nothing is renamed."""
        with storage("read", self.folder):
            return not self._stored()

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> Path:
        """Store a checkpoint, then remove all but the newest `keep`; returns its folder.

        Raises StorageError when the disk refuses (what was stored before is untouched), CheckpointError when `step`
        lies behind a stored one.
        """
        copies = {
            name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        files = {TENSORS: safetensors.torch.save(copies), STATE: encode_json(dict(state))}
        files[MANIFEST] = _encode_manifest(step, files)
        with storage("save", self.folder):
            make_folder(self.folder)
            sweep(self.folder)
            newest = max(self._stored(), default=_Stored(0, -1, self.folder))
            if step < newest.step:
                raise CheckpointError(f"{newest.path}: expected a step from {newest.step} on, found {step}")
            revision = newest.revision + 1 if step == newest.step else 0
            target = self.folder / _folder_name(step, revision)
            temporary = self.folder / f".tmp-{os.getpid()}-{step}"
            try:
                os.mkdir(temporary)
                for name, data in files.items():
                    write_synced(temporary / name, data)
                sync_folder(temporary)
                os.rename(temporary, target)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            sync_folder(self.folder)
            self._prune()
        return target

    def latest(self, before: int | None = None) -> Checkpoint | None:
        """The newest sound checkpoint; None if none was ever saved.

        A damaged one is renamed to `quarantine-...` with a warning and the one before it is used. Raises
        CheckpointError when only damaged ones exist or the newest has another format, StorageError when the disk
        refuses.
        before: the newest of fewer steps, or None where no such one is sound; nothing is renamed, nor is a lock needed.
        """
        with storage("read", self.folder):
            for stored in sorted(self._stored(), reverse=True):
                if before is not None and stored.step >= before:
                    continue
                try:
                    return _load(self.folder, stored)
                except FormatError:
                    raise
                except CheckpointError as error:
                    if before is None:
                        place = self._quarantine(stored.path)
                        warnings.warn(f"damaged checkpoint set aside as {place.name}: {error}", stacklevel=2)
            quarantined = sorted(self.folder.glob("quarantine-*"))
        if quarantined and before is None:
            raise CheckpointError(
                f"{self.folder}: no sound checkpoint is left, only {', '.join(path.name for path in quarantined)}; "
                "remove these to start from the beginning"
            )
        return None

    def _stored(self) -> list[_Stored]:
        if not self.folder.is_dir():
            return []
        stored = []
        for path in self.folder.iterdir():
            if match := _STEP.fullmatch(path.name):
                step, revision = int(match[1]), int(match[2] or 0)
                if path.name == _folder_name(step, revision):
                    stored.append(_Stored(step, revision, path))
        return stored

    def _prune(self) -> None:
        for _, _, path in sorted(self._stored())[: -self.keep]:
            doomed = self.folder / f".tmp-{os.getpid()}-{path.name}"
            os.rename(path, doomed)
            shutil.rmtree(doomed) if not doomed.is_symlink() else doomed.unlink()

    def _quarantine(self, path: Path) -> Path:
        place, count = self.folder / f"quarantine-{path.name}", 1
        while os.path.lexists(place):
            place, count = self.folder / f"quarantine-{path.name}-{count}", count + 1
        os.rename(path, place)
        sync_folder(self.folder)
        return place


def _encode_manifest(step: int, files: Mapping[str, bytes]) -> bytes:
    described = {name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in files.items()}
    return _seal({"format": FORMAT, "step": step, "files": described})


def _seal(body: Mapping[str, Any]) -> bytes:
    """The body with its own SHA-256 last: an envelope that all formats share, so that damage never looks like one."""
    return encode_json({**body, "sha256": hashlib.sha256(encode_json(body)).hexdigest()})


def _decode_manifest(data: bytes, path: Path, step: int) -> dict[str, Any]:
    """The `files` entry of a manifest whose every byte is as `_encode_manifest` wrote it. Raises CheckpointError."""
    try:
        body = json.loads(data)
        sealed = isinstance(body, dict) and body.pop("sha256", None) is not None and _seal(body) == data
    except (ValueError, RecursionError):
        sealed = False
    if not sealed:
        raise CheckpointError(f"{path}: the manifest is not as it was written (its own SHA-256 differs)")
    if body.get("format") != FORMAT:
        raise FormatError(f"{path}: expected checkpoint format {FORMAT}, found {body.get('format')!r}")
    if body.get("step") != step:
        raise CheckpointError(f"{path}: expected step {step}, found {body.get('step')!r}")
    files = body.get("files")
    if not isinstance(files, dict) or set(files) != {TENSORS, STATE}:
        raise CheckpointError(f"{path}: expected exactly the files {STATE} and {TENSORS}, found {str(files)[:200]}")
    return files


def _load(folder: Path, stored: _Stored) -> Checkpoint:
    """Read and verify one checkpoint; what is hashed is what is used. Raises CheckpointError, FormatError, OSError."""
    inside(folder, stored.path)
    manifest = stored.path / MANIFEST
    if (size := _size(manifest)) > LARGEST_MANIFEST:
        raise CheckpointError(f"{manifest}: expected at most {LARGEST_MANIFEST} bytes, found {size}")
    files = _decode_manifest(manifest.read_bytes(), manifest, stored.step)
    _check_header(stored.path / TENSORS)
    data = {name: _read(stored.path / name, described) for name, described in files.items()}
    try:
        tensors, state = safetensors.torch.load(data[TENSORS]), json.loads(data[STATE])
    except (safetensors.SafetensorError, ValueError, KeyError, AssertionError, RuntimeError, RecursionError) as error:
        raise CheckpointError(f"{stored.path}: {error}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{stored.path / STATE}: expected a JSON object, found {type(state).__name__}")
    return Checkpoint(stored.step, tensors, state)


def _size(path: Path) -> int:
    """Size in bytes of a regular file. Raises CheckpointError for anything else, links included."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path}: missing") from None
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path}: expected a regular file, found {stat.filemode(status.st_mode)}")
    return status.st_size


def _read(path: Path, described: Any) -> bytes:
    size = _size(path)
    if not isinstance(described, dict) or described.get("size") != size:
        raise CheckpointError(f"{path}: expected {str(described)[:200]}, found {size} bytes")
    data = path.read_bytes()
    if (digest := hashlib.sha256(data).hexdigest()) != described.get("sha256"):
        raise CheckpointError(f"{path}: expected SHA-256 {described.get('sha256')}, found {digest}")
    return data


def _check_header(path: Path) -> None:
    """Bound the safetensors header before anything of the file is read into memory. Raises CheckpointError."""
    size = _size(path)
    with open(path, "rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > min(LARGEST_HEADER, size - 8):
        raise CheckpointError(f"{path}: expected a header of at most {LARGEST_HEADER} bytes, found {header} of {size}")


def _folder_name(step: int, revision: int) -> str:
    return f"step-{step:08d}" + (f"-{revision}" if revision else "")
