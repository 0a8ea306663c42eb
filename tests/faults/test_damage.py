"""The atomic store against damaged and forged checkpoints: refused, set aside, the one before used."""

import hashlib
import json
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from store_helpers import JSON, NAMES, content, falls_back, quiet_latest, reseal, same, snapshot, store_of

from mtlib.errors import CheckpointError
from mtlib.training import checkpoints, files
from mtlib.training.checkpoints import CheckpointStore

# Damage


def test_order_is_by_step_never_by_time(tmp_path):
    store = store_of(tmp_path, 9, 10, 11, keep=3)
    for step, seconds in ((9, 2e9), (10, 1e9), (11, 0)):
        os.utime(tmp_path / f"step-{step:08d}", (seconds, seconds))
    assert same(store.latest(), 11)
    store.save(12, *content(12))
    assert sorted(os.listdir(tmp_path)) == ["step-00000010", "step-00000011", "step-00000012"]


def damage_everywhere(folder: Path, damages) -> int:
    """Apply each of `damages(data)` to each file of the newest checkpoint; each must lead to the previous one."""
    store = store_of(folder, 1, 2)
    newest, count = folder / "step-00000002", 0
    assert sorted(os.listdir(newest)) == NAMES
    for path in sorted(newest.iterdir()):
        data = path.read_bytes()
        for damaged in damages(data):
            with open(path, "wb") as file:
                file.write(damaged)
            found = quiet_latest(store)
            assert found is not None and found.step == 1, f"{path.name} as {damaged!r} was accepted"
            os.rename(folder / "quarantine-step-00000002", newest)
            count += 1
        path.write_bytes(data)
    assert same(store.latest(), 2) and sorted(os.listdir(folder)) == ["step-00000001", "step-00000002"]
    return count


def test_every_truncation_is_detected(tmp_path):
    assert damage_everywhere(tmp_path, lambda data: (data[:length] for length in range(len(data)))) > 500


def flip(data: bytes, place: int, bit: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def test_every_flipped_byte_leads_to_the_previous_checkpoint(tmp_path):
    assert damage_everywhere(tmp_path, lambda data: (flip(data, p, p % 8) for p in range(len(data)))) > 500


def test_every_flipped_bit_is_detected(tmp_path):
    store = store_of(tmp_path, 2)
    (stored,) = store._stored()
    for path in stored.path.iterdir():
        data = path.read_bytes()
        for place in range(len(data)):
            for bit in range(8):
                with open(path, "wb") as file:
                    file.write(flip(data, place, bit))
                with pytest.raises(CheckpointError):
                    checkpoints._load(tmp_path, stored)
        path.write_bytes(data)
    assert same(store.latest(), 2)


def test_every_other_value_of_every_manifest_byte_is_detected():
    data = checkpoints._encode_manifest(2, {"tensors.safetensors": b"a", "state.json": b"b"})
    assert checkpoints._decode_manifest(data, Path("m"), 2).keys() == {"tensors.safetensors", "state.json"}
    for place in range(len(data)):
        for value in set(range(256)) - {data[place]}:
            with pytest.raises(CheckpointError, match="not as it was written"):
                checkpoints._decode_manifest(data[:place] + bytes([value]) + data[place + 1 :], Path("m"), 2)


def test_quarantine_keeps_every_damaged_checkpoint(tmp_path):
    store = store_of(tmp_path, 1)
    for _ in range(3):
        store.save(2, *content(2))
        (tmp_path / "step-00000002" / "state.json").write_bytes(b"{}\n")
        with pytest.warns(UserWarning, match="step-00000002/state.json: expected .*, found 3 bytes"):
            assert same(store.latest(), 1)
    kept = {"quarantine-step-00000002", "quarantine-step-00000002-1", "quarantine-step-00000002-2"}
    assert set(os.listdir(tmp_path)) == kept | {"step-00000001"}
    (tmp_path / "step-00000001" / "manifest.json").unlink()
    for _ in range(2):
        with pytest.raises(CheckpointError) as error:
            quiet_latest(store)
        assert str(error.value) == (
            f"{tmp_path}: no sound checkpoint is left, only quarantine-step-00000001, quarantine-step-00000002, "
            "quarantine-step-00000002-1, quarantine-step-00000002-2; remove these to start from the beginning"
        )
    store.save(1, *content(1))
    assert same(store.latest(), 1), "a new sound checkpoint ends the refusal"


def test_a_look_for_an_earlier_checkpoint_passes_over_damage_and_renames_nothing(tmp_path):
    store = store_of(tmp_path, 1, 2, 3, keep=3)
    (tmp_path / "step-00000002" / "state.json").write_bytes(b"{}\n")
    before = snapshot(tmp_path)
    assert same(store.latest(before=3), 1) and same(store.latest(before=9), 3)
    (tmp_path / "step-00000001" / "manifest.json").unlink()
    assert store.latest(before=3) is None
    assert snapshot(tmp_path) == {name: data for name, data in before.items() if name != "step-00000001/manifest.json"}
    (tmp_path / "step-00000001").rename(tmp_path / "quarantine-step-00000001")
    assert store.latest(before=3) is None and same(store.latest(), 3)


@pytest.mark.parametrize("sealed", [False, True])
def test_trailing_bytes(tmp_path, sealed):
    store = store_of(tmp_path, 1, 2)
    path = tmp_path / "step-00000002" / "tensors.safetensors"
    data = path.read_bytes() + b"\0" * 8
    path.write_bytes(data)
    if sealed:
        reseal(path.parent, tensors=data)
    falls_back(store, 1)


@pytest.mark.parametrize("header", [17 * 2**20, 140 * 10**6, 2**63, 2**64 - 1])
def test_giant_header_is_refused_in_bounded_memory(tmp_path, header):
    """The forged manifest agrees with the sparse file of 150 MB; nothing but its first 8 bytes may be read."""
    store = store_of(tmp_path, 1, 2)
    newest = tmp_path / "step-00000002"
    with open(newest / "tensors.safetensors", "wb") as file:
        file.write(header.to_bytes(8, "little") + b"{")
        file.truncate(150 * 10**6)
    body = json.loads((newest / "manifest.json").read_bytes())
    del body["sha256"]
    body["files"]["tensors.safetensors"] = {"sha256": "0" * 64, "size": 150 * 10**6}
    (newest / "manifest.json").write_bytes(checkpoints._seal(body))
    tracemalloc.start()
    try:
        falls_back(store, 1, match=f"header of at most {16 * 2**20} bytes, found {header}")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_giant_manifest_and_state_are_refused_in_bounded_memory(tmp_path):
    store = store_of(tmp_path, 1, 2, 3, keep=3)
    os.truncate(tmp_path / "step-00000003" / "manifest.json", 150 * 10**6)
    os.truncate(tmp_path / "step-00000002" / "state.json", 150 * 10**6)
    tracemalloc.start()
    try:
        with pytest.warns(UserWarning) as warned:
            assert same(store.latest(), 1)
        manifest, state = (str(warning.message) for warning in warned)
        assert manifest.endswith("step-00000003/manifest.json: expected at most 65536 bytes, found 150000000")
        assert "step-00000002/state.json: expected {'sha256': '" in state and state.endswith("found 150000000 bytes")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("data", [b"", b"1234567", b"\x02" + b"\0" * 7 + b"{}", b"\x08" + b"\0" * 7 + b'{"a":{}}'])
def test_forged_tensors_that_are_no_safetensors(tmp_path, data):
    store = store_of(tmp_path, 1, 2)
    reseal(tmp_path / "step-00000002", tensors=data)
    if data.endswith(b"{}") and len(data) == 10:
        assert store.latest().tensors == {}, "an empty file is the one sound forgery here"
    else:
        falls_back(store, 1)


def test_header_that_ends_after_the_file(tmp_path):
    store = store_of(tmp_path, 1, 2)
    reseal(tmp_path / "step-00000002", tensors=b"\x03" + b"\0" * 7 + b"{}")
    falls_back(store, 1, match="expected a header of at most 16777216 bytes, found 3 of 10$")


def test_message_of_a_flipped_byte(tmp_path):
    store = store_of(tmp_path, 1, 2)
    path = tmp_path / "step-00000002" / "state.json"
    before = path.read_bytes()
    after = before.replace(b"2", b"3", 1)
    path.write_bytes(after)
    digests = [hashlib.sha256(data).hexdigest() for data in (before, after)]
    falls_back(store, 1, match=f"{path}: expected SHA-256 {digests[0]}, found {digests[1]}$")


@pytest.mark.parametrize(
    "data, match",
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"[]", "state.json: expected a JSON object, found list"),
        (b"null", "state.json: expected a JSON object, found NoneType"),
        (b"\xff{}", "can't decode byte 0xff"),
        (b"[" * 20_000, "recursion"),
        (b"1" * 10_000, "limit"),
    ],
)
def test_forged_state_that_is_no_object(tmp_path, data, match):
    store = store_of(tmp_path, 1, 2)
    reseal(tmp_path / "step-00000002", state=data)
    falls_back(store, 1, match=f"{tmp_path}/step-00000002.*{match}")


FORMAT_1 = {
    "tensors.safetensors": b'H\0\0\0\0\0\0\0{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'.ljust(80)
    + b"\0\0\x80?\0\0\0\xc0",
    "state.json": b'{\n  "epoch": 2\n}\n',
}


def test_format_1_stays_readable(tmp_path):
    """A checkpoint as the first release wrote it, byte for byte."""
    path = tmp_path / "step-00000007"
    path.mkdir()
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in FORMAT_1.items()}
    body = (
        '{\n  "format": 1,\n  "step": 7,\n  "files": {\n    "tensors.safetensors": {\n      "sha256": "'
        + hashes["tensors.safetensors"]
        + '",\n      "size": 88\n    },\n    "state.json": {\n      "sha256": "'
        + hashes["state.json"]
        + '",\n      "size": 17\n    }\n  }'
    )
    seal = hashlib.sha256((body + "\n}\n").encode()).hexdigest()
    for name, data in FORMAT_1.items():
        (path / name).write_bytes(data)
    (path / "manifest.json").write_text(f'{body},\n  "sha256": "{seal}"\n}}\n')
    found = CheckpointStore(tmp_path).latest()
    assert found.step == 7 and found.state == {"epoch": 2} and found.tensors["w"].tolist() == [1.0, -2.0]


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_is_refused_and_left_in_place(tmp_path, version):
    store = store_of(tmp_path, 1, 2)
    path = tmp_path / "step-00000002" / "manifest.json"
    path.write_bytes(checkpoints._seal({"format": version, "what comes": ["in", "that", "format"]}))
    before = snapshot(tmp_path)
    with pytest.raises(CheckpointError, match=f"manifest.json: expected checkpoint format 1, found {version!r}"):
        store.latest()
    assert snapshot(tmp_path) == before


def edit_manifest(edit):
    def apply(path: Path):
        body = json.loads(path.read_bytes())
        del body["sha256"]
        body = edit(body) or body
        path.write_bytes(checkpoints._seal(body))

    return apply


MANIFEST_EDITS = {
    "missing manifest": lambda path: path.unlink(),
    "missing entry": edit_manifest(lambda body: body["files"].pop("state.json") and None),
    "extra entry": edit_manifest(lambda body: body["files"].update({"more.bin": {"sha256": "0" * 64, "size": 0}})),
    "entry outside": edit_manifest(
        lambda body: body["files"].update({"../step-00000001/state.json": body["files"].pop("state.json")})
    ),
    "absolute entry": edit_manifest(
        lambda body: body["files"].update({"/etc/hostname": body["files"].pop("state.json")})
    ),
    "other step": edit_manifest(lambda body: body.update(step=1)),
    "no step": edit_manifest(lambda body: body.pop("step") and None),
    "no files": edit_manifest(lambda body: body.pop("files") and None),
    "list of files": edit_manifest(lambda body: body.update(files=list(body["files"]))),
    "entry without hash": edit_manifest(lambda body: body["files"]["state.json"].pop("sha256") and None),
    "entry without size": edit_manifest(lambda body: body["files"]["state.json"].pop("size") and None),
    "entry is a number": edit_manifest(lambda body: body["files"].update({"state.json": 5})),
    "upper-case hash": edit_manifest(
        lambda body: body["files"]["state.json"].update(sha256=body["files"]["state.json"]["sha256"].upper())
    ),
    "seal missing": lambda path: path.write_bytes(path.read_bytes().split(b',\n  "sha256"')[0] + b"\n}\n"),
    "other spacing": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "repeated key": lambda path: path.write_bytes(path.read_bytes().replace(b"{", b'{\n  "step": 3,', 1)),
    "pretending file": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("edit", MANIFEST_EDITS)
def test_edited_manifest(tmp_path, edit):
    store = store_of(tmp_path, 1, 2)
    MANIFEST_EDITS[edit](tmp_path / "step-00000002" / "manifest.json")
    falls_back(store, 1, match="step-00000002")


@pytest.mark.parametrize("name", NAMES)
def test_missing_or_swapped_file(tmp_path, name):
    store = store_of(tmp_path, 1, 2, 3, keep=3)
    (tmp_path / "step-00000003" / name).unlink()
    falls_back(store, 2, match=f"{name}: missing")
    other = (tmp_path / "step-00000001" / name).read_bytes()
    (tmp_path / "step-00000002" / name).write_bytes(other)
    falls_back(store, 1, match=name)


def test_warning_points_at_the_caller(tmp_path):
    store = store_of(tmp_path, 1, 2)
    (tmp_path / "step-00000002" / "state.json").unlink()
    with pytest.warns(UserWarning) as warned:
        store.latest()
    assert [warning.filename for warning in warned] == [__file__]


def test_plain_file_in_place_of_a_checkpoint(tmp_path):
    store = store_of(tmp_path, 1)
    (tmp_path / "step-00000002").write_bytes(b"")
    falls_back(store, 1, match="missing")


BODIES = st.fixed_dictionaries(
    {},
    optional={
        "format": st.sampled_from([1, 2]) | JSON,
        "step": st.just(2) | JSON,
        "sha256": JSON,
        "files": st.dictionaries(st.sampled_from(["tensors.safetensors", "state.json", "../x"]), JSON) | JSON,
    },
)


def decode_or_refuse(data: bytes) -> None:
    try:
        described = checkpoints._decode_manifest(data, Path("manifest.json"), 2)
    except CheckpointError as error:
        assert "manifest.json" in str(error)
    else:
        assert set(described) == {"tensors.safetensors", "state.json"}
        body = json.loads(data)
        assert body["format"] == 1 and body["step"] == 2 and len(body) >= 4


@given(st.binary() | JSON.map(files.encode_json) | BODIES.map(files.encode_json))
@example(b"[" * 60_000)
@example(b"1" * 60_000)
@example(b'{"sha256": null}')
@example(b"NaN")
def test_any_bytes_as_manifest_are_refused(data):
    with pytest.raises(CheckpointError) as error:
        checkpoints._decode_manifest(data, Path("m.json"), 2)
    assert str(error.value) == "m.json: the manifest is not as it was written (its own SHA-256 differs)"


def test_a_manifest_of_other_files_says_which():
    data = checkpoints._seal({"format": 1, "step": 2, "files": {"x.bin": {"sha256": "0" * 300, "size": 0}}})
    with pytest.raises(CheckpointError) as error:
        checkpoints._decode_manifest(data, Path("m.json"), 2)
    found = str({"x.bin": {"sha256": "0" * 300, "size": 0}})[:200]
    expected = "m.json: expected exactly the files state.json and tensors.safetensors, found "
    assert str(error.value) == expected + found


@given(BODIES.map(lambda body: {key: value for key, value in body.items() if key != "sha256"}))
def test_any_sealed_manifest_is_exact_or_refused(body):
    decode_or_refuse(checkpoints._seal(body))


@given(st.integers(0, 10**12), st.binary(), st.binary())
def test_manifest_round_trip(step, tensors, state):
    data = {"tensors.safetensors": tensors, "state.json": state}
    described = checkpoints._decode_manifest(checkpoints._encode_manifest(step, data), Path("m"), step)
    assert described == {
        name: {"sha256": hashlib.sha256(value).hexdigest(), "size": len(value)} for name, value in data.items()
    }
