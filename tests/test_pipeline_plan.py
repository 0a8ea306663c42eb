"""What a change makes stale: by the plan for every key of a preset and every parameter, by a dry run for some."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import write_corpus
from pipelines import PARAMETERS, ROOT, environment, executed, pipeline, planned, project, trains, write_preset

from mtlib.experiments import Experiment, Pretraining
from mtlib.presets import Preset, preset, preset_names
from mtlib.workbook.parameters import read_parameters
from mtlib.workbook.pipeline import cores_of_a_job, fingerprint, prepare, snakemake
from mtlib.workbook.plan import Plan

LOOKING = "runs = {}"
"""A notebook that trains nothing, and still reads encoder, tasks and sizes of its preset."""

ALL, TRAINING, FIRST = "01_first 02_second 03_looking", "01_first 02_second", "01_first"
STALE = {
    "corpus": ("sample", ALL),
    "encoder": ("minilm", ALL),
    "encoder_revision": ("a" * 40, ALL),
    "dial": (0.0009, ALL),
    "learning_rate": (2e-3, ALL),
    "seeds": ([0, 1], ""),
    "experiment__max_tokens": (32, ALL),
    "experiment__dev_limit": (50, ALL),
    "experiment__warmup": (0.5, ALL),
    "pretraining__steps_per_epoch": (7, FIRST),
    "mtlib": ({"import": ["json"]}, ""),
    "only": (["01_first", "02_second", "03_looking"], ""),
    "notebooks__01_first__rates": ([3e-5], FIRST),
    "notebooks__03_looking__seed": (1, "03_looking"),
}
"""For each key of a preset another value, and the notebooks that depend on it."""

SAMPLED = ("pretraining__steps_per_epoch",)


def asked(plan: Plan) -> dict[str, str]:
    """Everything that a plan tells the job of each notebook, and the experiments behind the runs that it waits for."""
    about = json.loads(plan.write(Path("plan.json"), "figures", plan.corpus).read_text())
    common = [about["corpus"], about["basis"]]
    return {name: json.dumps([common, stage["parameters"], stage["after"]]) for name, stage in about["stages"].items()}


def stale(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {stage for stage in after if before.get(stage) != after[stage]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The small project with a third notebook, the current folder."""
    monkeypatch.chdir(project(tmp_path))
    trains(tmp_path / "notebooks" / "03_looking.ipynb", LOOKING)
    return tmp_path


def test_every_key_of_a_preset_is_tried():
    assert set(Preset.model_fields) == {key.partition("__")[0] for key in STALE}


@pytest.mark.parametrize("key", STALE)
def test_a_changed_value_makes_stale_what_depends_on_it(folder, key):
    value, expected = STALE[key]
    write_preset(folder, corpus="elsewhere")
    before = asked(Plan("mine.yaml"))
    write_preset(folder, **{"corpus": "elsewhere", key: value})
    assert stale(before, asked(Plan("mine.yaml"))) == set(expected.split())


OTHER = {
    "epochs": 3, "steps_per_epoch": 3, "batch_size": 2, "learning_rate": 0.5, "weight_decay": 0.5, "betas": [0.1, 0.2],
    "warmup": 0.1, "schedule": "halve", "clip": 0.5, "precision": "float32", "max_tokens": 16, "head_dropout": 0.5,
    "pooling": "cls", "tasks": ["sst"], "sampler": "annealed", "dev_limit": 7, "task": "other", "scale": 3.0,
    "penalties": [{"kind": "smart", "weight": 1.0}], "false_negatives": "mask", "encoder": "minilm", "seed": 3,
    "encoder_revision": "a", "start_from": {"task": "sst", "encoder": "tiny"}, "layer_decay": 0.9, "step": "joint",
    "aggregate": "upgrad", "phrases": 0.5, "losses": {"sst": {"kind": "ordinal"}}, "soft_share": 0.25,
    "temperature": 3.0, "teachers": [{"encoder": "tiny"}], "averages": [{"kind": "ema"}],
    "stored": "ema", "conflicts": 5, "head_rate": 10.0,
}  # fmt: skip
TAUGHT = {"teachers": [{"encoder": "tiny", "seed": 1}]}
NEEDS = {
    "stored": {"averages": [{"kind": "ema"}]},
    "aggregate": {"step": "joint"},
    "soft_share": TAUGHT,
    "temperature": TAUGHT,
}
"""Fields that can be other than they are by default only beside others."""


@pytest.mark.parametrize("kind", [Experiment, Pretraining])
def test_every_field_of_an_experiment_is_part_of_its_digest(kind):
    plain = kind(encoder="tiny", **({"batch_size": 5} if kind is Pretraining else {}))
    for field in set(kind.model_fields) - {"name", "task", *(["head_dropout"] if kind is Pretraining else [])}:
        start = {} if field in ("encoder", "encoder_revision") else {"encoder": "tiny"}
        without = plain.but(**NEEDS[field]) if field in NEEDS else plain
        assert kind.model_validate({**start, **NEEDS.get(field, {}), field: OTHER[field]}).digest != without.digest
    assert plain.but(name="other").digest == plain.digest


def another(value):
    """Another value of a parameter, of its type; of a list of one, which may not be empty, and of a dict the same."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, list | dict):
        return value[:1] if isinstance(value, list) else value
    return value / 2 if isinstance(value, float) else value + {int: 1, str: "x"}[type(value)]


@pytest.mark.parametrize("stage", sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")))
def test_every_parameter_of_a_notebook_reaches_its_job(stage, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    known, smoke = read_parameters(ROOT / "notebooks" / f"{stage}.ipynb"), preset("smoke")
    own = {name: parameter for name, parameter in known.items() if name not in ("preset", "corpus", "train")}
    assert {"preset", "corpus", "seed", "train"} <= set(known)
    others = [preset(name).notebooks.get(stage, {}) for name in preset_names()]
    here = {name: parameter.default for name, parameter in own.items()} | smoke.notebooks.get(stage, {})

    def planned(**values) -> dict[str, tuple]:
        notebooks = smoke.notebooks | {stage: smoke.notebooks.get(stage, {}) | values}
        (tmp_path / "smoke.yaml").write_text(yaml.safe_dump(smoke.model_dump() | {"notebooks": notebooks}))
        stages = Plan(str(tmp_path / "smoke.yaml")).stages
        return {name: (each.parameters, each.digests) for name, each in stages.items()}

    before = planned()
    for name, parameter in own.items():
        values = [each[name] for each in others if name in each] + [parameter.default]
        if different := [value for value in values if value != here[name]]:
            after = planned(**{name: different[0]})
            changed = {key for key in after if after[key] != before[key]}
            assert stage in changed, name
            assert all(after[key][1] != before[key][1] for key in changed - {stage}), name
    made_up = {name: other for name, value in here.items() if (other := another(value)) != value}
    assert len(made_up) >= len(own) / 2
    parameters = planned(**made_up)[stage][0]
    assert {name: parameters[name] for name in made_up} == made_up


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The project on a corpus of its own, believed by Snakemake to be finished: every output there and touched."""
    folder = project(tmp_path_factory.mktemp("finished"))
    trains(folder / "notebooks" / "03_looking.ipynb", LOOKING)
    write_corpus(folder / "texts")
    write_preset(folder, corpus="texts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plan = json.loads(prepare("plan", Plan("mine.yaml"), "results", "figures", "").read_text())
    outputs = [mark for job in plan["jobs"].values() for mark in job["done"]]
    for path in [*outputs, *(executed(stage, "texts") for stage in plan["stages"])]:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("")
    pipeline(folder, "run", "--touch", "--forceall")
    return folder


def test_a_notebook_with_runs_of_its_own_is_planned_with_no_other_change_and_nothing_else_is_done_again(finished):
    added = trains(finished / "notebooks" / "99_mine.ipynb", "runs = {'new': study.experiment().but(epochs=4)}")
    try:
        assert planned(finished) == {"trains": {"99_mine"}, "executes": {"99_mine"}}
    finally:
        added.unlink()


def test_a_changed_corpus_is_noticed_whatever_its_age(finished):
    file = next((finished / "texts").glob("*sst-train.csv"))
    text, age = file.read_text(), file.stat().st_mtime - 10**6
    try:
        file.write_text(text.replace("red", "blue"))
        os.utime(file, (age, age))
        assert planned(finished) == {"trains": {"01_first", "02_second"}, "executes": set(ALL.split())}
    finally:
        file.write_text(text)


@pytest.mark.parametrize("key", [key if key in SAMPLED else pytest.param(key, marks=pytest.mark.slow) for key in STALE])
def test_snakemake_runs_again_what_the_plan_calls_stale(finished, key):
    value, expected = STALE[key]
    try:
        write_preset(finished, **{"corpus": "texts", key: value})
        assert planned(finished)["executes"] == set(expected.split())
    finally:
        write_preset(finished, corpus="texts")


def test_a_parameter_reaches_its_job_as_it_is_written(finished):
    note = '{odd} {{wildcards}}, it\'s "$HOME" `x`\n'
    added = trains(finished / "notebooks" / "98_text.ipynb", LOOKING, parameters=f'{PARAMETERS}\nnote: str = ""')
    try:
        write_preset(finished, corpus="texts", notebooks__98_text__note=note)
        pipeline(finished, "plan")  # writes the plan that is read here
        about = f"plan={json.dumps(['results/plans/mine-texts.dry.json'])}"
        dry = [sys.executable, "-m", "snakemake", "--dry-run", "--printshellcmds", "--cores=1", "--config", about]
        done = subprocess.run(dry, cwd=finished, env=environment(), capture_output=True, text=True, check=True)
        job = (done.stdout + done.stderr).partition("run --path=notebooks/98_text")[2].partition(" --figures")[0]
        assert f"--parameter=note={note}" in shlex.split(job)
    finally:
        added.unlink()
        write_preset(finished, corpus="texts")


@pytest.mark.slow
def test_changed_code_executes_the_notebooks_again_and_trains_nothing(finished, monkeypatch, tmp_path):
    copied = tmp_path / "mtlib"
    copied.mkdir()
    for path in (ROOT / "mtlib").iterdir():
        if path.name != "metrics.py":
            (copied / path.name).symlink_to(path)
    (copied / "metrics.py").write_text((ROOT / "mtlib" / "metrics.py").read_text() + "\n# a remark\n")
    monkeypatch.setattr("pipelines.environment", lambda: os.environ | {"PYTHONPATH": str(tmp_path)})
    assert planned(finished) == {"trains": set(), "executes": set(ALL.split())}


def test_the_fingerprint_follows_the_code(tmp_path, monkeypatch):
    assert fingerprint() != fingerprint("data")
    monkeypatch.setattr("mtlib.workbook.pipeline.__file__", str(tmp_path / "workbook" / "pipeline.py"))
    (tmp_path / "a.py").write_text("1")
    first = fingerprint()
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    second = fingerprint()
    (tmp_path / "b.py").write_text("2")
    assert len({first, second, fingerprint()}) == 3


@pytest.mark.parametrize(
    "machine, corpus, threads", [(1, "sample", 1), (2, "sample", 1), (2, "texts", 2), (3, "hub", 3), (64, "sample", 4)]
)
def test_a_job_has_half_of_a_small_machine_on_the_generated_corpus(monkeypatch, machine, corpus, threads):
    monkeypatch.setattr("os.cpu_count", lambda: machine)
    assert cores_of_a_job(corpus) == threads


@pytest.mark.parametrize(
    "profile, jobs, width",
    [
        ("default", 0, ["--cores", "8"]),
        ("default", 3, ["--cores", "6"]),
        ("slurm", 0, []),
        ("slurm", 3, ["--jobs", "3"]),
    ],
)
def test_how_wide_the_pipeline_runs(monkeypatch, tmp_path, profile, jobs, width):
    plan, commands = tmp_path / "plan.json", []
    plan.write_text('{"corpus": "hub"}')
    monkeypatch.setattr("os.cpu_count", lambda: 9)
    finished = subprocess.CompletedProcess([], 0, stdout="", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command) or finished)
    assert snakemake("plan", plan, jobs, 2, profile=profile) == 0
    (command,) = commands
    start = command.index(f"profiles/{profile}") + 1
    assert command[start : command.index("--dry-run")] == width and "threads=2" in command
