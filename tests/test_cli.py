"""The `mtlib` command: its files, its messages, its exit codes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from pipelines import ROOT, project, write_preset
from typer.testing import CliRunner

import mtlib
from mtlib.cli import app
from mtlib.cli.training import changed
from mtlib.errors import ConfigurationError
from mtlib.training.loop import Training
from mtlib.training.start import find

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


def test_runs_are_found_by_the_folder_of_their_corpus(corpus, trained, monkeypatch):
    for value, lines in ((corpus, 2), (corpus.name, 2), (f"folder {corpus.name}", 2), ("sample", 1)):
        said = invoke("runs", "--results", trained, "--where", f"corpus={value}")
        assert len(said.splitlines()) == lines and ("small" in said) == (lines == 2)
    monkeypatch.chdir(corpus.parent)
    for value in (f"{corpus.name}/", f"./{corpus.name}", f"../{corpus.parent.name}/{corpus.name}"):
        assert "small" in invoke("runs", "--results", trained, "--where", f"corpus={value}")


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


def test_data_check_takes_the_tasks_that_a_folder_has(corpus, tmp_path):
    for file in corpus.glob("ids-sst-*.csv"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert "faults: 0" in invoke("data", "check", tmp_path, "--encoder", "tiny", "--task", "sst")
    output = invoke("data", "check", tmp_path, "--encoder", "tiny", "--task", "sst", "--task", "sts", code=65)
    assert "faults: 2" in output and "sts-dev.csv: expected this file" in output and "quora" not in output


def test_train_evaluate_and_runs_agree(corpus, trained):
    run = mtlib.RunStore(trained).get("small")
    assert run.experiment.learning_rate == 1e-4
    assert run.experiment.steps == 3
    table = invoke("runs", "--results", trained)
    assert run.id in table
    assert f"{run.scores['mean']:.3f}" in table
    for reference in ("small", run.path):
        output = invoke("evaluate", reference, "--corpus", corpus, "--results", trained)
        assert output.startswith(f"{run.id} on folder {corpus.name}, dev\n")
        scores = dict(line.split() for line in output.splitlines()[1:])
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
    printed, other = (re.sub(r"\b\d+ s\b", "", text).splitlines()[-8:-1] for text in (output, expected))
    assert printed == other and len(printed) > 1
    one, other = (mtlib.RunStore(folder).get("short") for folder in (whole, begun))
    for task in one.experiment.tasks:
        pd.testing.assert_frame_equal(one.predictions("dev", task), other.predictions("dev", task))


def test_resume_refuses_another_corpus_and_other_settings(begun, corpus, tmp_path_factory):
    for given in (["--set", "seed=1"], ["--preset", "smoke"], ["a.json"]):
        assert "one of the three" in invoke("train", "--resume", "short", *given, "--results", begun, code=64)
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


def test_evaluate_and_predict_take_the_run_s_own_corpus_unless_told(corpus, trained, tmp_path):
    own = invoke("evaluate", "small", "--results", trained)
    assert own.startswith("small-") and "warning" not in own
    assert (
        own.splitlines()[1:] == invoke("evaluate", "small", "--corpus", corpus, "--results", trained).splitlines()[1:]
    )
    other = tmp_path / "other"
    other.mkdir()
    for file in corpus.iterdir():
        (other / file.name).write_text(file.read_text().replace("word1 ", "word2 "))
    for command in (["evaluate"], ["predict", "--output", tmp_path / "predictions"]):
        told = invoke(*command, "small", "--corpus", other, "--results", trained)
        assert "folder other is not what the run was trained on (folder corpus" in told


def test_a_run_that_was_allowed_rare_classes_is_evaluated_and_resumed_by_its_name(corpus, tmp_path):
    for split in ("train", "dev"):
        frame = pd.read_csv(corpus / f"ids-sst-{split}.csv", sep="\t", index_col=0)
        frame.assign(sentiment=frame["sentiment"] % 4).to_csv(tmp_path / f"ids-sst-{split}.csv", sep="\t")
    source = mtlib.load_corpus(tmp_path, ["sst"], allow_rare=True)
    experiment = mtlib.experiment("smoke", name="rare", tasks=["sst"], epochs=1, steps_per_epoch=1)
    run = mtlib.fit(experiment, source, tmp_path, progress="none")
    for command in (["evaluate", "rare"], ["train", "--resume", "rare"]):
        assert f"{run.scores['sst']:.3f}" in invoke(*command, "--results", tmp_path)


def test_a_scheduler_that_is_no_process_is_one_message(tmp_path, monkeypatch):
    for number in ("abc", "-1", "1.5"):
        monkeypatch.setenv("MTLIB_SCHEDULER", number)
        assert "MTLIB_SCHEDULER: expected the number of a process, found" in invoke("runs", code=64)


def test_unfinished_runs_are_not_evaluated_even_when_their_folder_is_given(begun, corpus, tmp_path):
    (run,) = mtlib.RunStore(begun).all()
    for reference in ("short", run.path):
        for command in (["evaluate"], ["predict", "--output", tmp_path / "predictions"], ["card"]):
            more = [] if command == ["card"] else ["--corpus", corpus]
            output = invoke(*command, reference, *more, "--results", begun, code=66)
            assert "expected a finished run, found status 'failed'" in output
    assert not (tmp_path / "predictions").exists()


def test_a_job_trains_the_experiments_of_its_files_and_marks_them(corpus, tmp_path):
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    ranking = mtlib.pretraining("smoke", epochs=1, steps_per_epoch=2)
    experiment = mtlib.experiment("smoke", epochs=1, steps_per_epoch=3, start_from=ranking, sampler="annealed")
    for file, each in zip(files, (ranking, experiment), strict=True):
        file.write_text(json.dumps(each.model_dump(mode="json")))
    output = invoke("train", *files, "--corpus", corpus, "--results", tmp_path, "--done")
    marks = [json.loads(file.with_suffix(".done").read_text()) for file in files]
    runs = [mtlib.RunStore(tmp_path).get(mark["run"]) for mark in marks]
    assert [run.experiment for run in runs] == [ranking, experiment]
    assert [run.identity for run in runs] == [mark["identity"] for mark in marks]
    again = invoke("train", files[1], "--corpus", corpus, "--results", tmp_path)
    assert again.splitlines()[-1] == output.splitlines()[-1]
    assert find(ranking, mtlib.load_corpus(corpus), tmp_path).complete, "a notebook finds it with the whole corpus"


def test_train_reads_the_tasks_of_what_an_experiment_starts_from_and_learns_from(corpus, tmp_path):
    short = {"epochs": 1, "steps_per_epoch": 1}
    ranking, teacher = mtlib.pretraining("smoke", **short), mtlib.experiment("smoke", tasks=["qqp", "sts"], **short)
    child = mtlib.experiment("smoke", tasks=["qqp"], start_from=ranking, teachers=[teacher], **short)
    (tmp_path / "child.json").write_text(json.dumps(child.model_dump(mode="json")))
    output = invoke("train", tmp_path / "child.json", "--corpus", corpus, "--results", tmp_path)
    assert find(child, mtlib.load_corpus(corpus), tmp_path).id in output
    knows, ranked = (find(each, mtlib.load_corpus(corpus), tmp_path) for each in (teacher, ranking))
    changes = [f"teachers={knows.id}, {knows.path}", f"start_from={ranked.id}", "tasks=[qqp]"]
    told = changed("smoke", changes, tmp_path)
    assert told.teachers == (teacher, teacher) and told.start_from == ranking
    assert changed("smoke", [f"teachers={knows.id}"], tmp_path).label == "round-robin-taught-by-1-0.5"
    for asked in (["--compare", "--corpus", corpus], ["--task", "sst", "--output", tmp_path / "none"]):
        message = invoke("export", ranked.path, *asked, code=66)
        assert "a pretraining trains the encoder alone, and its heads know nothing" in message


@pytest.mark.parametrize("key", ["start_from", "teachers"])
def test_a_run_of_another_corpus_or_of_elsewhere_is_not_trained_anew_under_its_name(trained, corpus, tmp_path, key):
    run = mtlib.RunStore(trained).find("small")
    short = ["--set", "epochs=1", "--set", "steps_per_epoch=1", "--set", f"{key}={run.path}"]
    for results, source, titled in ((trained, "sample", "sample"), (tmp_path, corpus, corpus.name)):
        message = invoke("train", "--preset", "smoke", "--corpus", source, *short, "--results", results, code=64)
        assert f"--set {key}: small" in message and titled in message and "epoch" not in message
    assert [each.id for each in mtlib.RunStore(trained).all()] == [run.id]
    invoke("train", "--preset", "smoke", "--corpus", corpus, *short, "--set", "name=heir", "--results", trained)
    invoke("rm", "heir", "--results", trained)


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"epochs": 0}', '{"epoch": 1}', "[" * 50_000, "\x00", "9" * 9000])
def test_a_file_that_is_no_experiment_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    message = invoke("train", tmp_path / "x.json", "--results", tmp_path, code=64)
    assert "x.json: " in message and len(message) < 2000


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """A small project, the current folder."""
    monkeypatch.chdir(project(tmp_path / "workshop"))
    return tmp_path / "workshop"


@pytest.mark.parametrize("goal", ["run", "plan", "resume", "report"])
@pytest.mark.parametrize(
    "options, code, message",
    [
        (["--preset", "nosuch"], 64, "unknown preset 'nosuch'"),
        (["--corpus", "no/such"], 65, "corpus 'no/such': expected"),
        (["--profile", "nope"], 64, "unknown profile 'nope' (known: default, slurm)"),
        (["--profile", "../profiles/slurm"], 64, "unknown profile"),
        (["--preset", "broken.yaml"], 64, "unknown parameter 'rate'"),
    ],
)
def test_what_cannot_be_planned_is_said_once_and_no_job_begins(workshop, monkeypatch, goal, options, code, message):
    write_preset(workshop, notebooks={"01_first": {"rate": 1}})
    (workshop / "mine.yaml").rename("broken.yaml")
    write_preset(workshop)
    monkeypatch.setattr("mtlib.workbook.pipeline.subprocess", None)
    options = options if "--preset" in options else ["--preset", "mine.yaml", *options]
    output = invoke("pipeline", goal, *options, code=code)
    assert output.count(message) == 1 and "nothing to be done" not in output
    assert output.startswith("mtlib: ") and "Traceback" not in output


def test_outside_a_project_the_pipeline_says_where_it_looks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in (["pipeline", "plan"], ["sweep", ROOT / "presets" / "sweeps" / "radius.yaml"]):
        assert "expected a Snakefile" in invoke(*command, code=64)


@pytest.mark.parametrize("results", ["r #1", "r: x"])
def test_results_may_be_called_what_yaml_reads_otherwise(workshop, results):
    output = invoke("pipeline", "plan", "--preset", "mine.yaml", "--results", results)
    assert "in all: 2 jobs that train, 2 notebooks" in output and (workshop / results / "plans").is_dir()


@pytest.mark.parametrize("option", ["--results", "--figures", "--corpus"])
def test_places_that_snakemake_would_fill_in_are_refused(workshop, option):
    (workshop / "r{x}").mkdir()
    message = invoke("pipeline", "plan", "--preset", "mine.yaml", option, "r{x}", code=64)
    assert f"{option[2:]} 'r{{x}}': expected a path without braces" in message
    assert not list((workshop / "r{x}").iterdir())


def test_a_plan_that_snakemake_refuses_is_an_error_and_not_nothing_to_be_done(workshop):
    (workshop / "Snakefile").unlink()
    (workshop / "Snakefile").write_text("rule all:\n    input: 'nowhere'\n")
    output = invoke("pipeline", "plan", "--preset", "mine.yaml", code=1)
    assert "nothing to be done" not in output and "nowhere" in output


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
            "'steps_per_epoch' is given twice",
        ),
        (["train", "--preset", "smok"], 64, "did you mean 'smoke'"),
        (
            ["train", "--preset", "smoke", "--set", "smart.=3"],
            64,
            "'smart.': expected a sampler's or a penalty's field",
        ),
        (["train", "--preset", "smoke", "--set", ".weight=3"], 64, "'.weight': expected a sampler's or a penalty's"),
        (["train", "--preset", "smoke", "--corpus", "/nowhere"], 65, "/nowhere"),
        (["train", "--preset", "smoke", "--corpus", __file__], 65, "a file: `mtlib data describe` makes YAML"),
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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("results", ["none", "many"])
def test_a_full_disk_behind_stdout_is_said_without_a_folder_that_is_not_to_blame(trained, tmp_path, results):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "mtlib", "runs", "--results", trained if results == "many" else tmp_path]
        bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LANG": "C.UTF-8", "TERM": "dumb"}
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=bare)
    assert (done.returncode, done.stderr) == (74, "mtlib: No space left on device\n")


def test_the_command_itself_prints_no_traceback():
    command = [sys.executable, "-m", "mtlib", "run", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert done.stdout == ""
    assert done.stderr.startswith("mtlib: unknown stage 'nothing'")
    assert "Traceback" not in done.stderr


def test_evaluate_shows_a_bar_where_there_is_somebody_to_see_it(corpus, trained, monkeypatch):
    assert "100%" not in invoke("evaluate", "small", "--results", trained)
    monkeypatch.setenv("MTLIB_PROGRESS", "bar")
    output = invoke("evaluate", "small", "--results", trained)
    assert output.count("100%") >= 3 and "sst: 100%" in output


def test_a_corpus_without_a_task_of_the_run_is_refused(corpus, trained, tmp_path):
    for file in corpus.glob("[!q]*.csv"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for command in (["evaluate"], ["predict", "--output", tmp_path / "predictions"]):
        message = invoke(*command, "small", "--corpus", tmp_path, "--results", trained, code=65)
        assert "quora" in message and not (tmp_path / "predictions").exists()


def test_set_reaches_the_fields_of_a_penalty_and_names_the_run_after_what_it_changes():
    experiment = changed("smoke", ["smart.weight=5", "smart.mode=ball", "sampler=annealed"], None)
    assert experiment == mtlib.experiment("smoke", sampler="annealed", penalties=[mtlib.Smart(weight=5.0, mode="ball")])
    assert experiment.label == "annealed-smart-5-ball-0.1"
    own = mtlib.preset("smoke").model_copy(update={"experiment": {"penalties": [{"kind": "smart", "weight": 5.0}]}})
    assert changed(own, ["smart.mode=projected"], None).penalties == (mtlib.Smart(weight=5.0, mode="projected"),)
    other = changed("smoke", ["learning_rate=1e-4", "smart.weight=5", "smart.steps=2"], None)
    assert other.name == "round-robin-smart-5-learning-rate-1e-4-smart.steps-2"
    assert (
        other.digest
        == mtlib.experiment("smoke", learning_rate=1e-4, penalties=[mtlib.Smart(weight=5.0, steps=2)]).digest
    )
    assert changed("smoke", ["learning_rate=1e-4", "name=mine"], None).name == "mine"
    with pytest.raises(ConfigurationError, match="unknown penalty 'smrat'"):
        changed("smoke", ["smrat.weight=5"], None)


@pytest.mark.parametrize(
    "made, options, again",
    [
        ({}, [], "mtlib pipeline resume --preset=mine.yaml"),
        (
            {},
            [
                "--corpus=my data",
                "--jobs=4",
                "--threads=2",
                "--profile=slurm",
                "--results=/r s",
                "--",
                "--forceall",
            ],
            "mtlib pipeline resume --preset=mine.yaml '--corpus=my data' --jobs=4 --threads=2 --profile=slurm "
            "'--results=/r s' -- --forceall",
        ),
        (
            {"MTLIB_MAKE_PRESET": "mine.yaml", "MTLIB_TRACKER": "wandb"},
            ["--corpus=my data", "--jobs=4"],
            "make resume PRESET=mine.yaml 'CORPUS=my data' JOBS=4 TRACKER=wandb",
        ),
    ],
)
def test_the_command_that_goes_on_is_whole(workshop, monkeypatch, made, options, again):
    told = []
    monkeypatch.setattr("mtlib.workbook.pipeline.prepare", lambda *given: told.append(given[-1]))
    monkeypatch.setattr("mtlib.workbook.pipeline.snakemake", lambda *_, **__: 0)
    (workshop / "my data").symlink_to(workshop / "notebooks")
    for name in ("MTLIB_MAKE_PRESET", "MTLIB_TRACKER", "MTLIB_IMPORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in made.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("mtlib.workbook.plan.Plan", lambda *_: None)
    invoke("pipeline", "run", "--preset=mine.yaml", *options)
    assert told == [again]
