"""What the pipeline trains, and what a change to a preset makes stale: by the plan, and by Snakemake's dry run."""

import copy
import json
import os
from pathlib import Path

import pytest
import yaml
from pipelines import ROOT, jobs, pipeline, preset_with, project

from mtlib.errors import ConfigurationError
from mtlib.pipeline import fingerprint
from mtlib.study.plan import READS, Plan

SMOKE = yaml.safe_load((ROOT / "presets" / "smoke.yaml").read_text())
ALL = "00 01 02 03 04 05 06 07 08 09"
TRAINING = "01 02 03 04 05 06 08 09"
STALE = {
    "corpus": ("hub", ""),  # the pipeline is told its corpus
    "seeds": ([0, 1], "06 09"),
    "experiment.encoder": ("minilm", ALL),
    "experiment.max_tokens": (32, ALL),
    "experiment.epochs": (3, TRAINING),
    "experiment.steps": (7, TRAINING),
    "experiment.batch_size": (4, TRAINING),
    "experiment.learning_rate": (2e-3, TRAINING),
    "experiment.dev_limit": (50, TRAINING),
    "pretraining.epochs": (2, "04 05 06 07 08 09"),
    "pretraining.steps": (7, "04 05 06 07 08 09"),
    "pretraining.learning_rate": (2e-3, "04 05 06 07 08 09"),
    "grids.table_1": ([{"batch_size": 4, "steps": 1000, "use": {"steps": 6}}], "02 09"),
    "grids.table_2": ([{"weight": 7}], "03 09"),
    "grids.table_3": ([{"weight": 7, "use": {"epochs": 3}}], "03 09"),
    "grids.table_4": ([{"epochs": 25, "use": {"epochs": 1}}], "04 05 06 08 09"),
    "grids.table_5": ([{"scheduler": "no", "mu": 3, "beta": 0.3}], "05 09"),
    "grids.table_6": ([{"epochs": 10, "learning_rate": 1e-5, "mu": 2, "beta": 0.5}], "05 06 08 09"),
    "choices.radii": ([0.1, 0.3], "03 09"),
    "choices.ball_weight": (2.0, "03 09"),
    "choices.ablation": (["ball"], "03 09"),
    "choices.probe_batches": (2, "03"),
    "choices.ranking_sizes": ([5], "04"),
    "choices.decays": ([0.9], "05 09"),
    "choices.tsne_perplexities": ([5], "07"),
    "choices.tsne_iterations": ([250], "07"),
}
"""For each key of the smoke preset another value, and the notebooks that depend on it."""

SAMPLED = ("pretraining.epochs", "choices.probe_batches")


def keys(preset: dict) -> set[str]:
    """Every key of a preset, those of its sections with their section's name."""
    found = {key for key, value in preset.items() if not isinstance(value, dict)}
    return found | {f"{name}.{key}" for name, part in preset.items() if isinstance(part, dict) for key in part}


def numbers(stages) -> str:
    """The notebooks' numbers, such as "01 06"."""
    return " ".join(sorted(stage[:2] for stage in stages))


def stale(before: Plan, after: Plan) -> set[str]:
    """Stages whose own parts of the preset, or whose points or what those need, differ."""

    def seen(plan: Plan, stage: str) -> str:
        names, todo = {}, list(plan.stages[stage])
        while todo:
            point = plan.points[todo.pop()]
            names[point.name] = point.text
            todo += point.after
        return json.dumps([plan.reads(stage), names], sort_keys=True)

    return {stage for stage in READS if seen(before, stage) != seen(after, stage)}


def test_every_key_is_tried():
    assert keys(SMOKE) | {"seeds"} == set(STALE)


@pytest.mark.parametrize("key", STALE)
def test_a_changed_value_makes_stale_what_depends_on_it(key, tmp_path):
    value, expected = STALE[key]
    changed = Plan(str(tmp_path / preset_with(tmp_path, {key: value})))
    assert numbers(stale(Plan("smoke"), changed)) == expected


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project whose pipeline Snakemake believes to be finished: every output there, empty and touched."""
    folder = project(tmp_path_factory.mktemp("finished"))
    name = preset_with(folder, {})
    plan, label = Plan(str(folder / name)), f"{name}-sample"
    for path in (
        *(folder / f"results/points/{label}/{point}.json" for point in plan.points),
        *(folder / f"results/notebooks/{label}/{stage}.ipynb" for stage in plan.stages),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    touched = pipeline(folder, "run", "--touch", "--forceall", preset=name)
    assert touched.returncode == 0, touched.stderr
    return folder


def test_nothing_to_be_done_when_all_is_there(finished):
    assert "nothing to be done" in pipeline(finished, "plan", preset="changed.yaml").stdout


@pytest.mark.parametrize("key", [key if key in SAMPLED else pytest.param(key, marks=pytest.mark.slow) for key in STALE])
def test_snakemake_runs_again_what_the_plan_calls_stale(finished, key):
    value, expected = STALE[key]
    before = Plan(str(finished / preset_with(finished, {})))
    name = preset_with(finished, {key: value})
    done = pipeline(finished, "plan", preset=name)
    assert done.returncode == 0, done.stderr
    after = Plan(str(finished / name))
    found = jobs(done.stdout)
    assert numbers(job for job in found if job in READS) == expected
    known = {name: point.text for name, point in before.points.items()}
    changed = {name for name, point in after.points.items() if known.get(name) != point.text}
    assert {job for job in found if job not in READS} == changed


def test_changed_code_executes_the_notebooks_again_and_trains_nothing(finished, monkeypatch, tmp_path):
    name = preset_with(finished, {})
    library = tmp_path / "mtlib"
    library.symlink_to(ROOT / "mtlib")
    copied = tmp_path / "copied" / "mtlib"
    copied.mkdir(parents=True)
    for path in (ROOT / "mtlib").iterdir():
        if path.name != "metrics.py":
            (copied / path.name).symlink_to(path)
    (copied / "metrics.py").write_text((ROOT / "mtlib" / "metrics.py").read_text() + "\n# a remark\n")
    monkeypatch.setattr("pipelines.environment", lambda: os.environ | {"PYTHONPATH": str(copied.parent)})
    done = pipeline(finished, "plan", preset=name)
    assert done.returncode == 0, done.stderr
    assert sorted(jobs(done.stdout)) == sorted(READS)


def test_the_fingerprint_follows_the_code(tmp_path, monkeypatch):
    assert fingerprint() != fingerprint("data")
    monkeypatch.setattr("mtlib.pipeline.__file__", str(tmp_path / "pipeline.py"))
    (tmp_path / "a.py").write_text("1")
    first = fingerprint()
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    second = fingerprint()
    (tmp_path / "b.py").write_text("2")
    assert len({first, second, fingerprint()}) == 3


@pytest.mark.parametrize("name", ["smoke", "tour", "third", "laptop", "paper"])
def test_points_come_after_what_they_need_and_no_run_is_planned_twice(name):
    plan, seen = Plan(name), {}
    for point in plan.points.values():
        assert all(other in seen for other in point.after)
        seen[point.name] = point.text
    assert len(set(seen.values())) == len(seen)
    assert set(plan.stages) == {path.stem for path in Path(ROOT / "notebooks").glob("*.ipynb")}


def test_what_a_choice_decides_waits_for_all_candidates(tmp_path):
    plan = Plan(str(tmp_path / preset_with(tmp_path, {"choices.radii": [0.1, 0.3], "choices.ablation": ["ball"]})))
    balls = ("ball-0.1", "ball-0.3")
    assert plan.points["best-ball-adversarial"].after == balls
    assert plan.points["best-ball-adversarial"].fields["chosen between"] == list(balls)
    assert plan.points["consistency-1"].after == ()


def test_repeats_at_other_seeds_start_from_runs_of_their_own_seed(tmp_path):
    plan = Plan(str(tmp_path / preset_with(tmp_path, {"seeds": [0, 5]})))
    added = set(plan.stages["06_ensemble"]) - set(Plan("smoke").points)
    methods = ("mnrl", "baseline", "baseline-smart", "annealed", "annealed-smart", "table-4-25", "best-bregman")
    assert added == {f"{name}-seed-5" for name in methods}
    assert plan.points["best-bregman-seed-5"].after[-2:] == ("mnrl-seed-5", "table-4-25-seed-5")
    assert plan.points["table-4-25-seed-5"].fields["start_from"] != plan.points["table-4-25"].fields["start_from"]


def test_an_unknown_point_is_named():
    with pytest.raises(ConfigurationError, match="smoke: unknown point 'basline' .*'baseline'"):
        Plan("smoke").point("basline")


def test_the_preset_is_not_changed_by_planning():
    plan = Plan("smoke")
    before = copy.deepcopy(plan.preset)
    assert Plan("smoke").preset == before == plan.preset
