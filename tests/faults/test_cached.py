"""Cached downloads with a changed byte or a missing end: removed and fetched again once, never used."""

import hashlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from mtlib import encoders
from mtlib.data import cached, hub
from mtlib.errors import DataError, StorageError
from mtlib.tasks import STS

CONTENTS = {"model.safetensors": b"weights" * 100, "config.json": b"{}", "vocab.txt": b"a\nb\n"}
DAMAGES = {
    "flipped": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "cut off": lambda data: data[:-1],
    "emptied": lambda data: b"",
}


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def download(folder: Path) -> None:
    """Lay out `CONTENTS` as the Hub's cache does: links to blobs that are called after their content."""
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    (folder / "snapshots" / "abc").mkdir(parents=True, exist_ok=True)
    for name, data in CONTENTS.items():
        digest = hashlib.sha256(data).hexdigest() if name.endswith("safetensors") else git_sha1(data)
        (folder / "blobs" / digest).write_bytes(data)
        link = folder / "snapshots" / "abc" / name
        if not link.is_symlink():
            link.symlink_to(Path("../../blobs") / digest)


def test_git_names_blobs_so():
    assert git_sha1(b"what is up, doc?") == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"  # Pro Git, chapter 10.2


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", CONTENTS)
def test_a_damaged_file_of_a_snapshot_is_removed(tmp_path, name, damage):
    download(tmp_path)
    snapshot = tmp_path / "snapshots" / "abc"
    assert cached.drop_damaged(snapshot) == []
    blob = (snapshot / name).resolve()
    blob.write_bytes(DAMAGES[damage](CONTENTS[name]))
    assert cached.drop_damaged(snapshot) == [name]
    assert not blob.exists() and not os.path.lexists(snapshot / name)
    assert {path.name for path in snapshot.iterdir()} == CONTENTS.keys() - {name}
    assert cached.drop_damaged(snapshot) == []


def test_every_flipped_byte_of_the_weights_is_found(tmp_path):
    for place in range(0, 700, 7):
        download(tmp_path)
        blob = (tmp_path / "snapshots" / "abc" / "model.safetensors").resolve()
        data = bytearray(CONTENTS["model.safetensors"])
        data[place] ^= 1 << place % 8
        blob.write_bytes(data)
        assert cached.drop_damaged(tmp_path / "snapshots" / "abc") == ["model.safetensors"]


def test_a_snapshot_without_links_or_none_at_all_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_bytes(b"anything")
    assert cached.drop_damaged(tmp_path) == [] and cached.drop_damaged(tmp_path / "none") == []
    assert (tmp_path / "config.json").exists()


def test_the_snapshot_is_where_the_hub_keeps_it():
    from huggingface_hub import constants

    expected = Path(constants.HF_HUB_CACHE) / "models--google-bert--bert-base-uncased" / "snapshots" / "abc"
    assert cached.snapshot("google-bert/bert-base-uncased", "abc") == expected


class Hub:
    """Stands for the Hub: `snapshot_download` fetches what is missing, as it really is or as `spoil` makes it."""

    def __init__(self, folder: Path, patch, online=True, spoil=None):
        self.folder, self.online, self.spoil, self.loads = folder, online, spoil, 0
        patch.setattr(encoders, "snapshot", lambda name, revision: folder / "snapshots" / "abc")
        patch.setattr(huggingface_hub, "snapshot_download", self.download)
        patch.setattr(encoders, "load_folder", lambda folder: ("encoder", "tokenizer"))

    def download(self, name, revision, allow_patterns):
        self.loads += 1
        if any(not (self.folder / "snapshots" / "abc" / file).exists() for file in CONTENTS):
            if not self.online:
                raise ConnectionError("offline")
            download(self.folder)
            if self.spoil:
                spoil_one(self.folder)
        return str(self.folder / "snapshots" / "abc")


def spoil_one(folder: Path) -> None:
    (folder / "snapshots" / "abc" / "model.safetensors").resolve().write_bytes(b"spoilt")


def test_a_damaged_encoder_is_fetched_again_once(tmp_path, monkeypatch):
    download(tmp_path)
    encoder = encoders.find_encoder("google-bert/bert-base-uncased")
    fake = Hub(tmp_path, monkeypatch)
    assert encoder.load() == ("encoder", "tokenizer") and fake.loads == 1
    spoil_one(tmp_path)
    assert encoder.load() == ("encoder", "tokenizer") and fake.loads == 2
    assert cached.drop_damaged(tmp_path / "snapshots" / "abc") == []


def test_a_damaged_encoder_that_cannot_be_had_again_is_a_storage_error(tmp_path, monkeypatch):
    encoder = encoders.find_encoder("google-bert/bert-base-uncased")
    download(tmp_path)
    spoil_one(tmp_path)
    Hub(tmp_path, monkeypatch, online=False)
    with pytest.raises(StorageError, match="offline; removed from the cache as damaged: model.safetensors$") as error:
        encoder.load()
    assert error.value.exit_code == 74
    with pytest.raises(StorageError, match="offline$"):
        encoder.load()
    download(tmp_path)
    spoil_one(tmp_path)
    Hub(tmp_path, monkeypatch, spoil=True)
    with pytest.raises(StorageError, match="fetched twice and damaged both times: model.safetensors$"):
        encoder.load()


# Data sets


def test_a_file_is_sealed_when_it_is_first_seen(tmp_path):
    path = tmp_path / "train.arrow"
    path.write_bytes(b"rows")
    assert cached.changed([path, tmp_path / "missing.arrow"]) is None
    assert sorted(os.listdir(tmp_path)) == ["train.arrow", "train.arrow.sha256"]
    assert cached.changed([str(path)]) is None
    path.write_bytes(b"rowS")
    digests = [hashlib.sha256(data).hexdigest() for data in (b"rows", b"rowS")]
    for _ in range(2):
        assert cached.changed([path]) == f"{path}: expected SHA-256 {digests[0]}, found {digests[1]}"


def test_a_cache_that_cannot_be_written_to_is_read(tmp_path, monkeypatch):
    path = tmp_path / "train.arrow"
    path.write_bytes(b"rows")
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(OSError()))
    assert cached.changed([path]) is None and os.listdir(tmp_path) == ["train.arrow"]


class Split(dict):
    def __len__(self):
        return 2


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """A stand-in for `datasets` that keeps one Arrow file and writes it anew when told to fetch it."""
    source = hub.Source("glue", "stsb", "f" * 40, ("sentence1", "sentence2"), dict.fromkeys(hub.SPLITS, 2))
    arrow = tmp_path / source.revision / "train.arrow"
    fake = SimpleNamespace(arrow=arrow, online=True, calls=[])

    def load_dataset(*_, revision, download_mode=None):
        fake.calls.append(download_mode)
        if download_mode or not arrow.is_file():
            if not fake.online:
                raise ConnectionError("no route")
            arrow.parent.mkdir(exist_ok=True)
            for old in arrow.parent.iterdir():
                old.unlink()
            arrow.write_bytes(b"good rows")
        split = Split(sentence1=["a", "b"], sentence2=["c", "d"], label=[1.0, 2.0])
        split.cache_files = [{"filename": str(arrow)}]
        return dict.fromkeys(hub.SPLITS, split)

    fake.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.setitem(hub.SOURCES, "sts", source)
    monkeypatch.setattr(hub.time, "sleep", lambda _: None)
    return fake


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_changed_byte_of_cached_data_is_fetched_again_once(datasets, damage):
    hub.load(STS)
    datasets.arrow.write_bytes(DAMAGES[damage](b"good rows"))
    assert len(hub.load(STS)[0]["train"]) == 2
    assert datasets.arrow.read_bytes() == b"good rows"
    assert datasets.calls == [None, None, "force_redownload"]


def test_a_changed_byte_that_cannot_be_fetched_again_is_a_data_error_every_time(datasets):
    hub.load(STS)
    datasets.online = False
    datasets.arrow.write_bytes(b"good rowS")
    for _ in range(2):
        with pytest.raises(DataError, match="train.arrow: expected SHA-256 .*, found ") as error:
            hub.load(STS)
        assert error.value.exit_code == 65
