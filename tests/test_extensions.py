"""Modules of one's own: runs made with them are listed anywhere, and loaded where the module is imported."""

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
from conftest import write_corpus
from pipelines import ROOT, environment, project, trains, write_preset
from typer.testing import CliRunner

import mtlib
from mtlib.cli import app
from mtlib.errors import ConfigurationError, UnknownKindError
from mtlib.experiments import read_experiment
from mtlib.extensions import IMPORTS, import_modules
from mtlib.study import eval_splits
from mtlib.tasks import TASKS

EXPLORE = ROOT / "notebooks" / "09_explore.ipynb"

OWN = '''"""A penalty of one's own."""
from typing import Literal

from mtlib.objectives.penalty import Dropout, Penalty


class Small(Penalty):
    """Large logits cost."""

    kind: Literal["small_logits"] = "small_logits"
    dropout: Dropout = "independent"

    def __call__(self, step):
        step.forward(step.embeddings)
        return step.logits.float().square().mean()
'''


def command(*arguments, folder, code=0, **more):
    """What `mtlib ...` prints in a process of its own, which ends with `code`."""
    line = [sys.executable, "-m", "mtlib", *map(str, arguments)]
    done = subprocess.run(line, cwd=folder, env=environment(**more), capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A project whose preset imports a module beside it, and a short run with that module's penalty."""
    folder = project(tmp_path_factory.mktemp("workshop"))
    (folder / "own_small.py").write_text(OWN)
    corpus = write_corpus(folder / "corpus")
    write_preset(folder, mtlib={"import": ["own_small"]}, corpus=str(corpus))
    changes = ["--set", "penalties=[{kind: small_logits, weight: 0.1}]", "--set", "epochs=1"]
    command("train", "--preset=mine.yaml", *changes, folder=folder)
    return folder


@pytest.mark.slow
def test_the_pipeline_s_jobs_and_kernels_know_what_the_preset_imports(workshop):
    (workshop / "notebooks" / "02_second.ipynb").unlink()
    runs = 'runs = {"small": study.experiment(penalties=[{"kind": "small_logits", "weight": 0.1}])}'
    trains(workshop / "notebooks" / "01_first.ipynb", runs)
    options = ["--preset=mine.yaml", "--jobs=1", "--threads=1", "--results=piped"]
    command("pipeline", "run", *options, folder=workshop)
    (run,) = mtlib.RunStore(workshop / "piped").all()
    assert run.complete
    assert (workshop / "piped" / "notebooks" / "mine-corpus" / "01_first.ipynb").is_file()


def test_a_run_of_an_unknown_penalty_is_listed_and_refused_by_name(workshop):
    store = mtlib.RunStore(workshop / "results")
    (own,) = store.all()
    (row,) = store.table().to_dict("records")
    assert row["status"] == "unknown penalty 'small_logits', see --import"
    assert row["mean"] == own.scores["mean"] and row["steps"] == 6
    assert len(store.table(where=[("small_logits.weight", "0.1"), ("penalties", "small_logits")])) == 1
    with pytest.raises(UnknownKindError, match=r"unknown penalty 'small_logits'.*--import MODULE"):
        _ = own.experiment
    said = CliRunner().invoke(app, ["evaluate", str(own.path)])
    assert said.exit_code == 64 and "small_logits" in said.output and said.output.count("\n") == 1


@pytest.fixture
def mixed(workshop, tmp_path):
    """A store with that run, one of a fourth task, whose task is forgotten again, and an ordinary one; its corpus."""
    for path in (workshop / "results" / "runs").glob("*-*"):
        shutil.copytree(path, tmp_path / "results" / "runs" / path.name)
    corpus = mtlib.load_corpus(workshop / "corpus")
    animals = mtlib.Task("animals", "binary", ("text",), "cat", names=("dog", "cat"), title="Animals")
    texts = [f"the {'cat' if n % 2 else 'dog'} of number {n}" for n in range(80)]
    table = pd.DataFrame({"text": texts, "cat": ["cat" if n % 2 else "dog" for n in range(80)]})
    both = corpus.joined(mtlib.Corpus.from_frames("animals", {animals: table}))
    short = {"epochs": 1, "steps_per_epoch": 4}
    mtlib.fit(mtlib.experiment("smoke", name="fourth", tasks=list(both), **short), both, tmp_path / "results")
    mtlib.fit(mtlib.experiment("smoke", name="plain", **short), corpus, tmp_path / "results")
    del TASKS["animals"]
    yield tmp_path / "results", corpus
    TASKS.pop("animals", None)


def test_runs_of_an_unknown_penalty_and_of_a_fourth_task_hide_no_other(mixed, capsys):
    results, corpus = mixed
    unknown = next(run for run in mtlib.RunStore(results).all() if run.id.startswith("round-robin"))
    listed = CliRunner().invoke(app, ["runs", "--results", str(results)]).output
    assert all(run.id[-8:] in listed for run in mtlib.RunStore(results).all()) and "animals" in listed
    for name, code in {"plain": 0, "fourth": 65}.items():
        said = CliRunner().invoke(app, ["evaluate", name, "--results", str(results), "--corpus", corpus.source])
        assert said.exit_code == code, said.output
    assert "animals-train.csv: expected this file" in said.output, "of the task that this corpus does not have"
    fourth = mtlib.RunStore(results).get("fourth")
    assert (
        fourth.experiment.tasks[-1] == "animals"
        and fourth.model().predict("animals", "a cat")["label"].isin(["dog", "cat"]).all()
    )

    (cell,) = [
        each.source for each in nbformat.read(EXPLORE, 4).cells if "RunStore(study.results).all()" in each.source
    ]
    study = SimpleNamespace(results=results, corpus=corpus, experiment=lambda: mtlib.experiment("smoke"))
    names = {"study": study, "called": {}, "Dev": mtlib.Dev, "MtlibError": mtlib.MtlibError, "RunStore": mtlib.RunStore}
    exec(cell, names | {"eval_splits": eval_splits})
    left_out, counted = capsys.readouterr().out.strip().splitlines()[-2:]
    assert left_out.startswith(f"left out: {unknown.id}: ") and "unknown penalty 'small_logits'" in left_out
    assert counted.startswith("1 runs can be compared")


@pytest.mark.parametrize("name", ["own_small", "own_small.py"])
def test_import_makes_it_known_to_the_command(workshop, name):
    (own,) = mtlib.RunStore(workshop / "results").all()
    said = command("evaluate", own.id, "--import", name, folder=workshop)
    assert f"{own.scores['mean']:.3f}" in said
    assert "small_logits" not in command("runs", folder=workshop, **{IMPORTS: str(workshop / "own_small.py")})


@pytest.mark.parametrize("field", [{"sampler": {"kind": "nosuch"}}, {"tasks": ["nosuch"]}, {"task": "nosuch"}])
def test_every_kind_of_unknown_is_named_also_where_a_run_starts_from_it(field):
    for fields in (field, {"start_from": field}):
        with pytest.raises(UnknownKindError, match=r"unknown (sampler|task) 'nosuch'.*--import"):
            read_experiment(fields, "here")


@pytest.fixture
def clean(monkeypatch):
    """What a test imports is forgotten."""
    monkeypatch.delenv(IMPORTS, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_modules_come_from_the_folder_by_name_and_by_path(clean, tmp_path):
    (tmp_path / "own_one.py").write_text("import own_two\nvalue = own_two.value")
    (tmp_path / "own_two.py").write_text("value = 2")
    import_modules(["own_one", "own_two.py", "json"], tmp_path)
    assert sys.modules["own_one"].value == 2
    expected = [str(tmp_path / "own_one.py"), str(tmp_path / "own_two.py"), "json"]
    assert os.environ[IMPORTS].split(os.pathsep) == expected
    import_modules(["own_one"], tmp_path)
    assert os.environ[IMPORTS].split(os.pathsep) == expected


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("nowhere_at_all", None, "ModuleNotFoundError"),
        ("own_missing.py", None, "own_missing.py: expected a .py file, found none"),
        ("../json.py", None, "json.py: expected a .py file, found none"),
        ("own_leaving.py", "raise SystemExit(0)", "found SystemExit: 0"),
        ("own_broken.py", "1 / 0", "ZeroDivisionError"),
        ("json.py", "", "another module 'json'"),
    ],
)
def test_what_cannot_be_imported_is_one_error(clean, tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        import_modules([name], tmp_path)
    assert IMPORTS not in os.environ
