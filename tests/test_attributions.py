"""Integrated gradients against captum on transformers' own forward pass, their axioms, and words as they stand."""

import copy
import math

import pytest
import torch
from captum.attr import LayerIntegratedGradients
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlib.encoders import find_encoder
from mtlib.errors import ConfigurationError
from mtlib.model import MultitaskModel
from mtlib.study.attributions import integrated_gradients
from mtlib.tasks import QQP, SST, STS

TEXTS = {
    "sst": "A Lovely, unhurried film!",
    "qqp": ("How old is it?", "What is its age?"),
    "sts": ("Two dogs run.", "A cat sleeps on the mat."),
}


@pytest.fixture(scope="module")
def model():
    """A random model whose answers depend on its inputs in no linear way."""
    encoder, tokenizer = find_encoder("tiny", None, 0).load()
    model = MultitaskModel(encoder, tokenizer, [SST, QQP, STS], seed=0, max_tokens=32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    return model.eval()


def by_captum(model, task, label, steps):
    """Captum's share of each token, [tokens], through the encoder's own forward pass and a mean written out here."""
    texts = TEXTS[task] if isinstance(TEXTS[task], tuple) else (TEXTS[task],)
    inputs = copy.deepcopy(model.tokenizer)(*texts, return_tensors="pt", return_special_tokens_mask=True)
    special = inputs.pop("special_tokens_mask").bool()
    hidden = torch.where(special, inputs["input_ids"], model.tokenizer.mask_token_id)

    def explained(ids, mask, types):
        states = model.encoder(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
        logits = model.heads[task](states.mean(1))
        return logits.log_softmax(-1)[:, label] if task == "sst" else logits[:, 0]

    others = inputs["attention_mask"], inputs["token_type_ids"]
    method = LayerIntegratedGradients(explained, model.encoder.embeddings)
    shares = method.attribute(inputs["input_ids"], hidden, additional_forward_args=others, n_steps=steps)
    return shares[0].sum(-1).detach(), special[0]


@pytest.mark.parametrize("task", TEXTS)
@pytest.mark.parametrize("fast", ["0", "1"])
def test_shares_are_captum_s(model, task, fast, monkeypatch):
    monkeypatch.setenv("MTLIB_FAST", fast)
    label = 3 if task == "sst" else None
    found = integrated_gradients(model, task, TEXTS[task], label=label, steps=20)
    tokens, special = by_captum(model, task, label, steps=20)
    assert tokens[special].abs().max() == 0
    assert found.words["attribution"].sum() == pytest.approx(float(tokens.sum()), abs=1e-5)
    texts = TEXTS[task] if isinstance(TEXTS[task], tuple) else (TEXTS[task],)
    encoded = model.tokenizer(*texts)
    for row in found.words.to_dict("records"):
        pieces = [
            float(share)
            for place, share in enumerate(tokens)
            if encoded.sequence_ids(0)[place] == row["text"]
            and row["start"] <= encoded.token_to_chars(0, place).start < row["end"]
        ]
        assert row["attribution"] == pytest.approx(sum(pieces), abs=1e-5), row["word"]


@pytest.mark.parametrize("task", TEXTS)
def test_words_share_all_of_what_the_answer_differs_by(model, task):
    coarse, fine = (integrated_gradients(model, task, TEXTS[task], steps=steps) for steps in (2, 64))
    assert abs(fine.gap) < 1e-3 < abs(fine.answer - fine.hidden)
    assert abs(fine.gap) < abs(coarse.gap)
    frame = model.predict(task, TEXTS[task], precision="float32")
    if task == "sst":
        best = frame["prediction"].item()
        assert fine.target == f"log p of {SST.names[best]}"
        assert fine.answer == pytest.approx(
            frame[f"p{best}"].map(lambda p: torch.tensor(p).log().item()).item(), abs=1e-5
        )
    elif task == "qqp":
        assert fine.target == "log-odds of duplicate"
        assert fine.answer == pytest.approx(math.log(frame["p1"].item() / frame["p0"].item()), abs=1e-4)
    else:
        assert fine.target == "prediction"
        assert fine.answer == pytest.approx(frame["prediction"].item(), abs=1e-5)


@settings(max_examples=30)
@given(st.text(max_size=60))
def test_words_stand_where_they_say(model, text):
    words = integrated_gradients(model, "sst", text, steps=1).words
    assert [text[start:end] for start, end in zip(words["start"], words["end"], strict=True)] == words["word"].tolist()
    assert (words["start"] < words["end"]).all() and (
        words["end"].iloc[:-1].to_numpy() <= words["start"].iloc[1:].to_numpy()
    ).all()


def test_a_long_pair_is_read_as_far_as_the_model_reads(model):
    long = "word " * 100
    found = integrated_gradients(model, "qqp", (long, "A short one."), steps=2)
    split = model.tokenize(QQP, [(long, "A short one.")])
    assert split.truncated == 1 and split.lengths[0] == 32
    second = found.words[found.words["text"] == 1]
    assert second["word"].tolist() == ["A", "short", "one", "."]
    assert found.words["text"].is_monotonic_increasing and abs(found.gap) < 10


def test_words_that_are_hidden_already_and_no_words_have_no_share(model):
    mask = model.tokenizer.mask_token
    assert integrated_gradients(model, "sts", ("", ""), steps=2).words.empty
    found = integrated_gradients(model, "sst", f"{mask} {mask}", steps=2)
    assert found.answer == found.hidden


def test_the_model_is_left_as_it_was(model):
    model.train()
    integrated_gradients(model, "sst", TEXTS["sst"], steps=2)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert model.tokenizer.backend_tokenizer.truncation is None
    model.eval()


@pytest.mark.parametrize(
    "task, inputs, options, message",
    [
        ("sst", ["One.", "Two."], {}, "expected one input, found 2"),
        ("sst", ("One.", "Two."), {}, "expected one input, found 2"),
        ("qqp", "One.", {}, "expected a pair"),
        ("sst", "One.", {"label": 5}, "found 5"),
        ("qqp", ("One.", "Two."), {"label": 1}, "found 1"),
        ("nli", "One.", {}, "unknown task 'nli'"),
    ],
)
def test_what_cannot_be_explained_is_refused(model, task, inputs, options, message):
    with pytest.raises(ConfigurationError, match=message):
        integrated_gradients(model, task, inputs, **options)
