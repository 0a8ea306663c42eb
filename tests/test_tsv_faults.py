"""What the strict reader says of odd bytes, empty files and lost characters, word by word."""

import io
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from test_tsv import ROWS, faults, read_file, sst_file

from mtlib.data.tsv import scan_tsv, unfit_id
from mtlib.errors import DataError
from mtlib.study.submissions import submission
from mtlib.tasks import QQP, SST
from mtlib.training.evaluation import in_choosing_half


@pytest.mark.parametrize("content, found", [(b"", "an empty file"), (b"\xef\xbb\xbf", "an empty file")])
def test_an_empty_file_is_called_so(tmp_path, content, found):
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    assert faults(path) == [f"x.csv: expected a header and rows, found {found}"]


def test_a_file_of_unlabelled_rows_only(tmp_path):
    path = sst_file(tmp_path, [("a1", "lost", "")], name="x.csv")
    assert faults(path) == ["x.csv: expected rows below the header, found dropped rows only"]


def test_a_byte_order_mark_before_a_named_column(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes("\ufeffid\tsentence\tsentiment\na\ttext\ufeff\t1\n".encode())
    assert read_file(path, SST).frame["text_a"].tolist() == ["text\ufeff"]


@pytest.mark.parametrize("places", [[0], [3], [0, 3], [2, 5]])
def test_the_first_nul_of_a_line_is_named_with_its_offset(tmp_path, places):
    path = sst_file(tmp_path, name="x.csv")
    lines = path.read_bytes().split(b"\n")
    data = bytearray(lines[2])
    for place in places:
        data[place] = 0
    lines[2] = bytes(data)
    path.write_bytes(b"\n".join(lines))
    offset = len(lines[0]) + len(lines[1]) + 2 + places[0]
    assert f"x.csv:3: expected text, found a NUL byte at offset {offset}" in faults(path)


@pytest.mark.parametrize("place", [0, 6])
def test_the_first_byte_of_a_line_that_is_not_utf8(tmp_path, place):
    path = sst_file(tmp_path, name="x.csv")
    content = path.read_bytes()
    start = content.index(b"1\ta2") + place
    path.write_bytes(content[:start] + b"\xe9\xfe" + content[start + 2 :])
    assert f"x.csv:3: expected UTF-8, found byte 0xe9 at offset {start}" in faults(path)


@pytest.mark.parametrize("texts, damaged", [(["plain"], 0), (["lost \ufffd", "plain", "\ufffd"], 2)])
def test_lost_characters_are_remarked_and_kept(tmp_path, texts, damaged):
    table = read_file(sst_file(tmp_path, [(f"a{i}", text, "1") for i, text in enumerate(texts)], name="x.csv"), SST)
    said = f"x.csv: {damaged} row(s) hold U+FFFD, a character lost before this file"
    assert table.remarks == ((said,) if damaged else ()) and table.frame["text_a"].tolist() == texts


def test_lost_characters_of_a_pair_count_once(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("id\tsentence1\tsentence2\nq\t\ufffd\t\ufffd\n", encoding="utf-8")
    assert read_file(path, QQP, labelled=None).remarks[0].startswith("x.csv: 1 row(s)")


def test_blank_texts_are_an_error_unless_a_policy_is_asked_for(tmp_path):
    path = sst_file(tmp_path, [*ROWS, ("a4", "", "1")])
    for read in (lambda: read_file(path, SST), lambda: read_file(path, SST, empty="error")):
        with pytest.raises(DataError, match="expected a text, found nothing"):
            read()
    assert scan_tsv(path, SST).notes == () and len(scan_tsv(path, SST).faults) == 1
    assert read_file(sst_file(tmp_path), SST, empty="drop").notes == ()


@pytest.mark.parametrize("name", ["a\rb", "a\r", "\x1fa", "a\x1f", "a\x85b", "a\u2028b", "a\u2029", "a\x0b", "a\x7f"])
def test_an_id_that_would_split_a_row_of_predictions_is_named(tmp_path, name):
    found = faults(sst_file(tmp_path, [("good", "text", "1"), (name, "text", "1")], name="x.csv"))
    assert found == [f"x.csv:3, column 'id': expected an id without line ends and control characters, found {name!r}"]


@pytest.mark.parametrize("name", ["=1+1", "=cmd|' /C calc'!A0", "+a", "-a", "@SUM(A1)", "-1+1"])
def test_an_id_that_a_spreadsheet_would_compute_is_named(tmp_path, name):
    found = faults(sst_file(tmp_path, [(name, "text", "1")], name="x.csv"))
    assert found == [f"x.csv:2, column 'id': expected an id that no spreadsheet takes for a formula, found {name!r}"]


@pytest.mark.parametrize("name", ["a,b", ",", " a", "a ", "a , 3"])
def test_an_id_that_would_split_a_line_of_a_submission_is_named(tmp_path, name):
    expected = "expected an id without commas and blanks at its ends, by which submission files are split"
    found = faults(sst_file(tmp_path, [("good", "text", "1"), (name, "text", "1")], name="x.csv"))
    assert found == [f"x.csv:3, column 'id': {expected}, found {name!r}"]
    own = replace(SST, name="reviews")
    assert scan_tsv(sst_file(tmp_path, [(name, "text", "1")]), own).faults == ()
    with pytest.raises(DataError, match="submission of sst: expected an id without commas"):
        submission(pd.DataFrame({"id": ["good", name], "prediction": [1, 2]}), "sst")


@given(st.text(min_size=1))
def test_every_id_that_is_taken_comes_back_as_the_course_reads_a_submission(name):
    assume(name.strip() and unfit_id(name, "sst") is None)
    text = submission(pd.DataFrame({"id": [name, "last"], "prediction": [1, 2]}), "sst")
    rows = [line.split(",") for line in text.splitlines()[1:]]
    assert [[field.strip() for field in row] for row in rows] == [[name, "1"], ["last", "2"]]


@given(st.text(min_size=1))
def test_every_id_that_is_taken_comes_back_from_a_file_of_predictions(name):
    assume(name.strip() and unfit_id(name) is None)
    frame = pd.DataFrame({"id": [name, "last"], "prediction": [1, 2]})
    text = frame.to_csv(index=False, lineterminator="\n")
    back = pd.read_csv(io.BytesIO(text.encode()), dtype={"id": str}, keep_default_na=False)
    assert back["id"].tolist() == [name, "last"]
    assert len(text.splitlines()) == 3 and in_choosing_half([name]).shape == (1,)


def test_lines_that_end_in_cr_lf_below_a_header_that_does_not_leave_no_cr_in_an_id(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"sentence\tsentiment\tid\nfine\t3\ta\r\n")
    assert "an id without line ends" in faults(path)[0]


@pytest.mark.parametrize("row", ["a\t3\tfine", '"a"\t3\tfine'])
def test_lines_that_end_in_cr_lf_below_a_header_that_does_not_leave_no_cr_in_a_text(tmp_path, row):
    path = tmp_path / "x.csv"
    path.write_bytes(f"id\tsentiment\tsentence\nb\t1\tdull\n{row}\r\n".encode())
    expected = "expected a line that ends as the header's does, in LF, found CR LF"
    assert faults(path) == [f"x.csv:3, column 'sentence': {expected}"]
    path.write_bytes(b"id\tsentence\tsentiment\nb\tdull\t1\r\n")
    assert read_file(path, SST).frame["label"].tolist() == [1], "a label has no line end"
