"""Corpora from folders: layout, real quirks, fingerprint, leakage, rare classes, and the report of a check."""

import re
from pathlib import Path

import pandas as pd
import pytest
from conftest import made_up

import mtlib
from mtlib.data import tsv
from mtlib.data.baselines import bag_of_words, difficulty, majority
from mtlib.data.corpus import Corpus, Splits, load_corpus
from mtlib.data.report import check
from mtlib.errors import ConfigurationError, DataError
from mtlib.tasks import QQP, SST, STS, Task

NLI = Task("nli", "classification", ("premise", "hypothesis"), "verdict", "nli", classes=3)
TEXTS = {
    task: [f"{task.name} text {i} of {'many' if i % 3 else 'a few'} words" for i in range(60)]
    for task in (SST, QQP, STS, NLI)
}


def table(task, first, rows):
    """A split as pandas holds it before writing: hexadecimal ids, texts, labels of all classes."""
    frame = pd.DataFrame({"id": [f"{task.name}{i:04x}" for i in range(first, first + rows)]})
    for side, column in enumerate(task.columns):
        frame[column] = [f"{TEXTS[task][i]}{', other side' * side}" for i in range(first, first + rows)]
    classes = {"classification": task.classes, "binary": 2, "regression": 6}[task.kind]
    frame[task.label_column] = [float(i % classes) if task.is_pair else i % classes for i in range(rows)]
    return frame


def write(folder, task, split, frame, **options):
    frame.to_csv(folder / f"{task.files}-{split}.csv", sep="\t", lineterminator="\n", **options)


def make(folder, tasks=(SST, QQP, STS)):
    """A small sound corpus in the course's layout."""
    folder.mkdir(exist_ok=True)
    for task in tasks:
        write(folder, task, "train", table(task, 0, 24))
        write(folder, task, "dev", table(task, 24, 12))
        write(folder, task, "test-student", table(task, 36, 12).drop(columns=task.label_column))
    return folder


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path / "course")


def edit(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


# The layout
def test_a_folder_gives_three_tasks_with_unlabelled_tests(folder):
    corpus = load_corpus(folder)
    assert (corpus.name, corpus.title, list(corpus), len(corpus)) == (
        "course",
        "folder course",
        ["sst", "qqp", "sts"],
        3,
    )
    assert [len(frame) for _, frame in corpus["sst"].items()] == [24, 12, 12]
    assert list(corpus["qqp"].train) == ["id", "text_a", "text_b", "label"]
    assert list(corpus["qqp"].test) == ["id", "text_a", "text_b"]
    assert [str(corpus[name].train["label"].dtype) for name in corpus] == ["int64", "int64", "float64"]


def test_a_labelled_test_file_is_preferred_and_a_test_may_be_absent(folder):
    write(folder, SST, "test", table(SST, 36, 10))
    (folder / "sts-test-student.csv").unlink()
    corpus = load_corpus(folder)
    assert len(corpus["sst"].test) == 10 and "label" in corpus["sst"].test
    assert corpus["sts"].test is None


def test_a_fourth_task_needs_its_files_and_nothing_else(tmp_path):
    corpus = load_corpus(make(tmp_path / "four", (SST, NLI)), [SST, NLI])
    assert corpus["nli"].dev["label"].tolist() == [0, 1, 2] * 4
    assert corpus.tasks == (SST, NLI)


def test_tasks_can_be_named_and_must_be_known_and_different(folder):
    assert list(load_corpus(folder, ["sts"])) == ["sts"]
    for tasks in (["foo"], ["sst", SST], []):
        with pytest.raises(ConfigurationError):
            load_corpus(folder, tasks)


def test_a_missing_folder_or_file_is_named(folder):
    with pytest.raises(DataError, match="'sampel': expected 'sample', 'hub', a folder or a YAML file"):
        load_corpus("sampel")
    (folder / "quora-dev.csv").unlink()
    with pytest.raises(DataError, match="quora-dev.csv: expected this file in"):
        load_corpus(folder)


# The real data's quirks, rebuilt
@pytest.fixture
def quirky(folder):
    """Two unlabelled paraphrase rows (one lacks a sentence), a second index column, U+FFFD, quotes, shared text."""
    dev = table(QQP, 24, 12)
    dev.loc[3, "is_duplicate"] = None
    dev.loc[7, ["sentence2", "is_duplicate"]] = None
    dev.loc[9, "sentence1"] = '"Is it ""quoted"" twice?"'
    dev.index = dev.index * 37 + 290000
    write(folder, QQP, "dev", dev)
    train = table(QQP, 0, 24)
    train.loc[5, "sentence1"] = "What is a caf\ufffd?"
    write(folder, QQP, "train", train)
    student = table(SST, 36, 12).drop(columns="sentiment")
    student.insert(0, "", [float(i) for i in range(12)])
    student["sentence"] = " " + student["sentence"]
    write(folder, SST, "test-student", student, index_label="0")
    shared = table(STS, 24, 12)
    shared.loc[0, ["sentence1", "sentence2"]] = [f"{TEXTS[STS][4]}, OTHER  side", TEXTS[STS][4]]
    write(folder, STS, "dev", shared)
    return folder


def test_unlabelled_rows_are_dropped_in_one_warning_with_file_and_lines(quirky):
    with pytest.warns(UserWarning) as caught:
        corpus = load_corpus(quirky)
    dropped = "quora-dev.csv: dropped 2 unlabelled row(s), lines 5, 9"
    assert [str(warning.message) for warning in caught] == [dropped]
    assert caught[0].filename == __file__
    assert len(corpus["qqp"].dev) == 10
    assert corpus.notes == ["quora-train.csv: 1 row(s) hold U+FFFD, a character lost before this file", dropped]


@pytest.mark.filterwarnings("ignore:quora-dev.csv")
def test_quirky_texts_arrive_as_they_are(quirky):
    corpus = load_corpus(quirky)
    assert '"Is it ""quoted"" twice?"' in corpus["qqp"].dev["text_a"].tolist()
    assert corpus["sst"].test["text_a"].iloc[0] == f" {TEXTS[SST][36]}"


@pytest.mark.filterwarnings("ignore:quora-dev.csv")
def test_leakage_is_counted_and_strictness_makes_it_an_error(quirky):
    leakage = load_corpus(quirky).leakage().set_index(["task", "split"])
    assert leakage.loc[("sts", "dev"), ["rows", "share", "texts"]].tolist() == [1, 1 / 12, 1]
    assert leakage["rows"].sum() == 1
    with pytest.raises(DataError, match=r"sts dev: expected no example that is also in train, found 1 \(ids sts0018\)"):
        load_corpus(quirky, strict_leakage=True)


def test_without_leakage_strictness_passes(folder):
    assert load_corpus(folder, strict_leakage=True).leakage()["rows"].sum() == 0


# Rare classes
def test_a_class_with_one_example_is_an_error_unless_allowed(folder):
    write(folder, SST, "train", table(SST, 0, 6).assign(sentiment=[0, 0, 1, 1, 2, 2]))
    with pytest.raises(DataError, match="class 3 .*found 0"):
        load_corpus(folder)
    write(folder, SST, "train", table(SST, 0, 24).assign(sentiment=[4, *[0, 1, 2, 3] * 5, 0, 1, 2]))
    with pytest.raises(
        DataError, match=r"sst train, column 'sentiment': expected 2 or more examples of class 4 .*, found 1"
    ):
        load_corpus(folder)
    assert len(load_corpus(folder, allow_rare=True)["sst"].train) == 24


# Empty texts
def test_the_policy_for_empty_texts_reaches_the_reader(folder):
    edit(folder / "sts-dev.csv", TEXTS[STS][25].encode() + b"\t", b"\t")
    with pytest.raises(DataError, match="sts-dev.csv:3, column 'sentence1': expected a text, found nothing"):
        load_corpus(folder)
    assert len(load_corpus(folder, empty="keep")["sts"].dev) == 12
    with pytest.warns(UserWarning, match=r"sts-dev.csv: dropped 1 row\(s\) with an empty text, line 3"):
        assert len(load_corpus(folder, empty="drop")["sts"].dev) == 11


# The fingerprint
@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"\xef\xbb\xbf" + content,
        lambda content: content.replace(b"\n", b"\r\n"),
        lambda content: re.sub(rb"(?m)^\d*\t", b"", content),
        lambda content: re.sub(rb"(?m)^(\d*)\t", rb"\1\t\1\t", content),
        lambda content: content.replace(b".0\n", b"\n"),
    ],
    ids=["byte order mark", "CRLF", "no index column", "two index columns", "labels without a decimal point"],
)
def test_the_fingerprint_is_that_of_the_content(folder, change):
    fingerprint = load_corpus(folder).fingerprint
    for path in folder.iterdir():
        path.write_bytes(change(path.read_bytes()))
    assert load_corpus(folder).fingerprint == fingerprint
    assert re.fullmatch("[0-9a-f]{64}", fingerprint)


@pytest.mark.parametrize("old, new", [(b"text 30 ", b"text 3O "), (b"qqp0019", b"qqp9999"), (b"\t0.0\n", b"\t1.0\n")])
def test_any_change_of_the_content_changes_the_fingerprint(folder, old, new):
    fingerprint = load_corpus(folder).fingerprint
    edit(folder / "quora-dev.csv", old, new)
    assert load_corpus(folder).fingerprint != fingerprint


def test_texts_that_only_look_alike_when_written_down_are_different_content():
    """Backslash, r, line feed and backslash, n are no two ways to write a line end."""
    prints = set()
    for text in ("\\r\n", "\\n", "\r\n", "\n"):
        frame = pd.DataFrame({"id": ["a"], "text_a": [f"x{text}y"], "label": [1]})
        prints.add(Corpus("own", (SST,), {"sst": Splits(frame, frame)}).fingerprint)
    assert len(prints) == 3


@pytest.mark.parametrize("name", ["sample", "hub"])
def test_a_folder_is_a_folder_whatever_it_is_called(tmp_path, monkeypatch, name):
    make(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for source in (Path(name), f"./{name}", tmp_path / name):
        corpus = load_corpus(source)
        assert (corpus.name, corpus.title, corpus.kind, len(corpus["sst"].train)) == (name, f"folder {name}", "own", 24)
        assert "ceiling" not in difficulty(corpus)
    assert load_corpus("sample").kind == "sample" and load_corpus("sample").title == "sample (synthetic)"


@pytest.mark.parametrize("missing", ["*-test-student.csv", "sts-test-student.csv", "ids-sst-test-student.csv"])
def test_a_run_needs_no_test_files(folder, tmp_path, missing):
    for path in folder.glob(missing):
        path.unlink()
    corpus = load_corpus(folder, allow_rare=True)
    run = mtlib.fit(
        mtlib.experiment("smoke", epochs=1, steps_per_epoch=3), corpus, tmp_path / "results", progress="none"
    )
    there = [task for task in corpus if corpus[task].test is not None]
    assert run.complete and len(there) == {"*": 0}.get(missing[0], 2)
    assert sorted(path.stem for path in (run.path / "predictions").glob("test-*")) == sorted(f"test-{t}" for t in there)
    assert corpus.leakage()["task"].tolist() == [t for t in corpus for _ in range(1 + (t in there))]


@pytest.mark.parametrize("change", [{"text_a": "..."}, {"label": 1}, {"text_a": "?", "text_b": "!"}])
def test_baselines_of_a_corpus_with_nothing_to_learn_are_those_of_a_constant(change):
    train, test = made_up(QQP, "train", 20).assign(**change), made_up(QQP, "dev", 20)
    bags = bag_of_words(QQP, train, test)
    assert bags == majority(QQP, train, test) if "text_b" in change or "label" in change else 0 <= bags <= 1


def test_the_difficulty_of_a_split_without_labels_is_refused(folder):
    corpus = load_corpus(folder)
    with pytest.raises(DataError, match="expected labels in the test split of sst, found none"):
        difficulty(corpus, "test")


@pytest.mark.parametrize("source", ["", "\0", "x" * 5000, "nowhere/at/all", "\n"])
def test_what_is_no_folder_is_one_clear_error(source):
    with pytest.raises(DataError, match="expected"):
        load_corpus(source)


def test_the_order_of_rows_belongs_to_the_content(folder):
    fingerprint = load_corpus(folder).fingerprint
    write(folder, SST, "train", table(SST, 0, 24).iloc[::-1])
    assert load_corpus(folder).fingerprint != fingerprint


# Tables
def test_summary_and_balance_count_the_labels(folder):
    corpus = load_corpus(folder)
    summary = corpus.summary().set_index(["task", "split"])
    assert summary.loc[("sst", "train"), "rows"] == 24
    assert summary.loc[("qqp", "dev"), "labels"] == "0: 50.0%, 1: 50.0%"
    assert summary.loc[("sts", "test"), "labels"] == "none"
    assert summary.loc[("sts", "dev"), "labels"] == "mean 2.50, sd 1.78"
    balance = corpus.balance()
    assert balance.groupby(["task", "split"])["share"].sum().round(9).eq(1).all()
    assert set(balance["split"]) == {"train", "dev"}


class Letters:
    """A tokenizer of letters, three special tokens for a pair and two for a text."""

    def __call__(self, *texts, **options):
        return {"input_ids": [list("".join(row)) + ["special"] * (len(row) + 1) for row in zip(*texts, strict=True)]}


def test_lengths_are_words_or_tokens_and_count_what_will_be_cut(folder):
    edit(folder / "ids-sst-dev.csv", TEXTS[SST][24].encode(), b"word " * 10_000)
    corpus = load_corpus(folder)
    lengths = corpus.lengths().set_index(["task", "split"])
    assert lengths.loc[("sst", "dev"), ["longest", "truncated"]].tolist() == [10_000, 1]
    assert lengths["truncated"].sum() == 1
    lengths = corpus.lengths(Letters(), max_tokens=60_000).set_index(["task", "split"])
    assert lengths.loc[("sst", "dev"), "longest"] == 50_002
    pair = corpus["sts"].test.iloc[0]
    assert lengths.loc[("sts", "test"), "longest"] >= len(pair["text_a"] + pair["text_b"]) + 3
    assert set(lengths["unit"]) == {"tokens"}


# The check
def test_a_check_of_a_sound_folder_has_no_faults(folder):
    report = check(folder, tokenizer=Letters())
    assert report.faults == () and report.exit_code == 0
    for text in ("course", "0: 50.0%, 1: 50.0%", "tokens", "shared with train", "faults: 0"):
        assert text in str(report)


def test_a_check_lists_every_fault_of_every_file_and_still_counts_the_rest(quirky):
    edit(quirky / "ids-sst-train.csv", b"\t3\n", b"\t7\n")
    edit(quirky / "sts-train.csv", b"text 2 ", b"te\xff 2 ")
    (quirky / "sts-dev.csv").unlink()
    edit(quirky / "quora-train.csv", b"is_duplicate", b"duplicate")
    report = check(quirky)
    printed = str(report)
    assert report.exit_code == 65
    assert [fault.file for fault in report.faults] == [
        "ids-sst-train.csv",
        "quora-train.csv",
        "sts-train.csv",
        "sts-dev.csv",
    ]
    assert all(str(fault) in printed for fault in report.faults)
    assert "dropped 2 unlabelled row(s), lines 5, 9" in printed
    assert report.summary.set_index(["task", "split"]).loc[("sst", "train"), "rows"] == 23


def test_a_check_reports_rare_classes(folder):
    write(folder, SST, "train", table(SST, 0, 5))
    assert [str(fault).split(",")[0] for fault in check(folder).faults] == ["sst train"] * 5


def test_many_faults_give_a_short_message_and_a_full_list(folder):
    write(folder, SST, "train", table(SST, 0, 24).assign(sentiment="x"))
    with pytest.raises(DataError) as caught:
        load_corpus(folder)
    assert len(caught.value.faults) == 24
    assert str(caught.value).endswith("... and 14 more faults") and tsv.SHOWN == 10


def test_a_corpus_is_a_mapping():
    corpus = Corpus("empty", (), {})
    assert dict(corpus) == {} and "sst" not in corpus
