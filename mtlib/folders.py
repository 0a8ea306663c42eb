"""Model folders: which of their files are read, that these lie inside, and the SHA-256 that stands for them.

A folder can name files of its own choice in two places: an index of weights, and a tokenizer's configuration.
Weights are safetensors of the folder itself or refused; what a tokenizer's configuration says about files is ignored.
Links are followed, because the Hub's cache is made of them: what is hashed is what is read.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from mtlib.data.cached import file_sha256
from mtlib.errors import CheckpointError, StorageError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
"""Files of which a tokenizer has at least one."""

TOKENIZERS = (*VOCABULARIES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
"""Every file that a tokenizer is read from."""

LARGEST_JSON = 2**20
"""Bytes of a configuration or an index; those of the largest known encoders have a tenth of it."""

RECENT = 2 * 10**9
"""Nanoseconds within which two changes of a file may have one time."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an operating system's error in the block into StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{error.filename or path}: cannot be read: {error.strerror or error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError for anything else, StorageError where it cannot be read."""
    with reading(path):
        if not path.is_file():
            raise CheckpointError(f"{path.parent}: expected {path.name}, found no such file")
        data = path.read_bytes()
    try:
        content = json.loads(data[: LARGEST_JSON + 1])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON ({str(error)[:200]})") from error
    if not isinstance(content, dict) or len(data) > LARGEST_JSON:
        raise CheckpointError(
            f"{path}: expected a JSON object of at most {LARGEST_JSON} bytes, found {str(content)[:80]}"
        )
    return content


def weight_files(folder: Path) -> list[Path]:
    """model.safetensors, or the safetensors files of the folder that its index names.

    Raises CheckpointError where there are none, and for an index that names any other file.
    """
    with reading(folder):
        if (folder / WEIGHTS).is_file():
            return [folder / WEIGHTS]
        if not (folder / INDEX).is_file():
            raise CheckpointError(f"{folder}: expected {WEIGHTS} (no other weight format is read), found none")
    named = read_object(folder / INDEX).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise CheckpointError(f"{folder / INDEX}: expected a weight_map, found {str(named)[:80]}")
    files = sorted({str(name) for name in named.values()})
    for name in files:
        if Path(name).name != name or Path(name).suffix != ".safetensors" or not (folder / name).is_file():
            raise CheckpointError(f"{folder / INDEX}: expected safetensors files of this folder, found {name[:120]!r}")
    return [folder / name for name in files]


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a tokenizer. Raises CheckpointError for a folder without a vocabulary."""
    with reading(folder):
        files = sorted({path for pattern in TOKENIZERS for path in folder.glob(pattern) if path.is_file()})
    if not any(path.match(pattern) for path in files for pattern in VOCABULARIES):
        raise CheckpointError(f"{folder}: expected a tokenizer ({', '.join(VOCABULARIES)}), found none")
    return files


def encoder_files(folder: Path) -> list[Path]:
    """Configuration, weights and tokenizer: all that an encoder is read from.

    Raises CheckpointError for a missing part.
    """
    read_object(folder / CONFIG)
    index = [] if (folder / WEIGHTS).is_file() else [folder / INDEX]
    return [folder / CONFIG, *weight_files(folder), *index, *tokenizer_files(folder)]


def digests(paths: Iterable[Path]) -> dict[str, str]:
    """SHA-256 (hex) of files by name, in the order of their names. Raises StorageError where one cannot be read."""
    by_name = {}
    for path in sorted(paths):
        with reading(path):
            by_name[path.name] = sha256(path)
    return by_name


def fingerprint(paths: Iterable[Path]) -> str:
    """SHA-256 (hex) over the names and contents of files."""
    return hashlib.sha256(json.dumps(digests(paths)).encode()).hexdigest()


def expect(folder: Path, files: Mapping[str, str]) -> None:
    """Raise CheckpointError unless the files of `folder` have these SHA-256, by name."""
    for name, expected in files.items():
        with reading(folder / name):
            there = (folder / name).is_file()
        if not there:
            raise CheckpointError(f"{folder}: expected {name}, found no such file")
        if (digest := digests([folder / name])[name]) != expected:
            raise CheckpointError(
                f"{folder / name}: changed since it was written: expected SHA-256 {expected}, found {digest}"
            )


def sha256(path: Path) -> str:
    """SHA-256 of a file, computed again only when the system says it changed: a study asks for every run it shows.

    What says so is the time of the last change, which no copying tool sets back; one that has just passed could repeat.
    """
    about = path.stat()
    if abs(time.time_ns() - about.st_ctime_ns) < RECENT:
        return file_sha256(path)
    return _sha256(path.absolute(), about.st_dev, about.st_ino, about.st_size, about.st_ctime_ns)


@cache
def _sha256(path: Path, *_: int) -> str:
    return file_sha256(path)
