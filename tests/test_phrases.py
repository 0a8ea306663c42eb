"""Phrases beside the sentences: what is read, which batches hold them, and what a run makes of them."""

import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import write_corpus

import mtlib
import mtlib.data.batches
from mtlib.data.phrases import WithPhrases, with_phrases
from mtlib.errors import ConfigurationError, DataError
from mtlib.tasks import SST
from mtlib.training.start import Start


def write_phrases(folder, rows=40, extra=()):
    """Phrases of one or two words that no sentence is."""
    texts = [*(f"phrase {row}" for row in range(rows)), *extra]
    frame = pd.DataFrame({"id": [f"p{n}" for n in range(len(texts))], "sentence": texts})
    frame["sentiment"] = np.arange(len(texts)) % 5
    frame.to_csv(folder / "ids-sst-phrases.csv", sep="\t")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_phrases(write_corpus(tmp_path_factory.mktemp("phrases") / "corpus"))


@pytest.fixture(scope="module")
def phrased(folder):
    return mtlib.load_corpus(folder)


@pytest.fixture
def split(phrased, tmp_path):
    """Training sentences and phrases, tokenized, half of the batches being of phrases."""
    joined = with_phrases(phrased)["sst"].train
    model = Start(mtlib.experiment("smoke"), phrased, mtlib.RunStore(tmp_path)).model()
    whole = mtlib.data.batches.TokenizedSplit(SST, joined, model.tokenizer, 32)
    return WithPhrases(whole, 60, 0.5)


def test_phrases_lie_below_the_sentences_and_are_told_apart(phrased):
    corpus, joined = phrased, with_phrases(phrased)
    train = joined["sst"].train
    assert len(corpus["sst"].train) == 60 and len(train) == 100
    assert train["phrase"].tolist() == [False] * 60 + [True] * 40
    assert train["text_a"].tolist()[:60] == corpus["sst"].train["text_a"].tolist() and train["id"].is_unique
    assert joined.only(["qqp", "sts"]).fingerprint == corpus.only(["qqp", "sts"]).fingerprint
    assert joined.fingerprint != corpus.fingerprint
    assert with_phrases(corpus) is joined, "read once"


def test_what_is_kept_is_neither_the_tables_nor_the_tasks_of_who_asked_first(corpus_folder):
    write_phrases(corpus_folder)
    first, second = mtlib.load_corpus(corpus_folder), mtlib.load_corpus(corpus_folder)
    with_phrases(first)
    for task in ("qqp", "sst"):
        first[task].dev.loc[0, "text_a"] = "changed in place"
    named = replace(second, tasks=tuple(replace(task, names=()) for task in second.tasks), name="other")
    for corpus in (second, named):
        joined = with_phrases(corpus)
        assert (joined.name, [task.names for task in joined.tasks]) == (corpus.name, [t.names for t in corpus.tasks])
        for _, split, frame in [each for each in joined.frames() if each[1] != "train"]:
            assert "changed in place" not in set(frame["text_a"]), split


def test_a_corpus_in_yaml_is_told_that_phrases_of_its_base_are_not_read(corpus_folder, tmp_path):
    write_phrases(corpus_folder)
    rows = pd.DataFrame({"headline": [f"headline {n}" for n in range(40)], "topic": ["news", "sport"] * 20})
    rows.to_csv(tmp_path / "news.csv", index=False)
    about = "{base: corpus, tasks: {news: {file: news.csv, text: headline, label: topic}}}"
    (tmp_path / "mine.yaml").write_text(about)
    with pytest.raises(DataError, match=r"found none: .* is no folder, and a base's phrases are not read"):
        with_phrases(mtlib.load_corpus(tmp_path / "mine.yaml"))


def test_a_share_of_the_batches_holds_phrases_and_the_sentences_keep_their_order(split):
    plain, rows = split.parts[0], [split.training_batch(position, 8, seed=3).rows for position in range(120)]
    kinds = [set(batch >= 60) for batch in rows]
    assert all(len(kind) == 1 for kind in kinds)
    assert np.mean([kind == {True} for kind in kinds]) == pytest.approx(0.5, abs=0.12)
    sentences = [batch for batch in rows if batch.max() < 60]
    expected = [plain.training_batch(position, 8, 3).rows for position in range(len(sentences))]
    assert all(np.array_equal(a, b) for a, b in zip(sentences, expected, strict=True))
    phrases = np.concatenate([batch for batch in rows if batch.min() >= 60][:5])
    assert sorted(phrases) == list(range(60, 100)), "one pass over the phrases"
    assert len(split) == 60, "samplers weigh the sentences"


def test_a_batch_is_a_function_of_its_position(split):
    late = split.training_batch(37, 8, seed=3)
    split.training_batch(2, 8, seed=3)
    again = split.training_batch(37, 8, seed=3)
    assert np.array_equal(late.rows, again.rows)
    assert np.array_equal(late.labels.numpy(), split.labels[late.rows])


def test_a_run_draws_them_and_its_identity_knows_their_content(phrased, folder, tmp_path):
    corpus = phrased
    plain = mtlib.experiment("smoke", tasks=["sst"])
    drawn = plain.but(phrases=0.5)
    before = Start(drawn, corpus, mtlib.RunStore(tmp_path)).identity
    run, without = (mtlib.fit(each, corpus, tmp_path, progress="none") for each in (drawn, plain))
    assert run.identity == before != without.identity and "phrases-0.5" in run.id
    assert run.corpus["fingerprint"] == without.corpus["fingerprint"]
    ids = [run.at(step).batch["id"].str.startswith("phrase-") for step in range(1, drawn.steps + 1)]
    assert all(each.all() or not each.any() for each in ids)
    assert {each.all() for each in ids} == {True, False}
    write_phrases(folder, rows=41)
    assert Start(drawn, corpus, mtlib.RunStore(tmp_path)).identity != before
    assert Start(plain, corpus, mtlib.RunStore(tmp_path)).identity == without.identity
    write_phrases(folder)


def test_phrases_without_the_file_are_one_clear_error(corpus_folder, tmp_path):
    for source in (corpus_folder, "sample"):
        with pytest.raises(DataError, match=r"expected a file of phrases, ids-sst-phrases.csv.*found none") as error:
            mtlib.fit(mtlib.experiment("smoke", phrases=0.5), mtlib.load_corpus(source), tmp_path, progress="none")
        assert error.value.exit_code == 65
    assert not list(tmp_path.glob("runs/*/config.json"))


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_phrase_that_is_a_dev_or_test_sentence_is_refused(corpus_folder, split):
    corpus = mtlib.load_corpus(corpus_folder)
    text = getattr(corpus["sst"], split)["text_a"].iloc[3]
    write_phrases(corpus_folder, extra=[f"  {text.upper()} "])
    with pytest.raises(DataError, match=f"no phrase that is an example of {split}, found 1 "):
        with_phrases(mtlib.load_corpus(corpus_folder))


def test_a_faulty_file_is_named_with_its_lines(corpus_folder):
    write_phrases(corpus_folder)
    path = corpus_folder / "ids-sst-phrases.csv"
    path.write_text(path.read_text() + "40\tp40\tphrase\t7\n")
    with pytest.raises(DataError, match=r"ids-sst-phrases.csv:42, column 'sentiment'"):
        with_phrases(mtlib.load_corpus(corpus_folder))


def test_a_changed_file_is_read_anew_whatever_its_size_and_age(corpus_folder):
    path = write_phrases(corpus_folder) / "ids-sst-phrases.csv"
    before, times = with_phrases(mtlib.load_corpus(corpus_folder)), path.stat()
    path.write_bytes(path.read_bytes().replace(b"phrase 7\t", b"phrase X\t"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = with_phrases(mtlib.load_corpus(corpus_folder))
    assert path.stat().st_size == times.st_size and before.fingerprint != after.fingerprint
    assert "phrase X" in set(after["sst"].train["text_a"])


def test_a_phrase_s_id_is_no_sentence_s(corpus_folder):
    path = corpus_folder / "ids-sst-train.csv"
    path.write_text(path.read_text().replace("sst-train-3\t", "phrase-p3\t"))
    write_phrases(corpus_folder)
    with pytest.raises(DataError, match="ids that, with 'phrase-' before them, are no id of train, found 'phrase-p3'"):
        with_phrases(mtlib.load_corpus(corpus_folder))


def test_a_joint_step_draws_no_phrases():
    with pytest.raises(ConfigurationError, match="phrases: a joint step"):
        mtlib.experiment("smoke", phrases=0.5, step="joint")
