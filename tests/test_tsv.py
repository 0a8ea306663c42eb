"""The strict reader: pandas' own files come back unchanged, and every fault is named with file, line and column."""

import re
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mtlib.data.tsv import NUMBER, SHOWN, Table, make_frame, parse_label, raise_faults, scan_tsv
from mtlib.errors import DataError, StorageError
from mtlib.tasks import QQP, SST, STS, Task

ROWS = [("a1", "a fine film", "3"), ("a2", "a dull film", "1"), ("a3", "a film", "2")]


def sst_file(folder, rows=ROWS, header="\tid\tsentence\tsentiment", name="ids-sst-train.csv"):
    """A sentiment file with an unnamed index column, written by hand."""
    path = folder / name
    lines = [header, *("\t".join([str(i), *row]) for i, row in enumerate(rows))]
    path.write_bytes("".join(line + "\n" for line in lines).encode())
    return path


def read_file(path, task, **options) -> Table:
    """What a file holds, all of its faults being raised as those of a corpus are."""
    table = scan_tsv(path, task, **options)
    raise_faults(table.faults)
    return table


def faults(path, task=SST, **options):
    """The faults that reading raises, as text."""
    with pytest.raises(DataError) as caught:
        read_file(path, task, **options)
    assert caught.value.exit_code == 65
    assert str(caught.value.faults[0]) in str(caught.value)
    return [str(fault) for fault in caught.value.faults]


def test_a_plain_file_gives_typed_columns_in_order(tmp_path):
    frame = read_file(sst_file(tmp_path), SST).frame
    assert list(frame) == ["id", "text_a", "label"]
    assert frame["id"].tolist() == ["a1", "a2", "a3"]
    assert frame["label"].tolist() == [3, 1, 2] and frame["label"].dtype == np.int64


# Missing column
def test_a_missing_column_lists_the_columns(tmp_path):
    assert faults(sst_file(tmp_path, header="\tid\ttext\tsentiment")) == [
        "ids-sst-train.csv:1: expected the columns 'id', 'sentence', 'sentiment', "
        "found 'id', 'text', 'sentiment': missing sentence"
    ]


def test_a_missing_header_is_a_fault(tmp_path):
    path = tmp_path / "ids-sst-train.csv"
    path.write_text("0\ta1\ta fine film\t3\n")
    assert "missing id, sentence, sentiment" in faults(path)[0]


def test_two_columns_of_one_name_are_a_fault(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("\tid\tsentence\tsentence\tsentiment\n0\ta\tb\tc\t1\n")
    expected = "x.csv:1: expected a different name for every column, found 'id', 'sentence', 'sentence', 'sentiment'"
    assert faults(path) == [expected]
    path.write_text("id\tsentence\t\tsentiment\na\tb\tc\t1\n")
    assert faults(path) == [
        "x.csv:1: expected a different name for every column, found 'id', 'sentence', '', 'sentiment'"
    ]


def test_a_header_of_index_columns_only_and_one_in_quotes(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("\t\n")
    assert faults(path) == [
        "x.csv:1: expected the columns 'id', 'sentence', 'sentiment', found no named column: missing id, sentence, "
        "sentiment"
    ]
    path.write_text('""\t"id"\tsentence\t"sentiment"\n0\ta\tb\t1\n')
    assert read_file(path, SST).frame["text_a"].tolist() == ["b"]


# Empty file
@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\n"])
def test_an_empty_file_is_a_fault(tmp_path, content):
    path = tmp_path / "ids-sst-train.csv"
    path.write_bytes(content)
    assert "ids-sst-train.csv" in faults(path)[0]


def test_a_header_without_rows_is_a_fault(tmp_path):
    assert faults(sst_file(tmp_path, rows=[])) == ["ids-sst-train.csv: expected rows below the header, found none"]


# Labels
def test_unlabelled_rows_are_dropped_and_counted_in_one_note_with_their_lines(tmp_path):
    table = read_file(sst_file(tmp_path, [*ROWS, ("a4", "lost", ""), ("a5", "", " ")]), SST)
    assert table.frame["id"].tolist() == ["a1", "a2", "a3"]
    assert table.notes == ("ids-sst-train.csv: dropped 2 unlabelled row(s), lines 5, 6",)


@pytest.mark.parametrize(
    "rows, said", [(1, "line 2"), (SHOWN, ""), (SHOWN + 1, " and 1 more"), (SHOWN + 7, " and 7 more")]
)
def test_a_note_lists_some_lines_and_counts_the_rest(tmp_path, rows, said):
    lost = [(f"b{i}", "lost", "") for i in range(rows)]
    (note,) = read_file(sst_file(tmp_path, [*lost, *ROWS]), SST).notes
    lines = ", ".join(str(line) for line in range(2, 2 + min(rows, SHOWN)))
    assert note.endswith(said or f"lines {lines}") and lines in note


def test_only_unlabelled_rows_leave_nothing_and_that_is_a_fault(tmp_path):
    assert "dropped rows only" in faults(sst_file(tmp_path, [("a1", "lost", "")]))[0]


@pytest.mark.parametrize("label", ["x", "7", "-1", "2.5", "-100", "nan", "inf", "1_0", "0x1", "٣", "1e400"])
def test_a_label_that_is_no_class_names_row_and_column(tmp_path, label):
    assert faults(sst_file(tmp_path, [*ROWS, ("a4", "text", label)])) == [
        f"ids-sst-train.csv:5, column 'sentiment': expected an integer from 0 to 4, found {label!r}"
    ]


@pytest.mark.parametrize("task, good, bad", [(QQP, ["0.0", "1", "1.0"], "2"), (STS, ["0", "5.0", "3.25"], "5.01")])
def test_labels_of_pairs(task, good, bad):
    assert [parse_label(task, text) for text in good] == [float(text) for text in good]
    with pytest.raises(ValueError, match="^0 or 1$" if task is QQP else "^a number from 0 to 5$"):
        parse_label(task, bad)


SLOWER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
"""What a number is, in a form that takes time by the square of the digits."""


@given(st.text("01.eE+- \n\tx٣", max_size=9))
def test_what_is_read_as_a_number(text):
    assert bool(NUMBER.fullmatch(text)) == bool(SLOWER.fullmatch(text))
    if NUMBER.fullmatch(text):
        float(text)


@pytest.mark.parametrize("text", ["1" * 10**4 + "x", "." + "1" * 10**4 + "x", " " * 10**4 + "1" + " " * 10**4 + "x"])
def test_a_long_label_that_is_no_number_is_refused_at_once(text):
    begun = time.process_time()
    with pytest.raises(ValueError, match="an integer from 0 to 4"):
        parse_label(SST, text)
    assert time.process_time() - begun < 2


def test_all_faults_of_a_file_are_collected(tmp_path):
    rows = [("a1", "fine", "9"), ("a2", "", "1"), ("a1", "again", "2"), ("a4", "good", "3"), ("a5", '"open', "1")]
    assert len(faults(sst_file(tmp_path, rows))) == 4
    table = scan_tsv(sst_file(tmp_path, rows), SST)
    assert table.frame["id"].tolist() == ["a4"]
    assert [fault.line for fault in table.faults] == [2, 3, 4, 6]


@pytest.mark.parametrize("rows", [1, SHOWN, SHOWN + 1, SHOWN + 9])
def test_one_error_lists_the_first_faults_and_counts_the_rest(tmp_path, rows):
    with pytest.raises(DataError) as caught:
        read_file(sst_file(tmp_path, [(f"a{i}", "text", "9") for i in range(rows)]), SST)
    lines = str(caught.value).split("\n")
    assert lines[:SHOWN] == [str(fault) for fault in caught.value.faults[:SHOWN]] and len(caught.value.faults) == rows
    assert lines[SHOWN:] == ([f"... and {rows - SHOWN} more faults"] if rows > SHOWN else [])


@pytest.mark.parametrize("rows", [[], ["a"]])
def test_texts_are_of_pandas_text_type_even_where_there_are_none(rows):
    frame = make_frame(SST, {"id": rows, "text_a": rows, "label": [1] * len(rows)})
    assert [str(kind) for kind in frame.dtypes] == ["str", "str", "int64"]


# Bytes
def test_a_byte_that_is_not_utf8_names_line_and_offset(tmp_path):
    path = sst_file(tmp_path)
    offset = len(path.read_bytes())
    path.write_bytes(path.read_bytes() + b"\xff")
    assert f"ids-sst-train.csv:5: expected UTF-8, found byte 0xff at offset {offset}" in faults(path)


def test_a_nul_byte_names_line_and_offset(tmp_path):
    path = sst_file(tmp_path)
    content = path.read_bytes().replace(b"dull", b"du\0l")
    path.write_bytes(content)
    assert faults(path) == [f"ids-sst-train.csv:3: expected text, found a NUL byte at offset {content.index(0)}"]


@pytest.mark.parametrize("change", [lambda b: b"\xef\xbb\xbf" + b, lambda b: b.replace(b"\n", b"\r\n"), bytes.rstrip])
def test_byte_order_mark_crlf_and_a_missing_last_line_break_read_identically(tmp_path, change):
    path = sst_file(tmp_path, [*ROWS, ("a4", '"two\nlines, ""quoted"""', "0")])
    plain = read_file(path, SST).frame
    path.write_bytes(change(path.read_bytes()))
    pd.testing.assert_frame_equal(read_file(path, SST).frame, plain)
    assert plain["text_a"].iloc[3] == 'two\nlines, "quoted"'


# Quotes
@pytest.mark.parametrize(
    "rows, line",
    [
        pytest.param(['"open', "b", "c", "d"], 2, id="opened and never closed"),
        pytest.param(["a", '"open', "c", '"open'], 3, id="two stray quotes at the start of fields"),
        pytest.param(["a", '"open', "c", 'close"'], 3, id="two stray quotes that would swallow rows"),
        pytest.param(["a", '"open', 'close"', "d"], 3, id="two stray quotes in neighbouring rows"),
        pytest.param(["a", 'in"side', "c", 'an"other'], 3, id="stray quotes inside unquoted fields"),
        pytest.param(["a", '"closed" then text', "c", "d"], 3, id="text after the closing quote"),
        pytest.param(["a", '"odd ""', "c", "d"], 3, id="a doubled quote that does not close"),
    ],
)
def test_an_unbalanced_quote_names_its_line_and_swallows_no_row(tmp_path, rows, line):
    path = sst_file(tmp_path, [(f"a{i}", text, "1") for i, text in enumerate(rows)])
    table = scan_tsv(path, SST)
    assert table.faults[0].line == line
    bad = {fault.line for fault in table.faults}
    assert table.frame["id"].tolist() == [f"a{i}" for i in range(len(rows)) if i + 2 not in bad]
    assert len(bad) <= 2
    assert len(faults(path)) == len(table.faults)


@pytest.mark.parametrize(
    "text, found",
    [
        ('"open', """a quote left open at '"open'"""),
        ('"shut" late', """text after the closing quote of '"shut" late': ' late\\t1'"""),
        ('in"side', """a quote inside the unquoted field 'in"side'"""),
        ('"' + "x" * 50, f"""a quote left open at '"{"x" * 39}…'"""),
    ],
)
def test_a_misplaced_quote_is_shown(tmp_path, text, found):
    expected = "ids-sst-train.csv:2: expected a field in quotes with its own quotes doubled, found "
    assert faults(sst_file(tmp_path, [("a1", text, "1")])) == [expected + found]


@pytest.mark.parametrize(
    "line, is_row",
    [
        ("1\ta2\ttext\t3", True),
        ("1\ta2\ttwo words\t", True),
        ("x\ta2\ttext\t3", False),
        ("1\t\ttext\t3", False),
        ("1\ta2\ttext\tgood", False),
        ("1\ta2\ttext", False),
    ],
)
def test_a_line_inside_quotes_is_a_row_only_with_index_id_and_label(tmp_path, line, is_row):
    path = tmp_path / "ids-sst-train.csv"
    path.write_text(f'\tid\tsentence\tsentiment\n0\ta1\t"first\n{line}\nlast"\t1\n')
    table = scan_tsv(path, SST)
    assert bool(table.faults) is is_row
    if not is_row:
        assert table.frame["text_a"].tolist() == [f"first\n{line}\nlast"]


def test_a_row_that_ends_with_an_empty_field_after_a_quote(tmp_path):
    path = tmp_path / "sts-train.csv"
    path.write_text('id\tsentence1\tsentence2\tsimilarity\tnote\np\t"a ""b"""\tc\t1.5\t\nq\t\t"d"\t2\t"x"\n')
    frame = read_file(path, STS, empty="keep").frame
    assert frame["text_a"].tolist() == ['a "b"', ""] and frame["label"].tolist() == [1.5, 2.0]


def test_a_quote_that_swallows_rows_of_an_unlabelled_file_is_found_too(tmp_path):
    path = tmp_path / "quora-test-student.csv"
    path.write_text('\tid\tsentence1\tsentence2\n0\tp\ta\t"b\n1\tq\tc\td\n2\tr\te\tf"\n')
    assert "would swallow the row on line 3" in faults(path, QQP, labelled=None)[0]


# Width
@pytest.mark.parametrize("line, found", [("3\ta4\ttext", 3), ("3\ta4\ttext\t1\t2", 5)])
def test_a_short_or_long_row_names_its_line(tmp_path, line, found):
    path = sst_file(tmp_path)
    path.write_text(path.read_text() + line + "\n")
    assert faults(path) == [
        f"ids-sst-train.csv:5: expected 4 tab-separated fields as in the header, found {found} fields"
    ]


def test_a_blank_line_is_a_fault(tmp_path):
    path = sst_file(tmp_path)
    path.write_text(path.read_text() + "\n")
    assert "found a blank line" in faults(path)[0]


# Text that looks like a missing value
def test_the_texts_na_and_null_stay_text(tmp_path):
    words = ["NA", "null", "NaN", "None", "#N/A", "-", "1", " lead"]
    frame = read_file(sst_file(tmp_path, [(f"a{i}", word, "1") for i, word in enumerate(words)]), SST).frame
    assert frame["text_a"].tolist() == words
    assert not frame.isna().any().any()


# Ids
def test_a_duplicate_id_names_both_lines(tmp_path):
    assert faults(sst_file(tmp_path, [*ROWS, ROWS[1]])) == [
        "ids-sst-train.csv:5, column 'id': expected an id of its own, found 'a2', the id of line 3"
    ]


def test_an_empty_id_is_a_fault(tmp_path):
    assert "column 'id': expected an id" in faults(sst_file(tmp_path, [("", "text", "1")]))[0]


# Empty texts
@pytest.mark.parametrize("text", ["", " ", "\u00a0", '""'])
def test_an_empty_text_follows_the_policy(tmp_path, text):
    path = sst_file(tmp_path, [*ROWS, ("a4", text, "1")])
    found = "nothing" if text in ("", '""') else repr(text)
    assert faults(path) == [f"ids-sst-train.csv:5, column 'sentence': expected a text, found {found}"]
    assert read_file(path, SST, empty="keep").frame["text_a"].iloc[3].strip() == ""
    dropped = read_file(path, SST, empty="drop")
    assert len(dropped.frame) == 3
    assert dropped.notes == ("ids-sst-train.csv: dropped 1 row(s) with an empty text, line 5",)


# Columns
def test_columns_are_read_by_name_and_others_are_ignored(tmp_path):
    path = tmp_path / "sts-dev.csv"
    path.write_text("similarity\tsource\tsentence2\tid\tsentence1\n4.5\tnews\tb\tx\ta\n")
    row = read_file(path, STS).frame.iloc[0]
    assert (row["id"], row["text_a"], row["text_b"], row["label"]) == ("x", "a", "b", 4.5)


@pytest.mark.parametrize(
    "header", ["\tid\tsentence", "0\t\tid\tsentence", "\t\tid\tsentence", "Unnamed: 0\tid\tsentence"]
)
def test_one_or_two_leading_index_columns(tmp_path, header):
    index = "\t".join(["7", "0.0"][: header.split("\t").index("id")])
    path = tmp_path / "ids-sst-test-student.csv"
    path.write_text(f"{header}\n{index}\tx\t effective but tepid\n")
    frame = read_file(path, SST, labelled=None).frame
    assert list(frame) == ["id", "text_a"]
    assert frame.iloc[0].tolist() == ["x", " effective but tepid"]


def test_labels_of_a_test_file_are_read_where_there_are_any(tmp_path):
    assert "label" in read_file(sst_file(tmp_path), SST, labelled=None).frame
    assert "label" not in read_file(sst_file(tmp_path), SST, labelled=False).frame


def test_a_file_that_cannot_be_read_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="ids-sst-train.csv"):
        read_file(tmp_path / "ids-sst-train.csv", SST)


# The oracle: pandas writes, the strict reader reads
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
NASTY = st.text(st.sampled_from('"\t\n\r,a 0\ufeff\u2028\x1c'))
TOPICS = Task("topic", "classification", ("text",), "kind", "topics", classes=3)


def unless_a_line_is_like_a_row(path, task, **options):
    """The rows that are read; None where the file is refused, and a line inside a text is like a row of its own."""
    try:
        return read_file(path, task, empty="keep", **options).frame
    except DataError as error:
        if "a line that ends as the header's does" in str(error):
            assert "\r\n" in path.read_bytes().decode()
            return None
        assert "a quote left open: it would swallow the row" in str(error)
        inside = [line for line in path.read_text().split("\n")[1:] if not re.match(r"\d+\tt\d+\t", line)]
        assert any(line.count("\t") == 3 for line in inside)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(TEXT | NASTY, st.integers(0, 2)), min_size=1, max_size=5))
@example([('"', 0), ('""', 1), ('a"b', 2), ('"a"', 0), ('"\n"', 1), ("a\tb\n", 2)])
@example([("a\nb\tc\n", 0), ("\n\n", 1), ("\r\n", 1), ("\ta", 1)])
@example([("\n0\t0\t", 1)])
def test_whatever_pandas_writes_is_read_back_identically(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "topics-train.csv"
    texts, labels = zip(*rows, strict=True)
    frame = pd.DataFrame({"id": [f"t{i}" for i in range(len(rows))], "text": texts, "kind": labels})
    frame.to_csv(path, sep="\t", lineterminator="\n")
    if (read := unless_a_line_is_like_a_row(path, TOPICS)) is not None:
        assert read["text_a"].tolist() == list(texts)
        assert read["label"].tolist() == list(labels)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(TEXT | NASTY, TEXT | NASTY), min_size=1, max_size=5))
@example([("", "\n0\t0\t\t")])
def test_pairs_without_labels_are_read_back_identically(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "quora-test-student.csv"
    frame = pd.DataFrame(rows, columns=["sentence1", "sentence2"])
    frame.insert(0, "id", [f"t{i}" for i in range(len(rows))])
    frame.to_csv(path, sep="\t", lineterminator="\n")
    if (read := unless_a_line_is_like_a_row(path, QQP, labelled=None)) is not None:
        assert list(zip(read["text_a"], read["text_b"], strict=True)) == rows
