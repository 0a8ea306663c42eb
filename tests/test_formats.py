"""The table of forms: sizes are the files', scores the predictions', and what a form loses is said."""

import pandas as pd
import pytest
from test_cli import invoke

from mtlib.study import formats
from mtlib.study.eval_splits import REPORTING, task_scores


@pytest.fixture(scope="module")
def table(run, corpus):
    return formats.table(run.model(), corpus, timed=10, rounds=1).set_index("form")


def test_every_form_has_its_size_speed_and_scores(table, run):
    assert list(table.index) == ["float32", "bfloat16", "ONNX", "ONNX int8"]
    assert table.loc["ONNX int8", "MB"] < 0.4 * table.loc["float32", "MB"]
    assert (table["texts_per_second"] > 0).all()
    for task, score in task_scores(run, REPORTING).items():
        assert table.loc["float32", task] == pytest.approx(score, abs=0.02), "as stored, which may be in bfloat16"
        assert table.loc["ONNX", task] == pytest.approx(table.loc["float32", task], abs=1e-3)


def test_the_verdict_says_slower_and_which_score_it_costs():
    rows = pd.DataFrame({"texts_per_second": {"float32": 100.0, "a": 50.0, "b": 99.0}})
    differences = pd.DataFrame(
        {
            "system": ["a", "a", "b"],
            "task": ["sst", "mean", "sst"],
            "difference": [-0.1, 0.0, -0.1],
            "resolved": ["yes", "no", "no"],
        }
    )
    assert formats._verdict("a", rows, differences) == "slower than float32 (x 0.50); costs score (sst)"
    assert formats._verdict("b", rows, differences) == "x 0.99 of float32's speed; no loss of score resolved"


def test_the_command_writes_each_form(run, tmp_path):
    output = invoke("export", run.path, "--task", "sst", "--output", tmp_path / "sst")
    assert output.startswith(str(tmp_path / "sst")) and (tmp_path / "sst" / "model.safetensors").is_file()
    for options in ([], ["--task", "sst", "--onnx"], ["--compare", "--int8"]):
        assert "one of the three" in invoke("export", run.path, *options, code=64)
    assert "unknown task 'foo'" in invoke("export", run.path, "--task", "foo", code=64)
