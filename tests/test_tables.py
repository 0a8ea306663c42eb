"""Tables beside the published ones, the files they become, and what a notebook shows of them."""

import hashlib
import re

import numpy as np
import pandas as pd
import pytest

from mtlib.errors import ConfigurationError, StorageError
from mtlib.study import paper, tables
from mtlib.tasks import TASKS, Task


def ours():
    """Two published rows of Table 6 and a control, as runs' scores come."""
    return pd.DataFrame(
        {
            "qqp": [0.80, 0.81, 0.82],
            "sst": [0.4, 0.5, 0.6],
            "sts": [0.9, 0.91, 0.92],
            "mean": [0.7, 0.74, 0.78],
            "evenness": 0.5,
            "trained": "2 x 100 x 16, 5e-05",
            "run": ["x_1", "y", "z"],
        },
        index=["no penalty", "25 epochs, lr 1e-6, μ = 1, β = 0.75", "10 epochs, lr 1e-5, μ = 1, β = 0.9"],
    )


def test_ours_stand_beside_the_paper_in_its_order_and_controls_come_last():
    found = tables.beside_paper(ours(), 6)
    assert found["run"].tolist() == ["z", "y", "x_1"] and found.index[2] == "no penalty"
    assert list(found.columns) == [
        *("qqp", "qqp paper", "qqp difference", "sst", "sst paper", "sst difference", "sts", "sts paper"),
        *("sts difference", "mean", "mean paper", "mean difference", "evenness", "trained", "trained paper", "run"),
    ]
    assert found["sst difference"].tolist()[:2] == pytest.approx([0.6 - 0.551, 0.5 - 0.553])
    assert found.iloc[2][["sst paper", "sst difference", "mean paper"]].isna().all()
    assert found["trained paper"].tolist() == ["10 x 1000 x 16, 1e-05", "25 x 1000 x 16, 1e-06", ""]
    pd.testing.assert_frame_equal(found, tables.beside_paper(ours().iloc[[2, 1, 0]], 6))


def test_a_mean_of_other_tasks_has_none_beside_it_row_by_row():
    scores = ours()
    scores.loc["25 epochs, lr 1e-6, μ = 1, β = 0.75", ["qqp", "sts"]] = np.nan
    found = tables.beside_paper(scores, 6)
    for column in ("mean paper", "mean difference"):
        assert found[column].notna().tolist() == [True, False, False]
    assert found["sst difference"].notna().tolist() == [True, True, False]
    assert tables.beside_paper(ours(), 6)["mean paper"].notna().tolist() == [True, True, False]


def test_columns_are_the_same_in_every_table_and_few_where_it_is_short():
    scores = ours().drop(columns=["trained", "qqp"])
    kinds = {number: tuple(tables.beside_paper(scores, number).columns) for number in paper.TITLES}
    assert len(set(kinds.values())) == 1
    short = tables.beside_paper(ours(), 6, short=True)
    assert list(short.columns) == [
        *("qqp", "qqp paper", "sst", "sst paper", "sts", "sts paper", "mean", "mean paper", "mean difference"),
        *("evenness", "trained", "trained paper"),
    ]


def test_the_paper_beside_itself_differs_nowhere():
    for number in paper.TITLES:
        found = tables.beside_paper(paper.table(number)[paper.METRICS], number)
        assert (found[[f"{metric} difference" for metric in paper.METRICS]] == 0).all(axis=None)
        assert list(found.index) == list(paper.table(number).index)


def test_a_row_that_occurs_twice_is_refused():
    with pytest.raises(ConfigurationError, match="'no penalty' occurs twice"):
        tables.beside_paper(pd.concat([ours(), ours().iloc[:1]]), 6)


def test_what_was_trained_is_said_alike_of_an_experiment_and_of_a_published_row():
    assert tables.trained(**paper.settings(1, "8 x 1000")) == "10 x 1000 x 8, 1e-05"
    settings = {"epochs": 3, "steps_per_epoch": 7, "batch_size": 2, "learning_rate": 2e-4, "seed": 1}
    assert tables.trained(**settings) == "3 x 7 x 2, 0.0002"


def test_written_tables_read_back(tmp_path):
    table = tables.beside_paper(ours(), 6)
    paths = tables.write_table(table, "table_6", tmp_path, caption="Ours & theirs")
    assert [path.name for path in paths] == ["table_6.csv", "table_6.md", "table_6.tex"]
    found = pd.read_csv(paths[0], index_col="setting").fillna({"trained paper": ""})
    pd.testing.assert_frame_equal(found, table)
    lines = paths[1].read_text().splitlines()
    assert lines[0] == "**Ours & theirs**" and len(lines) == 2 + 2 + len(table)
    cells = [cell.strip() for cell in lines[4].split("|")]
    assert cells[1] == "10 epochs, lr 1e-5, μ = 1, β = 0.9" and "0.600" in cells and "+0.049" in cells
    assert "nan" not in paths[1].read_text()
    tex = paths[2].read_text()
    assert "\\caption{Ours \\& theirs}" in tex and "x\\_1" in tex
    assert not re.search(r"(?<!\\)[_%#]", tex.split("\\toprule")[1])
    before = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    tables.write_table(table, "table_6", tmp_path, caption="Ours & theirs")
    assert before == [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_numbers_of_rows_are_not_written(tmp_path):
    csv, _, _ = tables.write_table(pd.DataFrame({"a": [1.0], "b": ["x"]}), "t", tmp_path)
    assert csv.read_text() == "a,b\n1.0,x\n"
    table = pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]})
    csv, _, _ = tables.write_table(table[table["b"] == "y"], "t", tmp_path)
    assert csv.read_text() == "a,b\n2.0,y\n" and tables.pretty(table[table["b"] == "y"]).index.tolist() == [""]


def test_numbers_that_have_a_name_are_names(tmp_path):
    table = pd.DataFrame({"width": [0.5, 0.25]}, index=pd.RangeIndex(1, 3, name="seeds"))
    csv, _, _ = tables.write_table(table, "t", tmp_path)
    assert csv.read_text() == "seeds,width\n1,0.5\n2,0.25\n" and tables.pretty(table).index.tolist() == [1, 2]


def test_a_caption_is_text_in_latex_too(tmp_path):
    _, _, tex = tables.write_table(pd.DataFrame({"a": ["x"]}), "t", tmp_path, caption="A\\B ~ x^2 & {y}")
    assert r"\caption{A\textbackslash{}B \textasciitilde{} x\textasciicircum{}2 \& \{y\}}" in tex.read_text()


def test_a_folder_that_cannot_be_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        tables.write_table(ours(), "t", tmp_path / "file")


def test_numbers_are_shown_as_what_they_are():
    table = pd.DataFrame({"penalty": [1.62e-6, 4e-4, 6e-4, 0.0], "decay": [1e-5, 0.3, 3.0, 1.0]})
    table = table.assign(seconds=[61.7, 8.0, 0.4, np.nan], resolved=[True, False, None, "no"])
    shown = tables.pretty(table)
    assert shown["penalty"].tolist() == ["1.6e-06", "4.0e-04", "0.001", "0.000"]
    assert shown["decay"].tolist() == ["1e-05", "0.3", "3", "1"]
    assert shown["seconds"].tolist() == ["62", "8", "0", ""] and shown["resolved"].tolist() == ["yes", "no", "", "no"]
    limits = {"low": [-1.4e-5, 0.012], "share high": [4e-4, 1.0]}
    bounds = tables.pretty(pd.DataFrame({"difference": [2e-4, 0.0], **limits}))
    assert bounds.iloc[0].tolist() == ["+0.0002", "-1e-05", "0.0004"]
    assert bounds.iloc[1].tolist() == ["+0.000", "0.012", "1.000"] and bounds.index.tolist() == ["", ""]


def test_chosen_columns_are_those_that_are_there_and_rows_keep_their_names():
    shown = tables.pretty(ours(), ["mean", "absent", "sst"], digits=2)
    assert list(shown.columns) == ["mean", "sst"] and shown.loc["no penalty"].tolist() == ["0.70", "0.40"]


EVIL = '<script>alert("x")</script>'


@pytest.mark.parametrize("show", [tables.readable, tables.pretty], ids=["readable", "pretty"])
def test_a_sentence_is_text_and_no_markup(show):
    page = show(pd.DataFrame({"text": [EVIL], EVIL: [0.123]}))._repr_html_()
    assert "<script" not in page and page.count("&lt;script&gt;") == 2


def test_sentences_stand_on_the_left_and_the_page_is_the_same_every_time():
    table = pd.DataFrame({"text": ["A mess."], "score": [0.123]})
    page = tables.readable(table).to_html()
    assert re.search(r"th\.col0 \{\s*text-align: left;", page) and "col1 {" not in page
    assert re.search(r"row0_col0 \{\s*text-align: left;", page) and ">0.12<" in page
    assert page == tables.readable(table).to_html()


def test_a_mean_of_other_tasks_stands_beside_no_published_one(monkeypatch):
    monkeypatch.setitem(TASKS, "news", Task("news", "binary", ("text",), "label"))
    for scores in (ours().assign(news=1.0), ours().drop(columns="sts")):
        found = tables.beside_paper(scores, 6)
        assert found[["mean paper", "mean difference"]].isna().all(axis=None)
        assert found["sst difference"].notna().sum() == 2
