"""What the strict reader says of odd bytes, empty files and lost characters, word by word."""

import pytest
from test_tsv import ROWS, faults, sst_file

from mtlib.data.tsv import read_tsv, scan_tsv
from mtlib.errors import DataError
from mtlib.tasks import QQP, SST


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
    assert read_tsv(path, SST).frame["text_a"].tolist() == ["text\ufeff"]


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
    table = read_tsv(sst_file(tmp_path, [(f"a{i}", text, "1") for i, text in enumerate(texts)], name="x.csv"), SST)
    said = f"x.csv: {damaged} row(s) hold U+FFFD, a character lost before this file"
    assert table.remarks == ((said,) if damaged else ()) and table.frame["text_a"].tolist() == texts


def test_lost_characters_of_a_pair_count_once(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("id\tsentence1\tsentence2\nq\t\ufffd\t\ufffd\n", encoding="utf-8")
    assert read_tsv(path, QQP, labelled=None).remarks[0].startswith("x.csv: 1 row(s)")


def test_blank_texts_are_an_error_unless_a_policy_is_asked_for(tmp_path):
    path = sst_file(tmp_path, [*ROWS, ("a4", "", "1")])
    for read in (lambda: read_tsv(path, SST), lambda: read_tsv(path, SST, True, "error")):
        with pytest.raises(DataError, match="expected a text, found nothing"):
            read()
    assert scan_tsv(path, SST).notes == () and len(scan_tsv(path, SST).faults) == 1
    assert read_tsv(sst_file(tmp_path), SST, empty="drop").notes == ()
