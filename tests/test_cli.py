"""The `mtlib` command: its files, its messages, its exit codes."""

import subprocess
import sys

import pandas as pd
import pytest
from typer.testing import CliRunner

import mtlib
from mtlib.cli import app, submission
from mtlib.study.grids import Study
from mtlib.training.loop import Training

COLUMNS = {
    "ids-sst": (["sentence"], "sentiment", [i % 5 for i in range(20)]),
    "quora": (["sentence1", "sentence2"], "is_duplicate", [float(i % 2) for i in range(20)]),
    "sts": (["sentence1", "sentence2"], "similarity", [i % 11 / 2 for i in range(20)]),
}


def invoke(*arguments, code=0):
    """Output of `mtlib <arguments>`, checked to end with `code`."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result.output


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A small corpus in the CS224N layout, its test files without labels."""
    folder = tmp_path_factory.mktemp("corpus")
    for stem, (texts, label, labels) in COLUMNS.items():
        for split in ("train", "dev", "test-student"):
            frame = pd.DataFrame({"id": [f"{stem}{split}{i}" for i in range(20)]})
            for column in texts:
                frame[column] = [f"the {split} {column} says word{i} and word{7 * i % 20}" for i in range(20)]
            if split != "test-student":
                frame[label] = labels
            frame.to_csv(folder / f"{stem}-{split}.csv", sep="\t")
    return folder


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """Results folder with one finished run, trained by the command."""
    results = tmp_path_factory.mktemp("results")
    changes = ["--set", "epochs=1", "--set", "steps_per_epoch=3", "--set", "learning_rate=1e-4", "--set", "name=small"]
    output = invoke("train", "--preset", "smoke", "--corpus", corpus, *changes, "--results", results)
    assert "stored in" in output
    return results


def test_data_check_counts_and_names_every_fault(corpus, tmp_path):
    output = invoke("data", "check", corpus, "--encoder", "tiny")
    assert "tokens" in output
    assert "faults: 0" in output
    for file in corpus.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    broken = tmp_path / "ids-sst-dev.csv"
    broken.write_text(broken.read_text().replace("\t1\n", "\t7\n", 1))
    output = invoke("data", "check", tmp_path, "--encoder", "tiny", code=65)
    assert "faults: 1" in output
    assert "ids-sst-dev.csv:3" in output


def test_train_evaluate_and_runs_agree(corpus, trained):
    run = mtlib.RunStore(trained).get("small")
    assert run.experiment.learning_rate == 1e-4
    assert run.experiment.steps == 3
    table = invoke("runs", "--results", trained)
    assert run.id in table
    assert f"{run.scores['mean']:.3f}" in table
    for reference in ("small", run.path):
        scores = dict(
            line.split()
            for line in invoke("evaluate", reference, "--corpus", corpus, "--results", trained).splitlines()
        )
        assert {"sst", "qqp", "sts", "mean", "evenness"} <= scores.keys()
        assert 0 <= float(scores["mean"]) <= 1


SHORT = ["--set", "epochs=2", "--set", "steps_per_epoch=2", "--set", "name=short"]


@pytest.fixture
def begun(corpus, tmp_path, monkeypatch):
    """Results folder with a run that ended at its third step of four."""
    step = Training._step

    def ending(self, number):
        if number == 2:
            raise MemoryError("no more")
        step(self, number)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "_step", ending)
        arguments = ["train", "--preset", "smoke", "--corpus", corpus, *SHORT, "--results", tmp_path]
        assert isinstance(CliRunner().invoke(app, [str(each) for each in arguments]).exception, MemoryError)
    (run,) = mtlib.RunStore(tmp_path).all()
    assert run.status == "failed"
    return tmp_path


def test_a_run_resumed_by_its_name_comes_to_the_same_scores(begun, corpus, tmp_path_factory):
    whole = tmp_path_factory.mktemp("whole")
    expected = invoke("train", "--preset", "smoke", "--corpus", corpus, *SHORT, "--results", whole)
    output = invoke("train", "--resume", "short", "--corpus", corpus, "--results", begun)
    assert output.splitlines()[-8:-1] == expected.splitlines()[-8:-1]
    one, other = (mtlib.RunStore(folder).get("short") for folder in (whole, begun))
    for task in one.experiment.tasks:
        pd.testing.assert_frame_equal(one.predictions("dev", task), other.predictions("dev", task))


def test_resume_refuses_another_corpus_and_other_settings(begun, corpus, tmp_path_factory):
    assert "expected --corpus" in invoke("train", "--resume", "short", "--results", begun, code=64)
    assert "keeps its settings" in invoke("train", "--resume", "short", "--set", "seed=1", "--results", begun, code=64)
    other = tmp_path_factory.mktemp("other")
    for file in corpus.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    changed = other / "sts-train.csv"
    changed.write_text(changed.read_text().replace("word1 ", "word2 ", 1))
    message = invoke("train", "--resume", "short", "--corpus", other, "--results", begun, code=66)
    assert "the corpus changed since the run began" in message
    (run,) = mtlib.RunStore(begun).all()
    assert run.status == "failed"


def test_predict_writes_the_submission_layout_and_the_probabilities(corpus, trained, tmp_path):
    invoke("predict", "small", "--corpus", corpus, "--results", trained, "--output", tmp_path / "predictions")
    full = pd.read_csv(tmp_path / "predictions" / "test-sst.csv")
    assert list(full) == ["id", "prediction", "p0", "p1", "p2", "p3", "p4"]
    assert (full.filter(regex="p.$").sum(axis=1) - 1).abs().max() < 1e-6
    header = {"sst": "Predicted_Sentiment", "para": "Predicted_Is_Paraphrase", "sts": "Predicted_Similiary"}
    for (stem, column), source in zip(header.items(), COLUMNS, strict=True):
        lines = (tmp_path / "predictions" / f"{stem}-test-output.csv").read_text().splitlines()
        assert lines[0] == f"id \t {column} "
        assert [line.split(" , ")[0] for line in lines[1:]] == [f"{source}test-student{i}" for i in range(20)]
        assert all(line.endswith(" ") for line in lines)
        values = [line.split(" , ")[1].strip() for line in lines[1:]]
        assert stem != "sst" or set(values) <= set("01234")
        assert stem != "para" or set(values) <= {"0.0", "1.0"}
    invoke("evaluate", "small", "--corpus", corpus, "--results", trained, "--split", "test", code=65)


def test_the_submission_layout_is_the_course_s():
    frame = pd.DataFrame({"id": ["a", "b"], "prediction": [3, 0]})
    assert submission(frame, "Predicted_Sentiment", as_float=False) == "id \t Predicted_Sentiment \na , 3 \nb , 0 \n"
    assert submission(frame, "X", as_float=True) == "id \t X \na , 3.0 \nb , 0.0 \n"


def test_tables_and_figures_come_from_finished_runs_alone(corpus, tmp_path):
    study = ["--preset", "smoke", "--corpus", corpus, "--results", tmp_path]
    output = invoke("tables", *study)
    assert "data_summary, data_balance, data_lengths, data_leakage, data_difficulty\n" in output
    assert "missing: table_7: run baseline-" in output and "`make run` trains what is missing" in output
    Study("smoke", str(corpus), tmp_path, progress="none").baseline()
    runs = list((tmp_path / "runs").iterdir())
    output = invoke("figures", *study, "--figures", tmp_path / "figures")
    folder = tmp_path / "figures" / f"smoke-{corpus.name}"
    assert f"{folder}: data_balance, data_lengths, data_difficulty, learning_curves\n" in output
    assert "missing: figure_1b: run baseline-smart-" in output
    assert {path.suffix for path in folder.glob("learning_curves.*")} == {".pdf", ".png"}
    assert len(list(folder.iterdir())) == 8
    assert list((tmp_path / "runs").iterdir()) == runs


def test_training_writes_a_model_card_and_card_writes_it_anew(trained):
    path = mtlib.RunStore(trained).get("small").path / "model" / "README.md"
    text = path.read_text()
    path.unlink()
    assert invoke("card", "small", "--results", trained).strip() == str(path)
    assert path.read_text() == text


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["train", "--preset", "smoke", "--set", "learing_rate=1"], 64, "did you mean 'learning_rate'"),
        (["train", "--preset", "smoke", "--set", "steps"], 64, "--set steps: expected --set name=value"),
        (
            ["train", "--preset", "smoke", "--set", "steps_per_epoch=1", "--set", "steps_per_epoch=2"],
            64,
            "'steps' is given twice",
        ),
        (["train", "--preset", "smok"], 64, "did you mean 'smoke'"),
        (["train", "--preset", "smoke", "--corpus", "/nowhere"], 65, "/nowhere"),
        (["evaluate", "nothing"], 64, "nothing"),
        (["run", "nothing"], 64, "unknown stage 'nothing'"),
        (["run", "../x"], 64, "given by its path"),
        (["run"], 64, "--path"),
    ],
)
def test_a_fault_is_one_message_and_its_exit_code(arguments, code, message, tmp_path):
    if arguments[0] in ("train", "evaluate"):
        arguments = [*arguments, "--results", str(tmp_path)]
    assert message in invoke(*arguments, code=code)


def test_the_command_itself_prints_no_traceback():
    command = [sys.executable, "-m", "mtlib", "run", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert done.stdout == ""
    assert done.stderr.startswith("mtlib: unknown stage 'nothing'")
    assert "Traceback" not in done.stderr
