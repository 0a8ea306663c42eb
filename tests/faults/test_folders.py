"""Model folders that are not what they say: refused with one message, never read elsewhere, never filled at random."""

import copy
import hashlib
import json
import math
import os
import pickle
import shutil
import stat
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_helpers import encoder
from store_helpers import fork
from test_foreign import Bomb

from mtlib import folders
from mtlib.encoders import find_encoder, load_folder
from mtlib.errors import CheckpointError, ConfigurationError, MtlibError, StorageError
from mtlib.model import MultitaskModel
from mtlib.storage import ABOUT
from mtlib.tasks import QQP, SST, STS


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the tiny encoder."""
    return Path(shutil.copytree(encoder(), tmp_path / "encoder"))


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """A stored multitask model of the tiny encoder."""
    place = tmp_path_factory.mktemp("stored") / "model"
    MultitaskModel(*load_folder(Path(encoder())), (SST, QQP, STS)).save_pretrained(place)
    return place


@pytest.fixture
def model(stored, tmp_path) -> Path:
    return Path(shutil.copytree(stored, tmp_path / "model"))


def change(path: Path, **values) -> None:
    """Values of a JSON file set, or removed where they are None."""
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def rename(folder: Path, name) -> dict[str, torch.Tensor]:
    """The weights with names as `name` makes them; None leaves one out."""
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    renamed = {name(key): tensor for key, tensor in weights.items() if name(key)}
    safetensors.torch.save_file(renamed, folder / "model.safetensors")
    return weights


# Weights


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_known_prefixes_and_heads_beside_the_encoder_load_to_the_same_weights(folder, prefix):
    weights = rename(folder, lambda key: prefix + key)
    extra = {f"{prefix}pooler.dense.bias": torch.zeros(16), "cls.predictions.bias": torch.zeros(3)}
    changed = safetensors.torch.load_file(folder / "model.safetensors") | extra
    safetensors.torch.save_file(changed, folder / "model.safetensors")
    found = load_folder(folder)[0].state_dict()
    assert found.keys() - weights.keys() <= {"embeddings.position_ids", "embeddings.token_type_ids"}
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda f: rename(f, lambda key: f"model.teacher.{key}"), "missing embeddings.LayerNorm.bias"),
        (lambda f: rename(f, lambda key: "layer.0." not in key and key), "missing encoder.layer.0.attention"),
        (lambda f: rename(f, lambda key: key.replace("layer.0.", "layer.7.")), "missing encoder.layer.0.attention"),
        (lambda f: rename(f, lambda key: key != "embeddings.LayerNorm.bias" and key), "embeddings.LayerNorm.bias$"),
        (lambda f: change(f / "config.json", num_hidden_layers=2), "missing encoder.layer.1.attention"),
        (lambda f: change(f / "config.json", num_hidden_layers=0), "unexpected encoder.layer.0.attention"),
        (lambda f: change(f / "config.json", intermediate_size=24), r"stored as \[32, 16\], expected \[24, 16\]"),
        (lambda f: change(f / "config.json", num_hidden_layers=10**9), "has 1000000000 layers"),
        (lambda f: change(f / "config.json", vocab_size=10**12), "describes 16000"),
        (lambda f: change(f / "config.json", hidden_size="many"), "no encoder can be loaded"),
        (lambda f: change(f / "config.json", num_attention_heads=5), "no encoder can be loaded"),
        (lambda f: change(f / "config.json", model_type=None), "no encoder can be loaded: KeyError"),
        (lambda f: change(f / "config.json", model_type="nobody"), "no encoder can be loaded: KeyError"),
        (lambda f: (f / "config.json").unlink(), "expected config.json"),
        (lambda f: (f / "config.json").write_text("[" * 100_000), "config.json: expected JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "expected a JSON object"),
        (lambda f: (f / "config.json").write_bytes(b"{" + b" " * 2**21 + b"}"), "expected"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "no encoder can be loaded: SafetensorError"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64), "no encoder can be loaded: SafetensorError"),
    ],
)  # fmt: skip
def test_weights_that_are_not_those_of_the_configuration_are_refused_by_name(folder, damage, named):
    damage(folder)
    with pytest.raises(CheckpointError, match=named) as error:
        find_encoder(str(folder)).load()
    assert error.value.exit_code == 66 and len(str(error.value)) < 1000


def test_an_encoder_without_an_embedding_block_is_refused(folder):
    import transformers

    config = transformers.T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=30)
    transformers.T5Model(config).save_pretrained(folder)
    with pytest.raises(ConfigurationError, match="no embedding block"):
        find_encoder(str(folder)).load()


def test_an_encoder_whose_embedding_block_is_not_all_of_its_input_is_refused(folder):
    config = transformers.LongformerConfig(
        vocab_size=30522, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        attention_window=8, pad_token_id=0,
    )  # fmt: skip
    transformers.LongformerModel(config, add_pooling_layer=False).save_pretrained(folder)
    with pytest.raises(CheckpointError, match="no encoder can be loaded"):
        load_folder(folder)


def sharded(folder: Path, *names: str) -> None:
    """The weights in the files `names`, which an index names."""
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts = {name: dict(list(weights.items())[number :: len(names)]) for number, name in enumerate(names)}
    for name, part in parts.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        safetensors.torch.save_file(part, folder / name)
    named = {tensor: name for name, part in parts.items() for tensor in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": named}))


def test_every_shard_counts(folder):
    whole = find_encoder(str(folder)).load()[0].state_dict()
    sharded(folder, "a-1.safetensors", "b-2.safetensors")
    before = find_encoder(str(folder))
    assert all(torch.equal(whole[name], tensor) for name, tensor in before.load()[0].state_dict().items())
    for name in ("a-1.safetensors", "b-2.safetensors"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert find_encoder(str(folder)).fingerprint != before.fingerprint
        (folder / name).unlink()
        with pytest.raises(CheckpointError, match=f"expected safetensors files of this folder, found '{name}'"):
            find_encoder(str(folder))
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("name", ["weights.bin", "../outside/w.safetensors", "inner/w.safetensors", ".safetensors"])
def test_an_index_names_safetensors_of_its_folder_or_is_refused(folder, name):
    sharded(folder, name)
    for load in (lambda: find_encoder(str(folder)), lambda: load_folder(folder)):
        with pytest.raises(CheckpointError, match="expected safetensors files of this folder"):
            load()


@pytest.mark.parametrize("named", [{}, [], {"a": 3}, {"a": None}, {"a": ["x.safetensors"]}, None])
def test_any_other_index_is_refused(folder, named):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
    with pytest.raises(CheckpointError, match=r"index.json: expected"):
        find_encoder(str(folder))


def test_no_pickle_beside_or_instead_of_the_weights_is_opened(folder, tmp_path):
    sentinel = tmp_path / "sentinel"
    for name in ("pytorch_model.bin", "adapter_model.bin", "model.pt", "tokenizer.pkl"):
        (folder / name).write_bytes(pickle.dumps(Bomb(sentinel)))
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/nowhere"}))
    find_encoder(str(folder)).load()
    sharded(folder, "weights.bin")
    (folder / "weights.bin").write_bytes(pickle.dumps(Bomb(sentinel)))
    with pytest.raises(CheckpointError):
        find_encoder(str(folder)).load()
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(sentinel)))
    with pytest.raises(CheckpointError):
        find_encoder(str(folder)).load()
    assert not sentinel.exists()


# Tokenizers, and what identifies an encoder


def test_weights_configuration_and_tokenizer_identify_an_encoder(folder, tmp_path):
    before = find_encoder(str(folder)).fingerprint
    copied = shutil.copytree(folder, tmp_path / "copied")
    (copied / "README.md").write_text("a card")
    assert find_encoder(str(copied)).fingerprint == before
    prints = {before}
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        changed = shutil.copytree(folder, tmp_path / name)
        data = (changed / name).read_bytes()
        (changed / name).write_bytes(data.replace(b" ", b"\n", 1) if name.endswith("json") else data[:-1] + b"?")
        prints.add(find_encoder(str(changed)).fingerprint)
    assert len(prints) == 5


def test_a_permuted_vocabulary_is_another_encoder(folder, tmp_path):
    words = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["red"], vocabulary["blue"] = vocabulary["blue"], vocabulary["red"]
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "tokenizer.json").write_text(json.dumps(words))
    assert find_encoder(str(other)).fingerprint != find_encoder(str(folder)).fingerprint


def test_the_times_of_a_changed_file_do_not_hide_the_change(folder):
    before = find_encoder(str(folder)).fingerprint
    path = folder / "model.safetensors"
    data, about = path.read_bytes(), path.stat()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert find_encoder(str(folder)).fingerprint != before


@pytest.mark.parametrize("kept", [(), ("tokenizer_config.json",)])
def test_a_folder_without_a_vocabulary_is_refused(folder, model, kept):
    for place in (folder, model):
        for path in folders.tokenizer_files(place):
            if path.name not in kept:
                path.unlink()
    for load in (lambda: find_encoder(str(folder)), lambda: MultitaskModel.from_pretrained(model)):
        with pytest.raises(CheckpointError, match="expected a tokenizer"):
            load()


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "tokenizer.json").write_bytes((f / "tokenizer.json").read_bytes()[:200]),
        lambda f: (f / "tokenizer.json").write_text("{}"),
        lambda f: (f / "tokenizer.json").write_text("[" * 100_000),
        lambda f: (f / "tokenizer_config.json").write_text("[" * 100_000),
        lambda f: (f / "tokenizer_config.json").write_text('{"tokenizer_class": "os.system"}x'),
        lambda f: change(f / "tokenizer_config.json", pad_token=7),
    ],
)
def test_a_damaged_tokenizer_is_refused(folder, damage):
    damage(folder)
    with pytest.raises(CheckpointError):
        load_folder(folder)


def test_a_tokenizer_of_another_model_is_refused(folder):
    words = json.loads((folder / "tokenizer.json").read_text())
    words["model"]["vocab"]["further"] = 4_000
    (folder / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(CheckpointError, match="expected a tokenizer with padding whose tokens are below 22"):
        load_folder(folder)


def test_a_tokenizer_that_pads_with_another_token_than_positions_are_counted_by_is_refused(folder):
    import transformers

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    for padding in (0, 1):
        config = transformers.RobertaConfig(vocab_size=22, pad_token_id=padding, **small)
        transformers.RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
        if padding == 0:
            load_folder(folder)
    with pytest.raises(CheckpointError, match="counts positions by padding 1, its tokenizer pads with 0"):
        load_folder(folder)


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("key", ["tokenizer_file", "vocab_file", "fast_tokenizer_files"])
def test_a_tokenizer_is_read_from_its_own_folder_whatever_its_configuration_says(folder, tmp_path, key, absolute):
    words = json.loads((folder / "tokenizer.json").read_text())
    words["model"]["vocab"] = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "red": 4}
    outside = tmp_path / "outside" / "tokenizer.4.0.0.json"
    outside.parent.mkdir()
    outside.write_text(json.dumps(words))
    place = str(outside) if absolute else "../outside/tokenizer.4.0.0.json"
    change(folder / "tokenizer_config.json", **{key: [place] if key.endswith("s") else place})
    assert len(load_folder(folder)[1]) == 22


# Names


def test_encoders_are_told_apart_by_kind_and_never_by_the_name_of_their_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "encoder").rename("tiny")
    assert (find_encoder("./tiny").kind, find_encoder("tiny").kind) == ("folder", "random")
    stored = MultitaskModel(*load_folder(Path("tiny")), (SST,))
    shutil.rmtree("tiny")
    with pytest.raises(CheckpointError, match="expected a stored multitask model"):
        MultitaskModel.from_pretrained("tiny")
    stored.save_pretrained("tiny")
    loaded = MultitaskModel.from_pretrained("tiny")
    assert torch.equal(loaded.heads["sst"].weight, stored.heads["sst"].weight)
    assert loaded.encoder.config.hidden_size == 16


@pytest.mark.parametrize(
    "name", ["", ".", "a/b/c", "x" * 300, "x" * 5000, "a\0b", "a b", "../../there", "é/b", "a\n/b"]
)
def test_names_that_are_no_encoder_are_refused(name):
    with pytest.raises((ConfigurationError, CheckpointError)):
        find_encoder(name, "0" * 40)


@pytest.mark.parametrize(
    "revision", ["main", "v1.0", "86b5e09", "86B5E0934494BD15C9632B12F734A8A67F723594", "0" * 41, ""]
)
def test_a_revision_is_a_commit_or_refused(revision):
    for name in ("google-bert/bert-base-uncased", "somebody/some-bert"):
        if revision or name.startswith("some"):
            with pytest.raises(ConfigurationError, match="expected a commit of 40 digits|needs encoder_revision"):
                find_encoder(name, revision)


# Stored models


def test_a_model_that_was_not_changed_loads_under_its_seal(model):
    again = model.parent / "again"
    seal = MultitaskModel.from_pretrained(model).save_pretrained(again)
    assert seal == hashlib.sha256((again / ABOUT).read_bytes()).hexdigest()
    (again / "README.md").write_text("a card is no part of the model")
    MultitaskModel.from_pretrained(again, seal)


@pytest.mark.parametrize("name", ["model.safetensors", "heads.safetensors", "config.json", "tokenizer.json"])
def test_one_changed_byte_anywhere_in_a_model_is_refused(model, name):
    data = (model / name).read_bytes()
    for place in {0, len(data) // 3, len(data) // 2, len(data) - 1}:
        (model / name).write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(CheckpointError):
            MultitaskModel.from_pretrained(model)
    (model / name).write_bytes(data[:-1])
    with pytest.raises(CheckpointError):
        MultitaskModel.from_pretrained(model)
    (model / name).unlink()
    with pytest.raises(CheckpointError, match="expected"):
        MultitaskModel.from_pretrained(model)


def test_a_model_exchanged_for_another_sound_one_does_not_have_the_seal(model, tmp_path):
    other = MultitaskModel.from_pretrained(model)
    before = other.save_pretrained(model)
    with torch.no_grad():
        other.heads["sst"].bias += 1
    other.save_pretrained(model)
    MultitaskModel.from_pretrained(model)
    with pytest.raises(CheckpointError, match="multitask.json: changed since it was written: expected SHA-256"):
        MultitaskModel.from_pretrained(model, before)


@pytest.mark.parametrize("name", ["vocab.txt", "special_tokens_map.json"])
def test_a_file_that_loading_would_read_cannot_be_added(model, name):
    (model / name).write_text("{}")
    with pytest.raises(CheckpointError, match=f"only in one of both: {name}"):
        MultitaskModel.from_pretrained(model)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_other_multitask_json_is_one_clear_error(model, stored, data):
    about = json.loads((stored / "multitask.json").read_text())
    junk = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    )
    key = data.draw(st.sampled_from([*about, *about["tasks"][0], "new", None]))
    value = data.draw(junk)
    if key is None:
        about = value
    elif key in about["tasks"][0]:
        about["tasks"][0][key] = value
    else:
        about[key] = value
    (model / "multitask.json").write_text(json.dumps(about))
    try:
        MultitaskModel.from_pretrained(model)  # a value may be one that can be meant
    except MtlibError as error:
        assert error.exit_code in (64, 66) and len(str(error)) < 2000


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"null", b"{}", b"1" * 5000]
)
def test_a_malformed_multitask_json_is_refused(model, content):
    (model / "multitask.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="multitask.json") as error:
        MultitaskModel.from_pretrained(model)
    assert len(str(error.value)) < 500


def test_every_file_of_a_model_may_be_read_by_whom_its_folder_lets_in(model):
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in model.rglob("*") if path.is_file()}
    assert len(set(modes.values())) == 1 and modes["model.safetensors"] == 0o666 & ~umask()


def umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become nobody")
@pytest.mark.parametrize("load", [MultitaskModel.from_pretrained, lambda folder: find_encoder(str(folder)).load()])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "."])
def test_what_may_not_be_read_is_a_storage_error(stored, public, name, load):
    model = Path(shutil.copytree(stored, public / "model"))
    model.chmod(0o755)
    (model / name).chmod(0)

    def as_nobody():
        os.setgroups([])
        os.setuid(65534)
        with pytest.raises(StorageError, match="cannot be read: Permission denied"):
            load(model)

    assert fork(as_nobody) == 0


# Anything else that may stand in a folder

FILES = ["config.json", "tokenizer_config.json", "tokenizer.json"]
JUNK = [None, True, 0, -1, 1, 3, 10**6, 10**12, 1e308, math.nan, "", "x", "../..", "[PAD]", [], [1], {}, {"a": 1}, "\0"]
UNKNOWN = ["num_labels", "attn_implementation", "quantization_config", "auto_map", "fusion_config", "torch_dtype"]
UNKNOWN += ["model_input_names", "extra_special_tokens", "chunk_size_feed_forward", "tokenizer_file", "is_decoder"]


def places(content, path=()):
    """The path of every value in nested JSON, the first six of a list."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content[:6])
    for key, value in pairs:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


@pytest.mark.parametrize("examples", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_an_encoder_with_any_other_value_in_it_works_or_is_one_clear_error(folder, examples):
    sound = {name: json.loads((folder / name).read_text()) for name in FILES}
    known = {name: [*places(content), *((key,) for key in UNKNOWN)] for name, content in sound.items()}

    @settings(max_examples=examples, deadline=None)
    @given(
        st.sampled_from(FILES).flatmap(lambda name: st.tuples(st.just(name), st.sampled_from(known[name]))), st.data()
    )
    def attack(place, data):
        (name, path), value = place, data.draw(st.sampled_from(JUNK))
        content = inner = copy.deepcopy(sound[name])
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        for each in FILES:
            (folder / each).write_text(json.dumps(content if each == name else sound[each]))
        try:
            model = MultitaskModel(*find_encoder(str(folder)).load(), (SST,))
        except MtlibError as error:
            assert error.exit_code in (64, 66) and len(str(error)) < 1500
        else:
            assert len(model.predict("sst", ["red cat", "[MASK] [PAD] \u2603", "red " * 100])) == 3

    attack()
