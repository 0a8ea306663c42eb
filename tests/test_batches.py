"""Batches: every example once a pass, little padding, and the same batch for the same step."""

import copy

import numpy as np
import pytest
import torch
from conftest import made_up
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlib.data import batches
from mtlib.data.batches import PAD_TO, POOL, TokenizedSplit, shuffled_batches
from mtlib.encoders import find_encoder
from mtlib.randomness import generator
from mtlib.tasks import QQP, SST


@pytest.fixture(scope="module")
def tokenizer():
    return find_encoder("tiny").load()[1]


@pytest.fixture(scope="module")
def split(tokenizer):
    return TokenizedSplit(QQP, made_up(QQP, "train", 100), tokenizer, 64)


@settings(max_examples=60)
@given(st.lists(st.integers(1, 128), min_size=1, max_size=400), st.integers(1, 17), st.integers(0, 9))
def test_a_pass_has_every_row_once(lengths, batch_size, number):
    batches = shuffled_batches(np.array(lengths), batch_size, generator(0, "order", number))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert sum(len(batch) < batch_size for batch in batches) <= 1


def test_buckets_save_most_of_the_padding():
    lengths = generator(0, "lengths").integers(5, 100, size=16 * POOL * 4)
    bucketed = shuffled_batches(lengths, 16, generator(0, "order", 0))
    shuffled = np.array_split(generator(0, "plain").permutation(len(lengths)), len(lengths) // 16)

    def waste(batches):
        return 1 - lengths.sum() / sum(lengths[batch].max() * len(batch) for batch in batches)

    assert waste(bucketed) < 0.03 < 0.3 < waste(shuffled)


def test_batches_are_a_function_of_seed_and_position(split):
    asked = [0, 13, 14, 3, 27, 0]
    first = [split.training_batch(position, 8, seed=5).rows.tolist() for position in asked]
    again = [split.training_batch(position, 8, seed=5).rows.tolist() for position in reversed(asked)]
    assert first == again[::-1]
    assert first[0] != split.training_batch(0, 8, seed=6).rows.tolist()


def test_every_pass_is_shuffled_anew(split):
    passes = [np.concatenate([split.training_batch(i + 13 * p, 8, 0).rows for i in range(13)]) for p in range(2)]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(100))
    assert (passes[0] != passes[1]).any()


def test_a_batch_is_the_tokenizers_own(split, tokenizer):
    frame = made_up(QQP, "train", 100)
    batch = split.batch([3, 50, 7])
    theirs = tokenizer(
        frame["text_a"].iloc[[3, 50, 7]].tolist(),
        frame["text_b"].iloc[[3, 50, 7]].tolist(),
        padding=True,
        pad_to_multiple_of=PAD_TO,
        return_tensors="pt",
    )
    assert set(batch.inputs) == set(theirs)
    for name, tensor in batch.inputs.items():
        torch.testing.assert_close(tensor, theirs[name])
    assert batch.labels.tolist() == frame["label"].iloc[[3, 50, 7]].tolist()


def test_evaluation_covers_everything_longest_first(split):
    batches = list(split.evaluation_batches(tokens=256))
    assert sorted(np.concatenate([batch.rows for batch in batches])) == list(range(100))
    widths = [batch.inputs["input_ids"].shape[1] for batch in batches]
    assert widths == sorted(widths, reverse=True)
    assert all(batch.inputs["input_ids"].numel() <= 256 for batch in batches)


def test_a_very_long_sentence_is_cut_and_counted(tokenizer):
    frame = made_up(SST, "train", 4)
    frame.loc[2, "text_a"] = "word " * 10_000
    split = TokenizedSplit(SST, frame, tokenizer, 64)
    assert split.truncated == 1
    assert split.lengths[2] == 64
    assert split.batch([2]).inputs["input_ids"][0, -1] == tokenizer.sep_token_id


def test_an_example_of_exactly_the_limit_is_not_counted_as_cut(tokenizer):
    frame = made_up(SST, "train", 2)
    frame.loc[0, "text_a"] = " ".join(["cat"] * 62)
    split = TokenizedSplit(SST, frame, tokenizer, 64)
    assert split.lengths[0] == 64
    assert split.truncated == 0


def test_tokens_do_not_depend_on_how_many_are_tokenized_at_a_time(tokenizer, monkeypatch):
    frame = made_up(QQP, "train", 50)
    frame.loc[[3, 31], "text_a"] = "word " * 200
    texts = [frame["text_a"].tolist(), frame["text_b"].tolist()]
    whole = batches._tokenized(tokenizer, texts, 64)
    monkeypatch.setattr(batches, "CHUNK", 7)
    parts = batches._tokenized(tokenizer, texts, 64)
    assert whole.truncated == parts.truncated == 2
    for name, column in whole.columns.items():
        np.testing.assert_array_equal(parts.columns[name], column)
    np.testing.assert_array_equal(parts.starts, whole.starts)
    np.testing.assert_array_equal(whole.starts[1:], np.cumsum(whole.lengths)[:-1])


def test_the_same_texts_are_tokenized_once(tokenizer, monkeypatch):
    frame = made_up(QQP, "train", 30)
    first = TokenizedSplit(QQP, frame, tokenizer, 60)
    tokenized, calls = batches._tokenized, []

    def counted(*arguments):
        calls.append(arguments)
        return tokenized(*arguments)

    monkeypatch.setattr(batches, "_tokenized", counted)
    again = TokenizedSplit(QQP, frame.copy(), tokenizer, 60)
    assert not calls and again.columns["input_ids"] is first.columns["input_ids"]
    stored = tokenizer.backend_tokenizer.to_str()
    TokenizedSplit(QQP, frame, tokenizer, 59)
    frame.loc[4, "text_b"] += "s"
    TokenizedSplit(QQP, frame, tokenizer, 60)
    assert len(calls) == 2
    assert tokenizer.backend_tokenizer.to_str() == stored, "a model stored now has the tokenizer of one stored before"
    for _ in range(batches.KEPT + 3):
        frame.loc[4, "text_b"] += "s"
        TokenizedSplit(QQP, frame, tokenizer, 60)
    assert len(batches._kept) == batches.KEPT


def test_tokens_are_kept_by_which_inputs_the_tokenizer_gives_and_where_a_text_ends(tokenizer):
    without, left = copy.deepcopy(tokenizer), copy.deepcopy(tokenizer)
    without.model_input_names = ["input_ids", "attention_mask"]
    left.truncation_side = "left"
    pair = [["red cat"], ["an old dog that sleeps"]]
    assert set(batches.tokenize(without, pair, 8).columns) == {"input_ids"}
    assert set(batches.tokenize(tokenizer, pair, 8).columns) == {"input_ids", "token_type_ids"}
    cut = [batches.tokenize(each, pair, 6).columns["input_ids"].tolist() for each in (left, tokenizer)]
    assert cut[0] != cut[1]
    split = (["a\x1fb c", "d"], ["a", "b c\x1fd"])
    assert len({str(batches.tokenize(tokenizer, [texts], 8).lengths) for texts in split}) == 2


def test_a_part_has_the_same_examples(split):
    part = split.part(np.array([9, 2, 30]))
    for name, tensor in part.batch([2, 0]).inputs.items():
        torch.testing.assert_close(tensor, split.batch([30, 9]).inputs[name])
