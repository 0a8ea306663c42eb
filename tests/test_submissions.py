"""Submission files of the course: their layout, byte for byte, and one file a task and split."""

from dataclasses import replace

import pandas as pd
import pytest
from pipelines import project, write_preset
from typer.testing import CliRunner

from mtlib import Study
from mtlib.cli import app
from mtlib.errors import ConfigurationError, DataError
from mtlib.study.ensembles import leaders
from mtlib.study.eval_splits import Stored
from mtlib.study.submissions import splits_of, submission, write_submissions
from mtlib.workbook.plan import runs_of


def test_the_layout_is_the_course_s():
    frame = pd.DataFrame({"id": ["a", "b"], "prediction": [3, 0]})
    assert submission(frame, "sst") == "id \t Predicted_Sentiment \na , 3 \nb , 0 \n"
    assert submission(frame, "qqp") == "id \t Predicted_Is_Paraphrase \na , 3.0 \nb , 0.0 \n"
    assert submission(frame.assign(prediction=[2.5, 0]), "sts") == "id \t Predicted_Similiary \na , 2.5 \nb , 0.0 \n"


def test_a_system_s_files_are_named_by_it_and_need_no_labels(tmp_path):
    frame = pd.DataFrame({"id": ["a"], "prediction": [1]})
    system = Stored({("test", "sst"): frame, ("test", "qqp"): frame})
    paths = write_submissions(system, tmp_path / "new", "minilm-single", ["test"])
    assert [path.name for path in paths] == ["minilm-single-para-test-output.csv", "minilm-single-sst-test-output.csv"]
    assert [path.read_text() for path in paths] == [submission(frame, "qqp"), submission(frame, "sst")]
    with pytest.raises(DataError, match="no predictions of qqp on dev"):
        write_submissions(system, tmp_path, "x")


def test_a_system_without_a_task_of_the_course_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="the course has sst, qqp, sts; this system has mood"):
        write_submissions(Stored({("test", "mood"): pd.DataFrame()}), tmp_path, "x")


def test_the_command_writes_the_leaders_of_a_finished_study_and_trains_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(project(tmp_path))
    write_preset(tmp_path, only=["02_second"])
    command = ["submissions", "--preset", "mine.yaml", "--output", str(tmp_path / "out")]
    early = CliRunner().invoke(app, command)
    assert (
        early.exit_code == 66 and "not finished: 2 of 2: annealed" in early.stderr and not (tmp_path / "out").exists()
    )
    study = Study("mine.yaml")
    runs = study.fit(runs_of(study))
    assert CliRunner().invoke(app, command).exit_code == 0
    chosen = leaders({run.id: run for run in runs.values()})
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert len(names) == 12
    for name, system in chosen.items():
        for task, called in {"sst": "sst", "qqp": "para", "sts": "sts"}.items():
            path = tmp_path / "out" / f"mine-sample-{name}-{called}-test-output.csv"
            assert path.read_text() == submission(system.predictions("test", task), task)
    corpus = study.corpus
    without = {name: replace(splits, test=None) for name, splits in corpus.splits.items()}
    assert splits_of(corpus, list(corpus)) == ["dev", "test"] and splits_of(corpus, ["mood"]) == []
    assert splits_of(replace(corpus, splits=without), list(corpus)) == ["dev"]
    monkeypatch.setenv("MTLIB_RESULTS", "elsewhere")
    assert CliRunner().invoke(app, command).exit_code == 66
    assert CliRunner().invoke(app, [*command, "--results", str(study.results)]).exit_code == 0
