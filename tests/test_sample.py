"""The generated corpus: deterministic, free of leakage, learnable, and beyond a bag of words."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel, AutoTokenizer

from mtlib.data import sample
from mtlib.data.baselines import bag_of_words, difficulty, majority
from mtlib.data.corpus import load_corpus
from mtlib.data.leakage import keys
from mtlib.data.lexicon import sentiment
from mtlib.errors import ConfigurationError
from mtlib.packaged import minilm_folder
from mtlib.tasks import QQP, SST, STS, Task

FINGERPRINT = "793954e9367f197668483c46747001415cf8d41c462f87479142a84a01c42276"


@pytest.fixture(scope="module")
def corpus():
    return load_corpus("sample")


def test_sizes_and_label_ranges(corpus):
    assert {task: [len(frame) for _, frame in corpus[task].items()] for task in corpus} == {
        "sst": [1200, 400, 400],
        "qqp": [6000, 400, 400],
        "sts": [900, 400, 400],
    }
    for task, _, frame in corpus.frames():
        assert frame["label"].between(0, {"sst": 4, "qqp": 1, "sts": 5}[task.name]).all()
        assert set(frame["label"].round()) >= set(range({"sst": 5, "qqp": 2, "sts": 6}[task.name]))


def test_it_is_called_synthetic(corpus):
    assert corpus.name == "sample" and corpus.title == "sample (synthetic)"


def test_it_is_a_pure_function_of_the_seed(corpus):
    again = sample.generate.__wrapped__("sst")
    pd.testing.assert_frame_equal(again["train"].drop(columns="clean"), corpus["sst"].train)
    assert sample.generate.__wrapped__("sst", seed=1)["dev"]["text_a"].tolist() != again["dev"]["text_a"].tolist()


def test_it_is_the_same_on_every_machine(corpus):
    assert corpus.fingerprint == FINGERPRINT


def test_no_text_occurs_twice_within_or_across_splits(corpus):
    for task in corpus:
        seen = [key for _, frame in corpus[task].items() for key in keys(frame)]
        assert len(seen) == len(set(seen))
    assert corpus.leakage()["rows"].sum() == 0


def test_held_out_words_never_occur_in_training_and_do_in_dev(corpus):
    train, dev = (" ".join(frame["text_a"]).casefold() for frame in (corpus["sst"].train, corpus["sst"].dev))
    for words in sentiment.ADJECTIVES.values():
        held_out = set(words.every) - set(words.seen)
        assert not [word for word in held_out if word in train]
        assert [word for word in held_out if word in dev]


def test_sentences_have_no_open_slot_and_end_in_a_stop(corpus):
    for _, _, frame in corpus.frames():
        for name in ("text_a", "text_b"):
            for text in frame.get(name, ()):
                assert text[0].isupper() and text[-1] in ".?" and not set("{}|/") & set(text) and "  " not in text


def test_labels_before_noise_are_as_balanced_as_planned():
    train = sample.generate("sst")["train"]["clean"].value_counts(normalize=True).sort_index()
    assert train.to_numpy() == pytest.approx(sample.BALANCE, abs=0.005)
    assert sample.generate("qqp")["dev"]["clean"].mean() == pytest.approx(sample.DUPLICATES, abs=0.005)


def test_noise_keeps_a_perfect_model_visibly_below_one():
    for split in ("dev", "test"):
        ceiling = sample.ceiling(split)
        assert 0.84 < ceiling["sst"] < 0.93
        assert 0.91 < ceiling["qqp"] < 0.97
        assert 0.95 < ceiling["sts"] < 0.985


def test_noise_moves_sentiment_to_neighbours_only():
    table = pd.concat(sample.generate("sst").values())
    moved = (table["label"] - table["clean"]).abs()
    assert moved.max() == 1
    assert np.mean(moved) == pytest.approx(sample.NOISE["sst"], abs=3 * np.sqrt(0.12 * 0.88 / len(table)))


def test_a_bag_of_words_stays_far_below_the_ceiling_and_above_nothing(corpus):
    table = difficulty(corpus).set_index("task")
    ceiling = sample.ceiling()
    assert (table["bag_of_words"] > table["majority"] - 0.02).all()
    assert table["ceiling"].to_dict() == ceiling
    for task, margin in {"sst": 0.3, "qqp": 0.2, "sts": 0.1}.items():
        assert table.loc[task, "bag_of_words"] < ceiling[task] - margin


def embeddings(texts):
    """Mean-pooled MiniLM embeddings of unit length, [texts, 384]."""
    folder = minilm_folder()
    encoder, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(texts), 100):
            batch = tokenizer(texts[start : start + 100], padding=True, return_tensors="pt")
            hidden, mask = encoder(**batch).last_hidden_state, batch["attention_mask"][..., None]
            parts.append(torch.nn.functional.normalize((hidden * mask).sum(1), dim=1))
    return torch.cat(parts).numpy()


def test_a_pretrained_encoder_passes_the_bag_of_words_without_any_finetuning(corpus):
    """Logistic regression on frozen embeddings of two thirds of the training reviews."""
    train, dev = corpus["sst"].train.head(800), corpus["sst"].dev
    inputs = embeddings([*train["text_a"], *dev["text_a"]])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=1000))
    model.fit(inputs[: len(train)], train["label"])
    score = SST.score(dev["label"], model.predict(inputs[len(train) :]))
    assert score > bag_of_words(SST, corpus["sst"].train, dev) + 0.04


def test_role_swaps_have_the_same_words_in_another_order_and_are_no_duplicates():
    table = sample.generate("qqp")["train"]
    bags = table[["text_a", "text_b"]].map(lambda text: "".join(sorted(text.casefold())))
    alike = table[bags["text_a"] == bags["text_b"]]
    assert len(alike) > 40
    assert alike["clean"].sum() == 0


def test_unknown_tasks_are_refused():
    with pytest.raises(ConfigurationError, match="has the tasks sst, qqp, sts, not nli"):
        load_corpus("sample", [Task("nli", "classification", ("a", "b"), "label", classes=3)])


def test_a_part_of_the_tasks_can_be_had():
    assert list(load_corpus("sample", ["sts", SST])) == ["sts", "sst"]


# Baselines, on tables with known answers
def test_the_majority_baseline_counts_the_most_frequent_training_class():
    train = pd.DataFrame({"text_a": list("abc"), "label": [4, 4, 0]})
    test = pd.DataFrame({"text_a": list("abcd"), "label": [4, 0, 0, 1]})
    assert majority(SST, train, test) == 0.25
    assert majority(STS, train, test) == 0.5


def test_the_bag_of_words_learns_what_words_say_and_nothing_of_their_order():
    train = pd.DataFrame({"text_a": ["good film", "bad film"] * 20, "label": [3, 1] * 20})
    assert bag_of_words(SST, train, train) == 1.0
    swapped = pd.DataFrame({"text_a": ["a bites b"] * 40, "text_b": ["a bites b", "b bites a"] * 20})
    assert bag_of_words(QQP, swapped.assign(label=[1, 0] * 20), swapped.assign(label=[1, 0] * 20)) == 0.5
