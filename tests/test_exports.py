"""Exports: each form answers what the model answers, by the tools that its readers use."""

import errno
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from conftest import made_up
from test_model import TASKS, make

from mtlib.encoders import find_encoder
from mtlib.errors import CheckpointError, ConfigurationError, StorageError
from mtlib.model import MultitaskModel
from mtlib.onnx_model import FLOAT32, OnnxModel
from mtlib.tasks import QQP, SST, STS

PADDED = {
    "sst": ["red cat", "the old dog never sings slowly or quickly, as all small birds do", "x"],
    "qqp": [("red cat", "old dog"), ("a bird", "the small bird often runs"), ("new", "")],
}
PADDED["sts"] = PADDED["qqp"]


def with_large_heads(**settings) -> MultitaskModel:
    """A model whose logits are some units apart, as a trained one's, and whose encoder is not as it was drawn."""
    model = make(**settings)
    with torch.no_grad():
        for index, norm in enumerate(part for part in model.encoder.modules() if isinstance(part, torch.nn.LayerNorm)):
            norm.weight.mul_(1 + 0.3 * torch.sin(torch.arange(32) + index))
            norm.bias.add_(0.2 * torch.cos(torch.arange(32) + index))
        for head in model.heads.values():
            head.weight.mul_(30)
            head.bias.add_(0.5)
    return model


@pytest.fixture(scope="module", params=["mean", "cls"])
def model(request):
    return with_large_heads(pooling=request.param)


def answered(folder, texts, dtype="float32"):
    """Logits [texts, labels] of an exported classifier, by transformers alone."""
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    columns = list(map(list, zip(*texts, strict=True))) if isinstance(texts[0], tuple) else [texts]
    with torch.no_grad():
        return classifier(**tokenizer(*columns, padding=True, truncation=True, return_tensors="pt")).logits.float()


@pytest.mark.parametrize("task", ["sst", "qqp", "sts"])
def test_a_task_is_transformers_own_classifier_with_the_same_logits(model, task, tmp_path):
    logits = answered(model.export(task, tmp_path / "out"), PADDED[task])
    ours = model.predict(task, PADDED[task], precision="float32")
    if task == "sts":
        np.testing.assert_allclose(logits[:, 0], ours["prediction"], atol=2e-5)
    else:
        assert logits.abs().max() > 0.1
        np.testing.assert_allclose(logits.softmax(1), ours.filter(regex=r"^p\d"), atol=2e-6)
    half = answered(tmp_path / "out", PADDED[task], "bfloat16")
    torch.testing.assert_close(half, logits, rtol=0.05, atol=0.1)
    if model.pooling == "mean":
        assert answered(tmp_path / "out", PADDED[task], "float16").isnan().all(), "never a wrong number"


def test_its_pipeline_gives_the_classes_names_and_cuts_where_the_model_cuts(model, tmp_path):
    model.export("sst", tmp_path)
    classify = transformers.pipeline("text-classification", str(tmp_path))
    texts = ["red cat " * 200, "old dog"]
    ours = model.predict("sst", texts, precision="float32")
    assert [each["label"] for each in classify(texts, truncation=True)] == ours["label"].tolist()
    assert json.loads((tmp_path / "config.json").read_text())["id2label"]["4"] == "very positive"


def test_roberta_and_mpnet_are_exported_where_their_attention_can_be_a_mean(model, tmp_path):
    small = {
        "vocab_size": 30522,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "pad_token_id": 0,
    }
    for kind in ("Roberta", "MPNet"):
        encoder = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**small))
        other = MultitaskModel(encoder, model.tokenizer, TASKS, pooling=model.pooling).eval()
        if kind == "MPNet" and model.pooling == "mean":
            with pytest.raises(ConfigurationError, match="attends by position.*ONNX"):
                other.export("qqp", tmp_path / kind)
            continue
        model.tokenizer.save_pretrained(other.export("qqp", tmp_path / kind))
        assert (tmp_path / kind / "model.safetensors").is_file()
    distil = transformers.DistilBertModel(transformers.DistilBertConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=64))
    with pytest.raises(ConfigurationError, match="DistilBertModel .* a head that ours is no case of"):
        MultitaskModel(distil, model.tokenizer, TASKS).export("sst", tmp_path / "distil")
    assert not (tmp_path / "distil").exists()


def test_a_form_that_would_answer_otherwise_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.setattr("mtlib.exports.SMALL", 1.0)  # tanh of the vector itself
    with pytest.raises(ConfigurationError, match="expected logits equal to 0.0001, found a difference"):
        model.export("sst", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_a_storage_error(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        model.export("sst", tmp_path / "file" / "below")


def test_an_export_that_fails_leaves_the_earlier_one_as_it_was(model, tmp_path, monkeypatch):
    def digests():
        return {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    model.export("sst", tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".tmp-999999999-staged").mkdir()  # of a process that was killed
    before = digests()
    with monkeypatch.context() as patch, pytest.raises(StorageError, match="No space left on device ENOSPC"):
        full = OSError(errno.ENOSPC, "No space left on device")
        patch.setattr(type(model.tokenizer), "save_pretrained", lambda *_: (_ for _ in ()).throw(full))
        model.export("qqp", tmp_path)
    assert digests() == before and not list(tmp_path.glob(".tmp-*"))
    model.export("qqp", tmp_path)
    after = digests()
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {"config.json", "model.safetensors", "README.md"}
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize("name", ["README.md", "config.json", "tokenizer.json"])
def test_an_export_replaces_nothing_of_something_else(model, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigurationError, match=f"earlier export, found a {name} of something else"):
        model.export("sst", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "mine"


def test_the_encoder_loads_in_automodel_and_in_sentence_transformers(model, tmp_path):
    from sentence_transformers import SentenceTransformer

    model.save_pretrained(tmp_path)
    ours = model.embed(PADDED["sst"])
    theirs = SentenceTransformer(str(tmp_path), device="cpu").encode(PADDED["sst"])
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    batch = model.tokenize(SST, PADDED["sst"]).batch([0, 1, 2])
    hidden = transformers.AutoModel.from_pretrained(tmp_path)(**batch.inputs).last_hidden_state
    np.testing.assert_allclose(model.pool(hidden, batch.inputs["attention_mask"]).detach(), ours, atol=1e-5)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model with mean pooling, and the folder of its ONNX files."""
    model = with_large_heads()
    model.temperatures = {"sst": 2.0}
    folder = tmp_path_factory.mktemp("onnx")
    assert model.export_onnx(folder, int8=True) == folder / "model-int8.onnx"
    return model, folder


@pytest.mark.parametrize("task", [SST, QQP, STS], ids=lambda task: task.name)
@pytest.mark.parametrize("batch_size", [1, 7, None])
def test_onnxruntime_answers_what_the_model_answers_for_any_batch(exported, task, batch_size):
    model, folder = exported
    frame = made_up(QQP, "dev", 20)
    split = model.tokenize(
        task, list(zip(frame["text_a"], frame["text_b"], strict=True) if task.is_pair else frame["text_a"])
    )
    outputs = OnnxModel(folder / FLOAT32).outputs(split, f"{task.name}_logits", batch_size)
    for batch in split.evaluation_batches():
        with torch.no_grad():
            np.testing.assert_allclose(outputs[batch.rows], model(task.name, batch.inputs), atol=1e-4)


def test_an_onnx_file_knows_its_tasks_and_gives_names_and_vectors(exported):
    model, folder = exported
    onnx = OnnxModel(folder / FLOAT32)
    assert onnx.tasks == TASKS and onnx.tasks[0].names == SST.names
    assert onnx.max_tokens == model.max_tokens and onnx.temperatures == {"sst": 2.0}
    for task, inputs in (("sst", "red cat"), ("qqp", PADDED["qqp"]), ("sts", ("red cat", "old dog"))):
        ours = model.predict(task, inputs, precision="float32")
        pd.testing.assert_frame_equal(onnx.predict(task, inputs), ours, atol=1e-4)
    vectors = onnx.outputs(model.tokenize(SST, PADDED["sst"]), "sentence_embedding")
    np.testing.assert_allclose(vectors, model.embed(PADDED["sst"]), atol=1e-4)
    with pytest.raises(ConfigurationError, match="unknown task 'foo': this file has sst, qqp, sts"):
        onnx.predict("foo", "a")


def test_an_onnx_file_answers_no_texts_with_no_rows(exported):
    model, folder = exported
    onnx = OnnxModel(folder / FLOAT32)
    for task in ("sst", "qqp"):
        pd.testing.assert_frame_equal(onnx.predict(task, []), model.predict(task, []), check_dtype=False)


def test_int8_is_smaller_and_near(exported):
    model, folder = exported
    small, whole = folder / "model-int8.onnx", folder / FLOAT32
    assert small.stat().st_size < 0.4 * whole.stat().st_size
    texts = made_up(SST, "dev", 40)["text_a"].tolist()
    assert (
        OnnxModel(small).predict("sst", texts)["prediction"] == model.predict("sst", texts)["prediction"]
    ).mean() > 0.8


def test_an_export_in_32_bits_leaves_no_8_bits_of_another_model(exported, tmp_path, monkeypatch):
    model, folder = exported
    shutil.copytree(folder, tmp_path / "out")
    monkeypatch.setattr("mtlib.onnx_model.TOLERANCE", -1.0)
    with pytest.raises(ConfigurationError, match="onnxruntime's outputs are not the model's to -1"):
        model.export_onnx(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in folder.iterdir()}
    monkeypatch.undo()
    assert model.export_onnx(tmp_path / "out") == tmp_path / "out" / FLOAT32
    assert not (tmp_path / "out" / "model-int8.onnx").exists()


def test_a_file_that_is_no_export_is_refused(exported, tmp_path):
    _, folder = exported
    data = (folder / FLOAT32).read_bytes()
    for name, content in {"cut": data[: len(data) // 2], "empty": b"", "text": b"hello"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match="expected a file that export_onnx wrote"):
            OnnxModel(tmp_path / name)
    with pytest.raises(CheckpointError, match="found none"):
        OnnxModel(tmp_path / "nothing.onnx")


def test_a_missing_package_is_named_with_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    encoder, tokenizer = find_encoder("tiny").load()
    with pytest.raises(ConfigurationError, match=r"ONNX needs onnxscript: pip install 'mtlib\[export\]'"):
        MultitaskModel(encoder, tokenizer, TASKS).export_onnx(tmp_path)
