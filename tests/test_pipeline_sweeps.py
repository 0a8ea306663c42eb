"""A user's own grid: what its file means, what is refused, and its way through the pipeline."""

import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml
from pipelines import ROOT, environment, project

from mtlib.errors import ConfigurationError
from mtlib.study import sweeps
from mtlib.study.plan import Plan
from mtlib.training.evaluation import in_choosing_half

SMART = {"kind": "smart", "mode": "ball", "weight": 1.0, "dropout": "off"}
SWEEP = {
    "preset": "smoke",
    "corpus": "sample",
    "seeds": [0, 3],
    "experiment": {"sampler": "annealed", "penalties": [SMART]},
    "grid": {"smart.radius": {"from": 0.01, "to": 1.0, "points": 3}, "learning_rate": [1e-3, 3e-3]},
}


@pytest.fixture
def written(tmp_path):
    """Write a sweep with some keys changed; returns its path."""

    def write(**changes) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(SWEEP | changes, sort_keys=False))
        return str(path)

    return write


def test_every_combination_is_one_run_at_every_seed(written):
    plan = Plan(written())
    assert len(plan.points) == 3 * 2 * 2 and plan.stages == {}
    point = plan.points["radius-0.1-learning-rate-0.003-seed-3"]
    fields = point.fields
    assert (fields["penalties"][0]["radius"], fields["learning_rate"], fields["seed"]) == (0.1, 0.003, 3)
    assert fields["sampler"]["kind"] == "annealed" and fields["steps"] == 6
    assert {each.fields["penalties"][0]["radius"] for each in plan.points.values()} == {0.01, 0.1, 1.0}


def test_fields_of_samplers_and_whole_fields_vary(written):
    grid = {"sampler": ["round_robin", {"kind": "annealed"}], "smart.direction": ["random", "adversarial"]}
    penalties = [SMART | {"radius": 0.1}]
    plan = Plan(written(grid=grid, seeds=[0], experiment={"penalties": penalties}))
    found = {(p.fields["sampler"]["kind"], p.fields["penalties"][0]["direction"]) for p in plan.points.values()}
    assert len(found) == 4


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"grid": {"learing_rate": [1]}}, "'learing_rate' is no field to vary.*learning_rate"),
        ({"grid": {"bregman.weight": [1.0]}}, "no penalty 'bregman', found .'smart'"),
        ({"grid": {"smart.radius": [-1.0]}}, "radius"),
        ({"grid": {"smart.radus": [1.0]}}, "radus"),
        ({"grid": {"learning_rate": []}}, "grid.learning_rate"),
        ({"grid": {"learning_rate": {"from": 0, "to": 1, "points": 3}}}, "from"),
        ({"grid": {"seed": [1]}}, "'seed' is no field to vary"),
        ({"grid": {}}, "grid"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [0, 0]}, "seeds: a value occurs twice"),
        ({"grid": {"smart.radius": [0.1, 0.10]}}, "smart.radius: a value occurs twice"),
        ({"sedes": [1]}, "unknown key 'sedes'"),
        ({"preset": "smok"}, "did you mean 'smoke'"),
    ],
)
def test_a_sweep_that_cannot_be_meant_is_refused_before_anything_is_trained(written, changes, message):
    with pytest.raises(ConfigurationError, match=message):
        sweeps.read(written(**changes))


def test_the_example_is_a_sweep_and_a_preset_is_none():
    example = ROOT / "presets" / "sweeps" / "radius.yaml"
    assert sweeps.is_sweep(str(example)) and len(Plan(str(example)).points) == 12
    assert not sweeps.is_sweep(str(ROOT / "presets" / "smoke.yaml")) and not sweeps.is_sweep("smoke")


def test_the_figure_has_a_panel_a_key():
    table = pd.DataFrame({"rate": [0.01, 0.1, 1.0] * 2, "kind": ["a", "b", "a"] * 2, "mean": range(6)})
    panels = sweeps.figure(table, ["rate", "kind"]).axes
    assert [axes.get_xlabel() for axes in panels] == ["rate", "kind"]
    assert panels[0].get_xscale() == "log" and list(panels[0].lines[0].get_ydata()) == [1.5, 2.5, 3.5]
    assert list(panels[1].lines[0].get_ydata()) == [2.5, 2.5]


@dataclass
class Trained:
    """A run of tasks whose dev predictions are right in the first `right` of forty examples."""

    right: int
    tasks: tuple[str, ...] = ("sst", "qqp")

    @property
    def experiment(self):
        return SimpleNamespace(tasks=self.tasks)

    def predictions(self, split: str, task: str) -> pd.DataFrame:
        assert split == "dev" and task in self.tasks
        ids = [str(number) for number in range(40)]
        return pd.DataFrame({"id": ids, "label": 1, "prediction": [int(n < self.right) for n in range(40)]})


def reporting(*rights: int) -> list[float]:
    """The accuracies of those runs on the half of dev that chose nothing, counted by hand."""
    half = [number for number in range(40) if not in_choosing_half(pd.Series([str(number)]))[0]]
    return [sum(number < right for number in half) / len(half) for right in rights]


def test_settings_are_compared_over_their_seeds_on_the_tasks_that_all_have():
    systems = {"a 1": [Trained(10), Trained(20)], "a 2": [Trained(30), Trained(38, ("qqp",))]}
    found = sweeps.compared(systems)
    first, second = reporting(10, 20), reporting(30, 38)
    seeds = found["seeds"].set_index(["setting", "task"])
    assert set(seeds.index) == {(name, task) for name in systems for task in ("qqp", "mean")}
    assert seeds.loc[("a 2", "qqp"), "mean"] == pytest.approx(sum(second) / 2) and (seeds["seeds"] == 2).all()
    row = found["differences"].set_index("task").loc["qqp"]
    assert (row["system"], row["seeds"]) == ("a 2", 2)
    assert row["difference"] == pytest.approx((sum(second) - sum(first)) / 2)


def test_one_setting_or_one_seed_says_less():
    one = Trained(10)
    assert sweeps.compared({"a": [one]}) == {}
    assert list(sweeps.compared({"a": [one], "b": [one]})) == ["differences"]
    assert list(sweeps.compared({"a": [one, one]})) == ["seeds"]
    assert sweeps.compared({"a": [Trained(1, ("sst",))], "b": [Trained(1, ("qqp",))]}) == {}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_sweep_goes_through_the_pipeline(written, tmp_path):
    file = written(grid={"smart.radius": [0.1, 0.3]}, seeds=[0, 1])
    folder = project(tmp_path / "p")
    run = [sys.executable, "-m", "mtlib", "sweep", file, "--threads", "1"]
    done = subprocess.run(run, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(folder / "results" / "tables" / "mine.yaml-sample" / "sweep.csv")
    assert list(table["smart.radius"]) == [0.1, 0.1, 0.3, 0.3] and table["mean"].between(0, 1).all()
    assert {path.suffix for path in (folder / "figures" / "mine.yaml-sample").iterdir()} == {".pdf", ".png"}
    assert len(list((folder / "results" / "points" / "mine.yaml-sample").iterdir())) == 4
    seeds = pd.read_csv(folder / "results" / "tables" / "mine.yaml-sample" / "sweep_seeds.csv")
    assert (seeds["seeds"] == 2).all() and set(seeds["setting"]) == {"smart.radius 0.1", "smart.radius 0.3"}
