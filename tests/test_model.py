"""The model: what its outputs are, that batching does not change them, and what storing it keeps."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from conftest import made_up

from mtlib.data.batches import PAD_TO, TokenizedSplit
from mtlib.data.cached import file_sha256
from mtlib.encoders import find_encoder
from mtlib.errors import CheckpointError, ConfigurationError, StorageError
from mtlib.model import MultitaskModel
from mtlib.packaged import MINILM_SHA256, minilm_folder
from mtlib.prediction import predictions
from mtlib.tasks import QQP, SST, STS, Task

TASKS = (SST, QQP, STS)


def make(seed=0, **settings) -> MultitaskModel:
    encoder, tokenizer = find_encoder("tiny", seed=seed).load()
    return MultitaskModel(encoder, tokenizer, TASKS, seed=seed, **settings).eval()


@pytest.fixture(scope="module")
def model():
    return make()


@pytest.mark.parametrize(("pooling", "expected"), [("cls", "first"), ("mean", "mean")])
def test_encode_pools_the_encoders_last_hidden_state(pooling, expected):
    model = make(pooling=pooling)
    batch = model.tokenize(SST, ["red cat", "the old dog never sings"]).batch([0, 1])
    hidden = model.encoder(**batch.inputs).last_hidden_state
    for row, length in enumerate(batch.inputs["attention_mask"].sum(1)):
        by_hand = hidden[row, 0] if expected == "first" else hidden[row, :length].mean(0)
        torch.testing.assert_close(model.encode(batch.inputs)[row], by_hand)


def test_given_embeddings_replace_the_embedding_block(model):
    batch = model.tokenize(QQP, [("red cat", "blue dog"), ("old", "new bird")]).batch([0, 1])
    x = model.embed_tokens(batch.inputs)
    torch.testing.assert_close(model("qqp", batch.inputs, x), model("qqp", batch.inputs), rtol=0, atol=0)
    assert (model("qqp", batch.inputs, x + 0.1) != model("qqp", batch.inputs)).any()
    assert "forward" not in vars(model.encoder.embeddings)


@pytest.mark.parametrize("kind", ["DistilBert", "Roberta", "Electra", "MPNet"])
def test_other_bert_like_encoders_work(kind, model):
    small = {"vocab_size": 30522, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    distil = {"vocab_size": 30522, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
    config = getattr(transformers, f"{kind}Config")(**(distil if kind == "DistilBert" else small))
    encoder = getattr(transformers, f"{kind}Model")(config)
    other = MultitaskModel(encoder, model.tokenizer, TASKS).eval()
    batch = other.tokenize(SST, ["red cat", "the old dog"]).batch([0, 1])
    if kind != "Electra":
        batch.inputs.pop("token_type_ids")
    x = other.embed_tokens(batch.inputs)
    torch.testing.assert_close(other("sst", batch.inputs, x), other("sst", batch.inputs))
    assert other("sst", batch.inputs).shape == (2, 5)


def test_a_convolution_over_tokens_does_not_see_the_padding(model):
    small = {"vocab_size": 30522, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    encoder = transformers.DebertaV2Model(transformers.DebertaV2Config(**small, conv_kernel_size=3, conv_act="gelu"))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    other = MultitaskModel(encoder, model.tokenizer, TASKS).eval()
    split = other.tokenize(SST, ["red cat", "the old dog never sings with the small blue birds"])
    pair, alone = split.batch([0, 1]).inputs, split.batch([0]).inputs
    given = other.encode(pair, other.embed_tokens(pair))
    torch.testing.assert_close(given, other.encode(pair))
    torch.testing.assert_close(given[:1], other.encode(alone, other.embed_tokens(alone)))


@pytest.mark.parametrize("kind", ["DistilBert", "Bert"])
def test_threads_that_predict_at_once_get_their_own_answers(kind, model):
    config = transformers.DistilBertConfig(dim=32, n_layers=3, n_heads=2, hidden_dim=64)
    other = MultitaskModel(transformers.DistilBertModel(config), model.tokenizer, TASKS) if kind != "Bert" else model
    texts = [f"{number} red cat{' sleeps' * number}" for number in range(8)] * 6
    alone = [other.eval().predict("sst", text)["p0"].item() for text in texts[:8]] * 6
    with ThreadPoolExecutor(4) as pool:
        found = [frame["p0"].item() for frame in pool.map(lambda text: other.predict("sst", text), texts)]
    np.testing.assert_allclose(found, alone, rtol=1e-4)


def test_predictions_do_not_depend_on_batching(model):
    frame = made_up(QQP, "dev", 40)
    together = predictions(model, TokenizedSplit(QQP, frame, model.tokenizer, 64))
    alone = [model.predict("qqp", [(a, b)]) for a, b in zip(frame["text_a"], frame["text_b"], strict=True)]
    assert together["id"].tolist() == frame["id"].tolist()
    np.testing.assert_allclose(together["p1"], [one["p1"].item() for one in alone], rtol=1e-5)


@pytest.mark.parametrize(("task", "inputs", "columns"), [
    ("sst", ["red cat", "old dog", "cat"], ["prediction", "label", "p0", "p1", "p2", "p3", "p4"]),
    ("qqp", [("red", "blue")], ["prediction", "label", "p0", "p1"]),
    ("sts", [("red", "blue"), ("a", "b")], ["prediction"]),
])  # fmt: skip
def test_predict_returns_labels_and_probabilities(model, task, inputs, columns):
    frame = model.predict(task, inputs)
    assert frame.columns.tolist() == columns
    assert len(frame) == len(inputs)
    if len(columns) > 1:
        np.testing.assert_allclose(frame[columns[2:]].sum(axis=1), 1)
        assert (frame["prediction"] == frame[columns[2:]].to_numpy().argmax(axis=1)).all()
        assert frame["label"].tolist() == [model.task(task).names[index] for index in frame["prediction"]]


def test_one_text_or_one_pair_is_a_row_however_it_is_given(model):
    frame = pd.testing.assert_frame_equal
    frame(model.predict("sst", "red cat"), model.predict("sst", ["red cat"]))
    frame(model.predict("qqp", ("red cat", "old dog")), model.predict("qqp", [("red cat", "old dog")]))
    np.testing.assert_array_equal(model.embed("red cat"), model.embed(["red cat"]))
    assert len(model.predict("sst", ("red cat", "old dog"))) == 2, "of single texts a tuple is a list"


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_no_batch_size_changes_a_prediction(model, batch_size, capsys):
    texts = made_up(SST, "dev", 40)["text_a"].tolist()
    frame = model.predict("sst", texts, batch_size=batch_size, progress=True)
    pd.testing.assert_frame_equal(frame, model.predict("sst", texts), rtol=1e-4)
    assert "40/40" in capsys.readouterr().err
    split = model.tokenize(SST, texts)
    assert max(len(batch.rows) for batch in split.evaluation_batches(examples=batch_size)) == min(batch_size, 40)


def test_a_temperature_divides_the_logits_is_kept_and_has_to_be_there(model, tmp_path):
    texts, pairs = ["red cat", "old dog"], [("red cat", "old dog")]
    with pytest.raises(ConfigurationError, match="no temperature"):
        model.predict("sst", texts, calibrated=True)
    pd.testing.assert_frame_equal(model.predict("sts", pairs, calibrated=True), model.predict("sts", pairs))
    warm = make()
    warm.temperatures = {"sst": 0.1, "qqp": 0.5}
    warm.save_pretrained(tmp_path)
    warm = MultitaskModel.from_pretrained(tmp_path)
    for task, inputs in (("sst", texts), ("qqp", pairs)):
        plain, calibrated = model.predict(task, inputs), warm.predict(task, inputs, calibrated=True)
        classes = [name for name in plain if name[0] == "p" and name[1:].isdigit()]
        expected = plain[classes] ** (1 / warm.temperatures[task])
        np.testing.assert_allclose(calibrated[classes], expected.div(expected.sum(axis=1), axis=0), rtol=1e-5)
        assert plain["label"].tolist() == calibrated["label"].tolist()


def test_similarity_is_the_mean_of_both_orders(model):
    a, b = ["red cat", "the old dog"], ["blue dog", "a bird never sings"]
    by_hand = [
        (model.predict("sts", (x, y))["prediction"].item() + model.predict("sts", (y, x))["prediction"].item()) / 2
        for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(model.similarity(a, b), by_hand, rtol=1e-5)
    np.testing.assert_allclose(model.similarity(a, b), model.similarity(b, a), rtol=1e-6)
    assert model.similarity("red cat", "blue dog").shape == (1,) and model.similarity([], []).shape == (0,)
    with pytest.raises(ConfigurationError, match="found 2 and 1"):
        model.similarity(a, b[:1])
    with pytest.raises(ConfigurationError, match="compare vectors of embed"):
        MultitaskModel(model.encoder, model.tokenizer, (SST, QQP)).similarity(a, b)


@pytest.mark.parametrize(("task", "columns"), [("sst", 7), ("qqp", 4), ("sts", 1)])
def test_no_texts_give_no_rows_of_the_same_columns_and_types(model, task, columns):
    one = model.predict(task, [("a", "b") if task != "sst" else "a"])
    for nothing in ([], (), np.array([]), pd.Series([], dtype=str)):
        empty = model.predict(task, nothing)
        assert empty.shape == (0, columns) and empty.dtypes.equals(one.dtypes)
    assert model.embed([]).shape == (0, 32) and model.embed([], normalise=True).shape == (0, 32)


def test_bytes_that_were_no_utf_8_are_refused(model):
    for task, inputs in (("sst", ["fine", "\udcff"]), ("qqp", [("a", "b"), ("a", "\ud800")])):
        with pytest.raises(ConfigurationError, match=f"task {task}: expected UTF-8, found .* at position 1"):
            model.predict(task, inputs)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batches_of_no_text_are_refused(model, batch_size):
    for ask in (
        lambda **options: model.predict("sst", ["a", "b"], **options),
        lambda **options: model.embed(["a"], **options),
    ):
        with pytest.raises(ConfigurationError, match=f"batch_size: expected 1 or more, found {batch_size}"):
            ask(batch_size=batch_size)


@pytest.mark.parametrize("inputs", [b"hello", None, 3, {"a": 1}, {"a"}, iter(["a"]), pd.DataFrame({"a": ["b"]})])
def test_what_is_no_list_of_texts_is_refused(model, inputs):
    for ask in (
        lambda: model.predict("sst", inputs),
        lambda: model.embed(inputs),
        lambda: model.predict("qqp", inputs),
    ):
        with pytest.raises(ConfigurationError, match=r"expected a (text|pair .*) or a list of (texts|pairs), found"):
            ask()
    for text in ("hello", ""):
        with pytest.raises(ConfigurationError, match="expected a pair"):
            model.predict("qqp", text)


@pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Series])
def test_a_list_of_any_kind_is_read_in_its_order(model, kind):
    expected = model.predict("sst", ["red cat", "old dog"])
    pd.testing.assert_frame_equal(model.predict("sst", kind(["red cat", "old dog"])), expected)


@pytest.mark.parametrize(
    "name", ["keys", "type", "training", "forward", "mean", "evenness", "step", "a-b", "", "é", "x" * 41]
)
def test_a_task_s_name_stands_for_nothing_else(name):
    with pytest.raises(ConfigurationError, match="task name"):
        Task(name, "binary", ("text",), "label")


@pytest.mark.parametrize(
    "change", [{"files": "../x"}, {"files": "/x"}, {"low": -np.inf}, {"high": np.nan}, {"low": 5.0}]
)
def test_a_task_that_cannot_be_meant_is_refused(change):
    with pytest.raises(ConfigurationError, match="task own"):
        Task("own", "regression", ("text",), "label", **change)


def test_two_tasks_of_one_name_are_refused():
    with pytest.raises(ConfigurationError, match="different names"):
        MultitaskModel(*find_encoder("tiny").load(), (SST, SST))


@pytest.mark.parametrize(("kind", "longest"), [("Bert", 41), ("Roberta", 39), ("MPNet", 39)])
def test_the_longest_input_is_one_that_the_encoder_has_positions_for(kind, longest, model):
    small = {"vocab_size": 30522, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = getattr(transformers, f"{kind}Config")(
        **small, max_position_embeddings=40 + (kind == "Bert"), pad_token_id=0
    )
    other = MultitaskModel(getattr(transformers, f"{kind}Model")(config), model.tokenizer, (SST,), max_tokens=500)
    assert len(other.predict("sst", ["red " * 100])) == 1
    assert other.max_tokens == longest // PAD_TO * PAD_TO


@pytest.mark.parametrize(("task", "inputs"), [("sst", [("a", "b")]), ("qqp", ["a"]), ("sts", [("a", 1)]), ("sst", [3])])
def test_predict_refuses_inputs_the_task_does_not_read(model, task, inputs):
    with pytest.raises(ConfigurationError, match="position 0"):
        model.predict(task, inputs)


def test_an_unknown_task_is_named(model):
    with pytest.raises(ConfigurationError, match="unknown task 'foo': this model has sst, qqp, sts"):
        model.predict("foo", ["a"])


def test_embed_gives_unit_vectors_on_request(model):
    vectors = model.embed(["red cat", "old dog"], normalise=True)
    assert vectors.shape == (2, 32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)


def test_storing_keeps_every_bit(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    loaded = MultitaskModel.from_pretrained(tmp_path)
    assert loaded.tasks == model.tasks
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    plain = transformers.AutoModel.from_pretrained(tmp_path / "model")
    batch = model.tokenize(SST, ["red cat"]).batch([0])
    torch.testing.assert_close(plain(**batch.inputs)[0], model.encoder(**batch.inputs)[0])


def test_a_model_that_is_loaded_and_stored_again_has_the_same_seal(model, tmp_path):
    model.save_pretrained(tmp_path / "a")
    MultitaskModel.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert (tmp_path / "a" / "multitask.json").read_bytes() == (tmp_path / "b" / "multitask.json").read_bytes()
    stored = json.loads((tmp_path / "b" / "tokenizer.json").read_text())
    assert stored["truncation"] is None and stored["padding"] is None


def test_sentence_vectors_are_averaged_in_float32(model):
    hidden, mask = torch.randn(2, 400, 32).bfloat16(), torch.ones(2, 400)
    torch.testing.assert_close(model.pool(hidden, mask), hidden.float().mean(1))


def test_stored_models_that_do_not_fit_are_refused(model, tmp_path):
    with pytest.raises(CheckpointError, match="expected a stored multitask model"):
        MultitaskModel.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    about = json.loads((tmp_path / "multitask.json").read_text())
    about["tasks"][0] |= {"classes": 7, "names": []}
    (tmp_path / "multitask.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match=r"heads.safetensors: sst.bias: expected \[7\], found \[5\]"):
        MultitaskModel.from_pretrained(tmp_path)
    (tmp_path / "multitask.json").write_text(json.dumps(about | {"format": 99}))
    with pytest.raises(CheckpointError, match="format: Input should be 2, found 99"):
        MultitaskModel.from_pretrained(tmp_path)


def test_heads_keep_their_precision_under_autocast(model):
    batch = model.tokenize(STS, [("red cat", "blue dog"), ("old", "new bird")]).batch([0, 1])
    with torch.autocast("cpu", torch.bfloat16):
        logits = model("sts", batch.inputs)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


def test_heads_follow_from_the_seed_and_not_from_the_other_tasks():
    assert torch.equal(make(seed=1).heads["sts"].weight, make(seed=1).heads["sts"].weight)
    assert not torch.equal(make(seed=1).heads["sts"].weight, make(seed=2).heads["sts"].weight)
    encoder, tokenizer = find_encoder("tiny").load()
    alone = MultitaskModel(encoder, tokenizer, (STS,), seed=1)
    assert torch.equal(alone.heads["sts"].weight, make(seed=1).heads["sts"].weight)


def test_the_packaged_minilm_is_the_published_file():
    assert file_sha256(minilm_folder() / "model.safetensors") == MINILM_SHA256


def test_encoders_that_cannot_be_meant_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="needs encoder_revision"):
        find_encoder("somebody/some-bert")
    with pytest.raises(ConfigurationError, match="'minlm' is no folder here .did you mean 'minilm'"):
        find_encoder("minlm")
    with pytest.raises(CheckpointError, match="expected config.json"):
        find_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    with pytest.raises(CheckpointError, match="no other weight format"):
        find_encoder(str(tmp_path))


def test_an_unreachable_hub_is_a_storage_error(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(StorageError, match="could not be read"):
        find_encoder("google-bert/bert-base-uncased").load()
