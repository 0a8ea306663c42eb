"""A task of one's own: what is read of an ordinary CSV file, what is made of it, and what is refused."""

import dataclasses
import io
import os
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import made_up_corpus, write_corpus
from hypothesis import given
from hypothesis import strategies as st
from test_cli import invoke

import mtlib
from mtlib.data.frames import complete, corpus_of_frames, own_task
from mtlib.data.leakage import normalise
from mtlib.data.plain import SEPARATORS, parse_plain, read_plain
from mtlib.data.report import check
from mtlib.data.tsv import unfit_id
from mtlib.errors import ConfigurationError, DataError, StorageError
from mtlib.tasks import TASKS, Task
from mtlib.training.runs import RunStore
from mtlib.training.start import Start

pytestmark = pytest.mark.usefixtures("forgotten")

TOPICS = ["sport", "science", "money"]


def table(rows: int = 90) -> pd.DataFrame:
    """Headlines, every third of a topic."""
    texts = [f'{TOPICS[n % 3]}, and "news" of the {n}. day' for n in range(rows)]
    return pd.DataFrame({"headline": texts, "topic": [TOPICS[n % 3] for n in range(rows)]})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with news.csv."""
    monkeypatch.chdir(tmp_path)
    table().to_csv("news.csv", index=False)
    return tmp_path


CELLS = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters='\n\t"'), min_size=1, max_size=12)


@given(
    st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=3, max_size=20), st.sampled_from(list(SEPARATORS)), st.booleans()
)
def test_what_pandas_writes_is_read_back_whatever_its_separator(rows, separator, with_index):
    written = pd.DataFrame(rows, columns=["one", "two", "three"], dtype="str")
    buffer = io.StringIO()
    written.to_csv(buffer, index=with_index, sep=SEPARATORS[separator])
    plain = parse_plain(buffer.getvalue().encode(), "x.csv", separator)
    assert plain.frame.to_numpy().tolist() == written.to_numpy().tolist()
    assert parse_plain(b"\xef\xbb\xbf" + buffer.getvalue().encode(), "x.csv", separator).frame.equals(plain.frame)


@pytest.mark.parametrize("separator", SEPARATORS)
def test_the_separator_is_found_among_texts_with_the_others_in_them(separator):
    texts = ["a, b; c", "d | e", "f, g", "no\tsign", "h; i; j"]
    written = pd.DataFrame({"text": texts, "label": list("xyxyx")}).to_csv(index=False, sep=SEPARATORS[separator])
    assert parse_plain(written.encode(), "x.csv").separator == separator
    assert parse_plain(b"text\nalone\nand more", "x.csv").frame["text"].tolist() == ["alone", "and more"]


@pytest.mark.parametrize("content, message", [
    (b"", "x.csv:1: expected a header"),
    (b"\n", "expected a header"),
    (b"text,label\n", "expected rows below the header, found none"),
    (b"text,text\na,b\n", "a different name for every column"),
    (b"text,label\na,b\nc\nd,e\n", "x.csv:3: expected 2 fields, separated by a comma, as in the header, found 1"),
    (b"text,label\na,b\n\nd,e\n", "x.csv:3: .*a blank line"),
    (b'text,label\n"a,b\nc,d\n', "x.csv:2: expected fields in quotes"),
    (b'text,label\na,pos\n"b,pos\nc",neg\n', "x.csv:3: .*runs on, though line 3 looks like a row"),
    (b'label,text\npos,a\npos,"b\nneg,c"\nneg,d\n', "x.csv:3: .*runs on, though line 4 looks like a row"),
    (b'id,text,label\n1,a,pos\n2,"b,neg\n3,c,pos\n4,d",neg\n', "x.csv:3: .*runs on, though line 4 looks"),
    (b'text,label\na,b\n"c"x,d\ne,f\n', "x.csv:3: expected fields in quotes"),
    (b"text,label\na\xff,b\n", "x.csv:2: expected text in UTF-8, found byte 0xff at offset 12"),
    (b"text,label\na,b\nc\0,d\n", "x.csv:3: .*NUL byte at offset 16"),
])  # fmt: skip
def test_what_is_no_table_is_named_by_line(content, message):
    with pytest.raises(DataError, match=message):
        parse_plain(content, "x.csv")


@pytest.mark.parametrize("content, several", [
    (b'text,label\na,pos\n"Hello, dear\nworld",pos\n"one,\ntwo, three\nfour",neg', 2),
    (b'label,text\npos,a\npos,"Hello, dear\r\nworld, again"\r\nneg,c\r\n', 1),
    (b'text,label\na,pos\n"He said ""no"",\rthen ""yes""\n",pos\n', 1),
])  # fmt: skip
def test_texts_of_several_lines_are_read(content, several):
    assert sum("\n" in text for text in parse_plain(content, "x.csv").frame["text"]) == several


def scored(separator, first, last, rows=60):
    """A file of different texts with different scores, whose 10th and 14th row begin so."""
    lines = [f"text number {n}{separator}{n * 0.0713:.4f}" for n in range(1, rows + 1)]
    lines[9], lines[13] = f"{first}{separator}3.8471", f"{last}{separator}1.5312"
    return "\n".join([f"text{separator}score", *lines, ""]).encode()


@pytest.mark.parametrize("separator", ["\t", ",", ";"])
def test_a_quote_left_open_is_found_where_every_text_and_score_is_another(separator):
    with pytest.raises(DataError) as caught:
        parse_plain(scored(separator, '"Quoted start', 'and one with a quote"'), "x.csv")
    expected = (
        "expected a quote that ends where its field does, found one that runs on, though line 11 looks like a row"
    )
    assert str(caught.value) == f"x.csv:11: {expected} of its own"
    assert len(parse_plain(scored(separator, '"Quoted start"', '"and one"'), "x.csv").frame) == 60


@pytest.mark.parametrize("content, message", [
    (b'id,label,text\n1,pos,a b\n2,pos,"c d\n3,neg,e f"\n4,neg,g h\n', "x.csv:3: .*line 4 looks"),
    (b'text,label,place\na,pos,x\n"b,neg,y\nc,pos,z\nd",neg,w\n', "x.csv:3: .*line 4 looks"),
])  # fmt: skip
def test_a_quote_left_open_is_found_by_any_column(content, message):
    with pytest.raises(DataError, match=message):
        parse_plain(content, "x.csv")


@pytest.mark.parametrize("texts", [
    ["It cost 1,000\ndollars, then 3,5"],
    ["Dear all,\nI met her on May 5, 1999\nand again in 2003,\nyours"],
    ["Prices:\napples,3\npears,4\nthat is all"],
    ["a\tb\nc\td", "x\t\n\ty"],
])  # fmt: skip
@pytest.mark.parametrize("separator", [",", "\t"])
def test_texts_of_several_lines_with_numbers_in_them_are_read_beside_scores(texts, separator):
    all_texts = [*(f"text {n}." for n in range(40)), *texts]
    frame = pd.DataFrame({"text": all_texts, "score": [f"{n / 7 % 5:.4f}" for n in range(len(all_texts))]})
    frame.loc[0, "score"] = ""
    plain = parse_plain(frame.to_csv(index=False, sep=separator).encode(), "x.csv")
    assert plain.frame["text"].tolist() == all_texts


def test_a_file_that_is_not_there_or_a_separator_that_is_none(tmp_path):
    with pytest.raises(StorageError, match="nothing.csv: cannot be read"):
        read_plain(tmp_path / "nothing.csv")
    with pytest.raises(ConfigurationError, match="expected one of comma, tab, semicolon, bar"):
        parse_plain(b"a,b", "x.csv", "dot")


@pytest.mark.parametrize("labels, kind, names", [
    (["no", "yes", "no"], "binary", ("no", "yes")),
    (["b", "c", "a"], "classification", ("a", "b", "c")),
    (["10", "9", "1"], "classification", ("1", "9", "10")),
    ([1.0, 0.0, None], "binary", ("0", "1")),
    ([True, False, True], "binary", ("False", "True")),
    (["0.5", "3", "4.75"], "regression", ()),
    (list(range(30)), "regression", ()),
])  # fmt: skip
def test_the_kind_and_the_names_follow_from_the_labels(labels, kind, names):
    task = own_task("own", pd.DataFrame({"a": "x", "b": labels}), "a", "b")
    assert (task.kind, task.names) == (kind, names) and TASKS["own"] is task
    if kind == "regression":
        assert (task.low, task.high) == (min(map(float, labels)), max(map(float, labels)))


def test_the_kind_and_the_order_of_the_names_can_be_said():
    frame = pd.DataFrame({"a": "x", "b": ["low", "high", "low"]})
    task = own_task("own", frame, "a", "b", names=["low", "high"], kind="classification", licence="CC0")
    assert task.names == ("low", "high") and task.classes == 2 and task.licence == "CC0"
    corpus = corpus_of_frames("own", {task: pd.concat([frame] * 20).assign(a=[f"x {n}" for n in range(60)])})
    assert sorted(set(corpus["own"].train["label"])) == [0, 1]


def test_labels_that_are_one_number_are_in_one_order_however_they_were_met():
    labels = ["0" * n + "1" for n in range(8)] + ["9007199254740992", "9007199254740993"]
    for met in (labels, labels[::-1]):
        assert own_task("codes", pd.DataFrame({"a": "x", "b": met}), "a", "b").names == (
            *sorted(labels[:8]),
            *labels[8:],
        )


def test_half_a_surrogate_is_a_fault_of_its_row():
    frame = table().astype(object)
    task = own_task("news", frame, "headline", "topic")
    frame.loc[4, "headline"] = "torn \ud83d"
    with pytest.raises(DataError) as caught:
        corpus_of_frames("own", {task: frame})
    assert str(caught.value) == "news:5, column 'headline': expected UTF-8, found 'torn \\ud83d'"
    frame = table().astype(object)
    frame.loc[[4, 6], "topic"] = "\ud800"
    with pytest.raises(DataError) as caught:
        corpus_of_frames("own", {task: frame})
    assert "news:5, column 'topic'" in str(caught.value) and str(caught.value).encode()
    with pytest.raises(DataError) as caught:
        own_task("news", frame, "headline", "topic")
    expected = "column 'topic': expected UTF-8, found '\\ud800'"
    assert str(caught.value).split("\n") == [f"news:5, {expected}", f"news:7, {expected}"]
    with pytest.raises(ConfigurationError, match="names: expected UTF-8"):
        own_task("torn", table(), "headline", "topic", names=["a", "\ud800"])


@pytest.mark.parametrize("labels, message", [
    (["a", "a"], "2 to 200 different labels in 'b', found 1"),
    ([f"text {n}" for n in range(300)], "found 300: 'text 0', .* and 292 more"),
    ([None, ""], "found 0"),
])  # fmt: skip
def test_labels_that_make_no_task_are_refused(labels, message):
    with pytest.raises(ConfigurationError, match=message):
        own_task("own", pd.DataFrame({"a": "x", "b": labels}), "a", "b")
    with pytest.raises(ConfigurationError, match="no column 'c': there are a, b"):
        own_task("own", pd.DataFrame({"a": "x", "b": labels}), "c", "b")


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=30, max_size=120), st.integers(0, 5), st.randoms())
def test_splits_share_no_text_keep_every_row_and_the_shares_of_labels(labels, seed, random):
    task = Task("own", "classification", ("t",), "l", classes=3)
    texts = [f"Text  {n}" if n % 5 else f"text {n + 1}" for n in range(len(labels))]  # some are equal but for case
    frame = pd.DataFrame(
        {"id": [str(n) for n in range(len(labels))], "text_a": texts, "label": [ord(x) - 97 for x in labels]}
    )
    parts = dict(complete(task, {"train": frame}, seed).items())
    ids = [name for part in parts.values() for name in part["id"]]
    assert sorted(ids) == sorted(frame["id"])
    seen = [{normalise(text) for text in part["text_a"]} for part in parts.values()]
    assert sum(map(len, seen)) == len(set().union(*seen)), "a text in two splits"
    for label, count in frame["label"].value_counts().items():
        if count >= 20:
            for part, share in (("dev", 0.1), ("test", 0.1)):
                together = parts[part]["text_a"].map(normalise).duplicated(keep=False).sum()  # a row brings its equals
                apart = share * frame["text_a"].map(normalise).duplicated().sum()  # and texts are shared out, not rows
                assert abs((parts[part]["label"] == label).sum() - share * count) <= 1 + together + apart
    shuffled = frame.sample(frac=1, random_state=random.randint(0, 99))
    again = dict(complete(task, {"train": shuffled}, seed).items())
    assert {part: set(rows["id"]) for part, rows in again.items()} == {p: set(r["id"]) for p, r in parts.items()}


@pytest.mark.parametrize("kind, labels", [("classification", [0, 1, 2, 1]), ("regression", [0.0, 2.5, 5.0, 2.5])])
def test_splits_do_not_depend_on_which_of_two_labels_of_a_text_comes_first(kind, labels):
    task = Task("own", kind, ("t",), "l", classes=3) if kind == "classification" else Task("own", kind, ("t",), "l")
    texts = [f"text {n // 2}" for n in range(120)]
    frame = pd.DataFrame({"id": [f"{n}" for n in range(120)], "text_a": texts, "label": labels * 30})
    for seed in range(5):
        orders = [dict(complete(task, {"train": rows}, seed).items()) for rows in (frame, frame[::-1])]
        first, second = ({part: set(rows["id"]) for part, rows in parts.items()} for parts in orders)
        assert first == second


def test_another_seed_splits_otherwise_and_more_rows_move_few():
    task = Task("own", "regression", ("t",), "l", high=100.0)

    def dev(rows, seed=0):
        frame = pd.DataFrame({"id": [str(n) for n in range(rows)], "text_a": [f"text {n}" for n in range(rows)]})
        return set(complete(task, {"train": frame.assign(label=[n % 100.0 for n in range(rows)])}, seed).dev["id"])

    assert len(dev(400)) == 40 and dev(400) == dev(400) != dev(400, seed=1)
    assert len(dev(400) - dev(420)) <= 6


def test_given_splits_stay_and_train_gives_what_is_missing():
    frame, task = table(), own_task("news", table(), "headline", "topic")
    both = corpus_of_frames("own", {task: {"train": frame[:60], "dev": frame[60:]}})["news"]
    assert len(both.train) == 60 and len(both.dev) == 30 and both.test is None
    cut = corpus_of_frames("own", {task: {"train": frame[:60], "test": frame[60:]}})["news"]
    assert len(cut.train) + len(cut.dev) == 60 and len(cut.dev) == 6 and len(cut.test) == 30
    assert "label" not in corpus_of_frames("own", {task: {"train": frame, "test": frame[["headline"]]}})["news"].test
    for parts, message in (({"dev": frame}, "expected a train split"), ({"all": frame}, "expected splits train, dev")):
        with pytest.raises(ConfigurationError, match=message):
            corpus_of_frames("own", {task: parts})
    with pytest.raises(ConfigurationError, match="1 together"):
        corpus_of_frames("own", {task: frame}, shares=(0.5, 0.1, 0.1))


def two_of_one_name():
    """Corpora whose tasks are called alike: three topics, and whether it is about sport."""
    topics = table()
    sport = topics.assign(topic=np.where(topics["topic"] == "sport", "yes", "no"))
    described = [own_task("news", each, text="headline", label="topic") for each in (topics, sport)]
    return [mtlib.Corpus.from_frames("c", {task: each}) for task, each in zip(described, (topics, sport), strict=True)]


def test_a_run_is_trained_with_its_corpus_s_task_whatever_was_made_after_it(tmp_path):
    topics, sport = two_of_one_name()
    experiment = mtlib.experiment("smoke", tasks=["news"], epochs=1, steps_per_epoch=2)
    for corpus in (topics, sport, topics):
        run = mtlib.fit(experiment, corpus, tmp_path, progress="none")
        assert run.complete and run.model().tasks == corpus.tasks
        assert run.predictions("dev", "news")["label"].tolist() == corpus["news"].dev["label"].tolist()


def test_a_head_goes_on_from_its_parent_s_whatever_its_task_is_titled(tmp_path):
    topics, _ = two_of_one_name()
    first = mtlib.experiment("smoke", tasks=["news"], epochs=1, steps_per_epoch=2)
    trained = mtlib.fit(first, topics, tmp_path, progress="none").model()
    titled = tuple(dataclasses.replace(task, title="Headlines by topic") for task in topics.tasks)
    child = mtlib.experiment("smoke", tasks=["news"], start_from=first)
    start = Start(child, dataclasses.replace(topics, tasks=titled), RunStore(tmp_path)).model()
    assert start.tasks == titled and torch.equal(start.heads["news"].weight, trained.heads["news"].weight)


def test_every_fault_of_a_table_is_named_by_row():
    task = own_task("news", table(), "headline", "topic")
    frame = table(9).assign(id=["x"] * 2 + ["=1+1"] + [f"i{n}" for n in range(6)])
    frame.loc[3, "headline"], frame.loc[4, "topic"], frame.loc[5, "topic"] = " ", "sprot", None
    with pytest.raises(DataError) as caught:
        corpus_of_frames("own", {task: frame})
    message = str(caught.value)
    for expected in (
        "news:3, column 'id'",
        "news:4, column 'headline'",
        "news:5, column 'topic'",
        "'sprot'",
        "news:2, column 'id': expected an id of its own, found 'x', the id of line 1",
    ):
        assert expected in message
    assert "news:6" not in message, "a row without a label is left out"
    clean = corpus_of_frames("own", {task: table().assign(topic=lambda t: t["topic"].where(t.index != 5))})
    assert clean.notes == ["news: dropped 1 unlabelled row(s), line 6"]


def test_corpora_are_joined_and_share_no_task():
    task = own_task("news", table(), "headline", "topic")
    own = mtlib.Corpus.from_frames("headlines", {task: table()})
    both = made_up_corpus().joined(own)
    assert list(both) == ["sst", "qqp", "sts", "news"] and both.title == "made up + headlines"
    with pytest.raises(ConfigurationError, match="both have the task 'news'"):
        both.joined(own)


def write(path, text):
    path.write_text(text)
    return path


def test_a_yaml_file_is_a_corpus_and_the_same_as_from_python(folder):
    path = write(folder / "own.yaml", "tasks:\n  news: {file: news.csv, text: headline, label: topic}\n")
    corpus = mtlib.load_corpus(path)
    task = own_task("news", table(), "headline", "topic")
    in_python = corpus_of_frames("own", {task: table()})["news"]
    for split, frame in corpus["news"].items():
        pd.testing.assert_frame_equal(frame.drop(columns="id"), getattr(in_python, split).drop(columns="id"))
    assert (
        corpus.kind == "own"
        and corpus.source == str(path)
        and corpus["news"].train["id"].iloc[0].startswith("news.csv-")
    )
    assert check(path).exit_code == 0
    joined = write(folder / "more.yaml", "base: sample\n" + path.read_text())
    assert list(mtlib.load_corpus(joined)) == ["sst", "qqp", "sts", "news"]
    assert list(mtlib.load_corpus(joined, ["news", "sst"])) == ["news", "sst"]
    assert mtlib.load_corpus(joined, ["news"]).fingerprint == corpus.fingerprint


@pytest.mark.parametrize("text, code, message", [
    ("tasks: {news: {file: news.csv, text: headline, label: tpoic}}", 65, "column 'tpoic', found 'headline', 'topic'"),
    ("tasks: {news: {file: news.csv, txt: headline, label: topic}}", 64, "unknown key 'tasks.news.txt'"),
    ("tasks: {news: {file: nws.csv, text: headline, label: topic}}", 74, "nws.csv: cannot be read"),
    ("tasks: {a-b: {file: news.csv, text: headline, label: topic}}", 64, "task name 'a-b'"),
    ("tasks: {sst: {file: news.csv, text: headline, label: topic}}", 64, "already registered"),
    ("tasks: {}", 64, "tasks"),
    ("[1]", 64, "own.yaml"),
    ("tasks: {news: {file: news.csv, text: headline, label: topic, split: topic}}", 65, "expected train, dev or test"),
    ("tasks: {news: {file: news.csv, text: headline, label: topic, names: [a, b, c]}}", 65, "expected one of 'a', 'b'"),
])  # fmt: skip
def test_a_yaml_file_that_cannot_be_meant_is_one_message(folder, text, code, message):
    write(folder / "own.yaml", text)
    said = invoke("data", "check", "own.yaml", "--encoder", "tiny", code=code)
    assert message in said and "Traceback" not in said


def test_ids_and_splits_may_be_columns(folder):
    frame = table().assign(number=range(90), part=["train"] * 60 + ["dev"] * 20 + ["test"] * 10)
    frame.to_csv("news.csv", index=False, sep=";")
    text = "tasks: {news: {file: news.csv, text: headline, label: topic, id: number, split: part}}"
    splits = mtlib.load_corpus(write(folder / "own.yaml", text))["news"]
    assert [len(frame) for _, frame in splits.items()] == [60, 20, 10]
    assert splits.test["id"].tolist() == [str(n) for n in range(80, 90)]


@pytest.mark.parametrize("parts, about, message", [
    (["dev", "test"], "", "column 'part': expected a row that says train, found dev and test alone"),
    (["train", "dev"], ", dev: dev.csv", "csv:3, column 'part': expected train or test (dev is in dev.csv), found"),
    (["train", "test"], ", dev: dev.csv, test: t.csv", "train (dev is in dev.csv, test is in t.csv), found 'test'"),
    (["train", "valid"], "", "news.csv:3, column 'part': expected train, dev or test, found 'valid'"),
])  # fmt: skip
def test_a_column_of_splits_says_train_and_nothing_that_a_file_says_too(folder, parts, about, message):
    for name in ("dev.csv", "t.csv"):
        table().to_csv(name, index=False)
    table().assign(part=parts * 45).to_csv("news.csv", index=False)
    path = write(
        folder / "own.yaml", f"tasks: {{news: {{file: news.csv, text: headline, label: topic, split: part{about}}}}}"
    )
    with pytest.raises(DataError) as caught:
        mtlib.load_corpus(path)
    assert message in str(caught.value)


def test_a_file_of_dev_stands_beside_a_column_that_says_train_and_test(folder):
    table(30).to_csv("dev.csv", index=False)
    table().assign(part=["train"] * 60 + ["test"] * 30).to_csv("news.csv", index=False)
    text = "tasks: {news: {file: news.csv, text: headline, label: topic, split: part, dev: dev.csv}}"
    splits = mtlib.load_corpus(write(folder / "own.yaml", text))["news"]
    assert [len(frame) for _, frame in splits.items()] == [60, 30, 30]


@pytest.mark.parametrize("change, message", [
    (lambda dev: dev.replace(table()["headline"][1], " "), "dev.csv:3, column 'headline': expected a text, found ' '"),
    (lambda dev: dev.drop(columns="headline"), "dev.csv: expected the column 'headline', found 'topic', 'number'"),
    (lambda dev: dev.drop(columns="number"), "dev.csv: expected the column 'number', found 'headline', 'topic'"),
    (lambda dev: dev.drop(columns="topic"), "dev.csv: expected the columns headline, topic, found none called topic"),
])  # fmt: skip
def test_faults_of_a_dev_file_are_named_by_that_file(folder, change, message):
    news = table().assign(number=range(90))
    news.to_csv("news.csv", index=False)
    change(news).to_csv("dev.csv", index=False)
    text = "tasks: {news: {file: news.csv, dev: dev.csv, text: headline, label: topic, id: number}}"
    with pytest.raises(DataError) as caught:
        mtlib.load_corpus(write(folder / "own.yaml", text))
    assert message in str(caught.value) and "news.csv" not in str(caught.value)


def test_made_ids_are_called_after_the_file_and_the_number_of_their_row_in_it(folder):
    table(30).to_csv("dev.csv", index=False)
    frame = table().assign(part=["train", "train", "test"] * 30)
    frame.loc[0, "topic"] = ""  # left out, and counted all the same
    frame.to_csv("news.csv", index=False)
    text = "tasks: {news: {file: news.csv, dev: dev.csv, text: headline, label: topic, split: part}}"
    with pytest.warns(UserWarning, match="news.csv: dropped 1 unlabelled row"):
        splits = mtlib.load_corpus(write(folder / "own.yaml", text), allow_rare=True)["news"]
    assert splits.dev["id"].tolist() == [f"dev.csv-{n + 1}" for n in range(30)]
    assert splits.train["id"].tolist() == [f"news.csv-{n + 1}" for n in range(1, 90) if n % 3 < 2]
    assert splits.test["id"].tolist() == [f"news.csv-{n + 1}" for n in range(90) if n % 3 == 2]


def test_a_yaml_file_that_is_a_link_is_read_again_from_where_it_was_read(folder):
    (folder / "there").mkdir()
    write(folder / "there" / "own.yaml", "tasks: {news: {file: news.csv, text: headline, label: topic}}")
    os.symlink(folder / "there" / "own.yaml", "link.yaml")
    corpus = mtlib.load_corpus("link.yaml")
    assert corpus.source == str(folder / "link.yaml")
    assert mtlib.load_corpus(corpus.source).fingerprint == corpus.fingerprint


@pytest.mark.parametrize("empty, rows", [("drop", 88), ("keep", 90)])
def test_blank_texts_of_one_s_own_are_what_they_are_said_to_be(folder, empty, rows):
    frame = table()
    frame.loc[[3, 7], "headline"] = "  "
    frame.to_csv("news.csv", index=False)
    path = write(folder / "own.yaml", "tasks: {news: {file: news.csv, text: headline, label: topic}}")
    with pytest.raises(DataError, match="news.csv:5, column 'headline': expected a text"):
        mtlib.load_corpus(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        corpus = mtlib.load_corpus(path, empty=empty)
    assert sum(len(frame) for _, frame in corpus["news"].items()) == rows
    note = "news.csv: dropped 2 row(s) with an empty text, lines 5, 9"
    assert corpus.notes == [str(warning.message) for warning in caught] == ([note] if empty == "drop" else [])


def test_the_faults_of_all_files_are_reported_at_once(folder):
    write(folder / "a.csv", "headline,topic\nx\n")
    write(folder / "b.csv", 'headline,topic\n"x,y\n')
    write(folder / "c.csv", "headline,other\nx,y\n")
    table().assign(topic=["sport", "science", ""] * 30, headline=" ").to_csv("d.csv", index=False)
    about = "text: headline, label: topic"
    text = (
        f"{{one: {{file: a.csv, dev: b.csv, {about}}}, two: {{file: c.csv, {about}}}, three: {{file: d.csv, {about}}}}}"
    )
    path = write(folder / "own.yaml", f"tasks: {text}")
    files = [fault.file for fault in check(path).faults]
    assert files == ["a.csv", "b.csv", "c.csv"] + ["d.csv"] * 60
    with pytest.raises(DataError, match="a.csv:2: expected 2 fields"):
        mtlib.experiment(mtlib.preset("smoke", str(path)))


@pytest.mark.parametrize("name", ["@home.csv", "-new.csv", "+1.csv", "=x.csv", "@a/b.csv", "a\tb.csv", "=-@.csv"])
def test_a_sound_file_is_read_whatever_its_name_begins_with(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    table().to_csv(name, index=False)
    path = write(folder / "own.yaml", f'tasks: {{news: {{file: "{name}", text: headline, label: topic}}}}')
    assert mtlib.load_corpus(path)["news"].train["id"].map(unfit_id).isna().all()


def test_every_id_that_is_missing_or_doubled_is_named_by_line(folder):
    ids = [f"n{n}" for n in range(90)]
    ids[3], ids[7], ids[8] = "", "n0", "n0"
    table().assign(id=ids).to_csv("news.csv", index=False)
    path = write(folder / "own.yaml", "tasks: {news: {file: news.csv, text: headline, label: topic, id: id}}")
    with pytest.raises(DataError) as caught:
        mtlib.load_corpus(path)
    assert str(caught.value).split("\n") == [
        "news.csv:5, column 'id': expected an id, found nothing",
        "news.csv:9, column 'id': expected an id of its own, found 'n0', the id of line 2",
        "news.csv:10, column 'id': expected an id of its own, found 'n0', the id of line 2",
    ]
    task = own_task("news", table(), "headline", "topic")
    with pytest.raises(DataError, match="news:4, column 'id': expected an id, found nothing"):
        corpus_of_frames("own", {task: table().assign(id=[name or None for name in ids])})


def test_a_number_that_is_spelt_with_and_without_a_point_is_one_class(folder):
    labels = ["0", "1", "1.0"] * 30
    table().assign(topic=labels).to_csv("news.csv", index=False)
    corpus = mtlib.load_corpus(
        write(folder / "own.yaml", "tasks: {news: {file: news.csv, text: headline, label: topic}}")
    )
    (task,) = corpus.tasks
    assert (task.kind, task.names) == ("binary", ("0", "1"))
    assert sum((frame["label"] == 1).sum() for _, frame in corpus["news"].items()) == 60
    assert own_task("all", pd.DataFrame({"a": "x", "b": ["0.0", "1.0"]}), "a", "b").names == ("0.0", "1.0")
    assert (
        own_task("codes", pd.DataFrame({"a": "x", "b": ["01", "1", "1.5"]}), "a", "b", kind="classification").classes
        == 3
    )


@pytest.mark.parametrize("word", ["NA", "nan", "4,5"])
@pytest.mark.parametrize("kind", ["", ", kind: regression"])
def test_the_rows_that_are_no_numbers_are_named_where_nearly_all_are(folder, word, kind):
    scores = [str(n / 4) for n in range(20)] * 4 + ["0.25"] * 10
    scores[17] = word
    pd.DataFrame({"text": [f"text {n}" for n in range(90)], "score": scores}).to_csv("near.csv", index=False)
    path = write(folder / "own.yaml", f"tasks: {{near: {{file: near.csv, text: text, label: score{kind}}}}}")
    with pytest.raises(DataError) as caught:
        mtlib.load_corpus(path)
    assert str(caught.value) == f"near.csv:19, column 'score': expected a number from 0 to 4.75, found {word!r}"


def test_numbers_among_many_words_are_classes():
    labels = ["3.10", "3.11", "other", "none"] * 20
    assert own_task("version", pd.DataFrame({"a": "x", "b": labels}), "a", "b").classes == 4


@pytest.mark.parametrize("labels", [["3,5", "1,0"], ["4", "3,5", "+1,25"], ["1,000", "2,500,000"], ["-0,5", "12"]])
def test_numbers_with_commas_are_classes_only_where_that_is_said(labels):
    table = pd.DataFrame({"a": "x", "b": labels * 20})
    with pytest.raises(
        ConfigurationError, match="numbers with a comma in 'b', such as .*,.*: expected a decimal point"
    ):
        own_task("price", table, "a", "b")
    for settings in ({"kind": "classification"}, {"names": labels}):
        assert own_task("price", table, "a", "b", **settings).classes == len(labels)
    with pytest.raises(ConfigurationError, match="numbers with a comma in 'b'"):
        own_task("price", pd.DataFrame({"a": "x", "b": [*labels * 20, "NA", "NA"]}), "a", "b")
    words = table.assign(b=table["b"].replace(labels[0], "a,b"))
    assert own_task("price", words, "a", "b").classes == len(labels), "not numbers alone"


def test_pairs_with_a_score_are_a_regression(folder):
    frame = pd.DataFrame({"question1": [f"a {n}" for n in range(50)], "question2": "b", "score": np.linspace(1, 5, 50)})
    frame.to_csv("pairs.csv", index=False, sep="\t")
    said = invoke("data", "describe", "pairs.csv", "--task", "near")
    assert "separated by tab" in said and "regression of question1 and question2; score: numbers from 1 to 5" in said
    assert "splits: 40 train, 5 dev, 5 test" in said
    assert mtlib.load_corpus("near.yaml").tasks[0].is_pair


def test_describe_names_the_columns_it_cannot_tell(folder):
    frame = table().assign(other="x").rename(columns={"topic": "what"})
    frame.to_csv("odd.csv", index=False)
    said = invoke("data", "describe", "odd.csv", "--task", "odd", code=64)
    assert "which column is the label? Name it with --label; there are 'headline', 'what', 'other'" in said
    assert not (folder / "odd.yaml").exists()
    invoke("data", "describe", "odd.csv", "--task", "odd", "--label", "what")
    assert "there is one already" in invoke("data", "describe", "odd.csv", "--task", "odd", "--label", "what", code=64)
    said = invoke("data", "describe", "odd.csv", "--task", "odd2", "--label", "other", code=64)
    assert "2 to 200 different labels" in said and not (folder / "odd2.yaml").exists()


def test_describe_writes_the_paths_of_files_and_base_from_the_yaml_file(folder):
    (folder / "made" / "up").mkdir(parents=True)
    write_corpus(folder / "course")
    write_corpus(folder / "made" / "sample")
    invoke("data", "describe", "news.csv", "--base", "course", "--output", "made/x.yaml")
    assert list(mtlib.load_corpus("made/x.yaml")) == ["sst", "qqp", "sts", "news"]
    for output, base, expected in (
        ("made/up/x.yaml", "course", "base: ../../course"),
        ("made/y.yaml", "made/sample", "base: ./sample"),
        ("made/z.yaml", "sample", "base: sample"),
    ):
        invoke("data", "describe", "news.csv", "--base", base, "--output", output)
        assert expected in (folder / output).read_text().splitlines()


@pytest.mark.parametrize("arguments, message", [
    (["news.csv", "--output", "x.txt"], "--output x.txt: expected a name that ends in .yaml or .yml"),
    (["my-news.csv"], "task name 'my-news': expected letters, digits and underscores, beginning with a letter; say"),
])  # fmt: skip
def test_describe_refuses_names_before_it_writes(folder, arguments, message):
    table().to_csv("my-news.csv", index=False)
    assert message in " ".join(invoke("data", "describe", *arguments, code=64).split())
    assert sorted(path.name for path in folder.iterdir()) == ["my-news.csv", "news.csv"]


@pytest.fixture
def trained(folder):
    """A run of one short epoch on news alone, by the command."""
    invoke("data", "describe", "news.csv")  # called after its file
    options = ["--set", "epochs=1", "--set", "steps_per_epoch=3", "--set", "name=own"]
    invoke("train", "--preset", "smoke", "--corpus", "news.yaml", *options)
    return mtlib.RunStore("results").get("own")


def test_the_task_works_through_train_runs_evaluate_predict_card_and_resume(trained, folder):
    assert trained.experiment.tasks == ("news",) and trained.experiment.sampler.kind == "round_robin"
    assert "own-" in invoke("runs") and "news" in invoke("runs")
    assert f"{trained.scores['news']:.3f}" in invoke("evaluate", "own")
    TASKS.pop("news")  # another process, which has read nothing
    answers = pd.read_csv(io.StringIO(invoke("predict", "own", "--task", "news", "A goal.", "Tax, and more")))
    assert answers["headline"].tolist() == ["A goal.", "Tax, and more"]
    assert set(answers["label"]) <= set(TOPICS) and list(answers)[-3:] == ["p0", "p1", "p2"]
    card = (trained.path / "model" / "README.md").read_text()
    assert "0 money, 1 science, 2 sport" in card
    assert mtlib.resume(trained).id == trained.id
    said = invoke("predict", "own", "--output", "out")
    assert "9 predictions" in said and (folder / "out" / "test-news.csv").is_file()


@pytest.mark.parametrize("names", [["science", "sport"], ["money", "science", "games"]])
def test_labels_that_mean_something_else_are_not_scored(trained, folder, names):
    frame = table()
    old = sorted(TOPICS)[-len(names) :]
    frame = frame[frame["topic"].isin(old)].replace({"topic": dict(zip(old, names, strict=True))})
    frame.assign(headline=frame["headline"] + " again").to_csv("fresh.csv", index=False)
    invoke("data", "describe", "fresh.csv", "--task", "news", "--output", "fresh.yaml")
    expected = "news: expected the labels that the model learnt, money, science, sport"
    for command in (["evaluate", "own"], ["predict", "own", "--output", "o"], ["export", "own", "--compare"]):
        TASKS.pop("news", None)
        said = invoke(*command, "--corpus", "fresh.yaml", code=65)
        assert expected in said and ", ".join(sorted(names)) in said
    assert not (folder / "o").exists()


def test_a_model_of_pairs_is_not_scored_on_single_texts(trained, folder):
    frame = table().assign(other="the same again")
    frame.to_csv("pairs.csv", index=False)
    invoke(
        "data",
        "describe",
        "pairs.csv",
        "--task",
        "news",
        "--text",
        "headline",
        "--text",
        "other",
        "--output",
        "pairs.yaml",
    )
    TASKS.pop("news", None)
    said = invoke("evaluate", "own", "--corpus", "pairs.yaml", code=65)
    assert "(classification of texts)" in said and "(classification of pairs)" in said


def test_a_pipe_is_not_described(folder):
    os.mkfifo("pipe.csv")
    assert "expected a file, which the YAML file can name, found a pipe" in invoke(
        "data", "describe", "pipe.csv", code=64
    )


def test_describe_writes_into_no_run(trained, folder):
    said = invoke(
        "data", "describe", "news.csv", "--task", "x", "--output", str(trained.path / "model" / "x.yaml"), code=64
    )
    assert "outside of runs" in said and not (trained.path / "model" / "x.yaml").exists()


def test_a_corpus_in_the_project_is_found_from_below_it(folder, monkeypatch):
    for name in ("notebooks", "presets", "data", "deeper"):
        (folder / name).mkdir()
    invoke("data", "describe", "news.csv", "--output", "data/news.yaml")
    write(folder / "presets" / "p.yaml", "corpus: data/news.yaml\nencoder: tiny\ndial: 0.001\nlearning_rate: 1.0e-3\n")
    monkeypatch.chdir(folder / "deeper")
    found = mtlib.preset("../presets/p.yaml")
    assert list(mtlib.load_corpus(found.corpus)) == ["news"]


def test_a_preset_and_a_sweep_of_it_take_its_tasks_from_the_yaml_file(trained, folder):
    preset = "corpus: news.yaml\nencoder: tiny\ndial: 0.001\nlearning_rate: 1.0e-3\n"
    write(folder / "mine.yaml", preset)
    assert mtlib.experiment("mine.yaml").tasks == ("news",)
    assert mtlib.experiment(mtlib.preset("smoke", "news.yaml")).tasks == ("news",)
    assert mtlib.experiment(mtlib.preset("smoke")).tasks == ("sst", "qqp", "sts")
    write(folder / "grid.yaml", "preset: mine.yaml\ngrid: {learning_rate: [1.0e-3, 3.0e-3]}\n")
    from mtlib.workbook.sweeps import read

    assert [each.tasks for each in read("grid.yaml").experiments().values()] == [("news",)] * 2


def test_a_preset_s_corpus_is_found_beside_it(folder):
    (folder / "sub").mkdir()
    table().to_csv("sub/news.csv", index=False)
    write(folder / "sub" / "beside.yaml", "tasks: {beside: {file: news.csv, text: headline, label: topic}}")
    write(folder / "sub" / "mine.yaml", "corpus: beside.yaml\nencoder: tiny\ndial: 0.001\n")
    chosen = mtlib.preset("sub/mine.yaml")
    assert chosen.corpus == str(folder / "sub" / "beside.yaml") and mtlib.experiment(chosen).tasks == ("beside",)
    assert list(mtlib.load_corpus(chosen.corpus)) == ["beside"]
    write(folder / "beside.yaml", "tasks: {here: {file: news.csv, text: headline, label: topic}}")
    assert mtlib.preset("sub/mine.yaml").corpus == str(folder / "beside.yaml"), "the current folder comes first"
    assert mtlib.preset("sub/mine.yaml", "other.yaml").corpus == "other.yaml"


def test_a_sweep_takes_its_tasks_from_its_own_corpus_and_from_the_command_s(folder):
    from mtlib.workbook.plan import Plan
    from mtlib.workbook.sweeps import read

    write(folder / "news.yaml", "tasks: {news: {file: news.csv, text: headline, label: topic}}")
    grid = "grid: {learning_rate: [1.0e-3, 3.0e-3]}\n"
    write(folder / "own.yaml", f"preset: smoke\ncorpus: news.yaml\n{grid}")
    write(folder / "bare.yaml", f"preset: smoke\n{grid}")
    for sweep in (read("own.yaml"), read("bare.yaml", "news.yaml")):
        assert [each.tasks for each in sweep.experiments().values()] == [("news",)] * 2
    assert [each.tasks for each in read("own.yaml", "sample").experiments().values()] == [("sst", "qqp", "sts")] * 2
    for file in ("own.yaml", "bare.yaml"):
        plan = Plan("smoke", "news.yaml", file)
        assert [each.tasks for each in plan.experiments.values()] == [("news",)] * 2


@pytest.mark.parametrize("task, code, message", [
    ('{file: "a\\0b", text: headline, label: topic}', 74, "cannot be read: embedded null byte"),
    ("{file: news.csv, text: topic, label: topic}", 64, "expected different columns, found topic, topic"),
    ("{file: news.csv, text: [headline, headline], label: topic}", 64, "expected different columns"),
    ("{file: news.csv, text: headline, label: topic, id: topic}", 65, "id of its own, found 'sport', the id of line 2"),
])  # fmt: skip
def test_columns_that_cannot_be_meant_are_one_message(folder, task, code, message):
    (folder / "own.yaml").write_text(f"tasks:\n  own: {task}\n")
    assert message in invoke("data", "check", "own.yaml", "--encoder=tiny", code=code)


def test_a_corpus_of_one_s_own_stands_on_no_other_and_so_on_no_cycle(folder):
    for name, base in (("one", "two"), ("two", "one"), ("self", "self")):
        (folder / f"{name}.yaml").write_text(f"base: {base}.yaml\ntasks: {{x: {{file: a.csv, text: b, label: c}}}}\n")
        message = invoke("data", "check", f"{name}.yaml", code=64)
        assert f"base: expected 'sample', 'hub' or a folder, found '{base}.yaml'" in message


def test_a_column_called_id_is_a_text_or_ids_as_it_is_said_and_unused_otherwise(folder):
    news = table().assign(id=[f"n{n}" for n in range(90)])
    news.to_csv("ids.csv", index=False)
    for column, about in (("headline", "id: id"), ("headline", "id: ''"), ("id", "id: headline")):
        own = f"tasks:\n  own: {{file: ids.csv, text: {column}, label: topic, {about}}}\n"
        (folder / "own.yaml").write_text(own)
        TASKS.pop("own", None)
        rows = pd.concat(dict(mtlib.load_corpus("own.yaml")["own"].items()).values())
        assert sorted(rows["text_a"]) == sorted(news[column])
        made = {f"ids.csv-{n + 1}" for n in range(90)}
        assert set(rows["id"]) == {"id: id": {*news["id"]}, "id: ''": made, "id: headline": {*news["headline"]}}[about]


def test_a_file_whose_name_is_no_text_is_one_message(folder):
    strange = folder / os.fsdecode(b"caf\xe9.csv")
    table().to_csv(strange, index=False)
    said = invoke("data", "describe", strange, "--task", "own", "--text", "headline", "--label", "topic", code=64)
    assert "caf\\udce9.csv: separated by comma" in said and "Input should be a valid string" in said


def test_a_test_file_whose_label_column_is_empty_is_one_without_labels(folder):
    table().assign(topic="").to_csv("test.csv", index=False)
    (folder / "own.yaml").write_text("tasks:\n  own: {file: news.csv, test: test.csv, text: headline, label: topic}\n")
    test = mtlib.load_corpus("own.yaml")["own"].test
    assert len(test) == 90 and "label" not in test


def test_a_study_far_from_the_project_reads_the_corpus_that_its_preset_found(folder):
    (folder / "news.yaml").write_text("tasks: {news: {file: news.csv, text: headline, label: topic}}")
    assert mtlib.Study("smoke", "news.yaml").corpus["news"].train["text_a"].str.contains("of the").all()
    (folder / "mine.yaml").write_text("corpus: news.yaml\nencoder: tiny\ndial: 0.001\nlearning_rate: 0.001\n")
    assert list(mtlib.Study("mine.yaml").corpus) == ["news"]
