"""A user's own grid: what its file means, what is refused, and its way through the pipeline."""

import subprocess
import sys

import pandas as pd
import pytest
import yaml
from pipelines import ROOT, environment, project

from mtlib import Smart
from mtlib.errors import ConfigurationError
from mtlib.workbook import sweeps
from mtlib.workbook.plan import Plan

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
    experiments = sweeps.read(written()).experiments()
    assert len(experiments) == 3 * 2 * 2 == len({each.digest for each in experiments.values()})
    one = experiments["smart.radius 0.1, learning_rate 0.003, seed 3"]
    assert (one.penalties[0].radius, one.learning_rate, one.seed) == (0.1, 0.003, 3)
    assert one.sampler.kind == "annealed" and one.steps == 12
    assert {each.penalties[0].radius for each in experiments.values()} == {0.01, 0.1, 1.0}


def test_fields_of_samplers_and_whole_fields_vary(written):
    grid = {"sampler": ["round_robin", {"kind": "annealed"}], "smart.direction": ["random", "adversarial"]}
    sweep = sweeps.read(written(grid=grid, seeds=[0], experiment={"penalties": [SMART | {"radius": 0.1}]}))
    found = {(each.sampler.kind, each.penalties[0].direction) for each in sweep.experiments().values()}
    assert len(found) == 4


def test_an_option_that_is_left_out_has_the_default_of_the_mode_that_varies(written):
    grid = {"smart.mode": ["rescaled", "projected", "ball"], "smart.weight": [5.0]}
    sweep = sweeps.read(written(grid=grid, seeds=[0], experiment={"penalties": [{"kind": "smart", "weight": 1.0}]}))
    penalties = [each.penalties[0] for each in sweep.experiments().values()]
    assert penalties == [Smart(weight=5.0, mode=mode) for mode in grid["smart.mode"]]
    given = {"kind": "smart", "weight": 1.0, "sigma": 1e-3}
    sweep = sweeps.read(written(grid=grid, seeds=[0], experiment={"penalties": [given]}))
    assert {each.penalties[0].sigma for each in sweep.experiments().values()} == {1e-3}


def test_values_that_differ_in_a_late_digit_are_different_runs(written):
    rates = [1e-3, 1.0000001e-3]
    assert len(sweeps.read(written(grid={"learning_rate": rates}, seeds=[0])).experiments()) == 2


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
        ({"experiment": {"penalties": [SMART], "seed": 4}}, "seed is not set here, but as `seeds`"),
        (
            {"grid": {"penalties": [[], [{"kind": "smart", "weight": 5.0}]], "smart.weight": [1.0]}},
            r"one experiment twice, as 'penalties \[\], smart.weight 1.0, seed 0' and as .penalties \[\{",
        ),
        ({"seeds": []}, "seeds"),
        ({"seeds": [0, 0]}, "seeds: a value occurs twice"),
        ({"grid": {"smart.radius": [0.1, 0.10]}}, "smart.radius: a value occurs twice"),
        ({"grid": {"smart.radius": {"from": 0.1, "to": 0.1, "points": 3}}}, "smart.radius: a value occurs twice"),
        ({"sedes": [1]}, "unknown key 'sedes'"),
        ({"preset": "smok"}, "did you mean 'smoke'"),
        ({"preset": "smoke", "experiment": {"penalties": 5}}, "no penalty 'smart', found"),
        ({"grid": {"smart.radius": {"from": 0.1, "to": 1.0, "points": 10**9}}}, "points"),
        ({"seeds": list(range(200)), "grid": {"learning_rate": {"from": 0.1, "to": 1.0, "points": 100}}}, "10000 runs"),
        ({"grid": {"epochs": [1, 10**12]}}, "epochs 1000000000000, seed 0: epochs: "),
        ({"grid": {"sampler.": ["x"]}}, "sampler."),
        ({"grid": {"tasks": [["sst"], "x" * 9000]}}, "tasks"),
    ],
)
def test_a_sweep_that_cannot_be_meant_is_refused_before_anything_is_trained(written, changes, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        sweeps.read(written(**changes))
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("path", sorted((ROOT / "presets" / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_sweeps(path):
    assert sweeps.read(str(path)).experiments()


def test_the_preset_s_corpus_is_the_sweep_s_unless_it_has_one(written):
    sweep = sweeps.read(written(corpus="elsewhere"))
    assert sweep.corpus == "elsewhere" and Plan("smoke", "", written()).corpus == "sample"


def test_the_figure_has_a_row_a_key_and_a_panel_a_task():
    table = pd.DataFrame({"rate": [0.01, 0.1, 1.0] * 2, "kind": ["a", "b", "a"] * 2, "mean": range(6)})
    panels = sweeps.figure(table.assign(sst=range(10, 16)), ["rate", "kind"]).axes
    assert [axes.get_xlabel() for axes in panels] == ["rate", "rate", "kind", "kind"]
    assert [axes.get_title() for axes in panels[:2]] == ["SST-5", "Mean"]
    assert panels[0].get_xscale() == "log" and list(panels[0].lines[1].get_ydata()) == [11.5, 12.5, 13.5]
    assert list(panels[1].lines[0].get_ydata()) == list(range(6))
    assert list(panels[3].lines[1].get_ydata()) == [2.5, 2.5]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_sweep_goes_through_the_pipeline(tmp_path):
    folder = project(tmp_path / "p")
    grid = {"preset": "mine.yaml", "seeds": [0, 1], "grid": {"sampler": ["round_robin", "annealed"]}}
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid))
    run = [sys.executable, "-m", "mtlib", "sweep", "grid.yaml", "--threads", "1"]
    done = subprocess.run(run, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tables, figures = folder / "results" / "tables" / "grid-sample", folder / "figures" / "grid-sample"
    table = pd.read_csv(tables / "sweep.csv")
    assert list(table["sampler"]) == ["round_robin", "round_robin", "annealed", "annealed"]
    assert table["mean"].between(0, 1).all() and len(list((folder / "results" / "runs").iterdir())) == 4
    assert {path.suffix for path in figures.iterdir()} == {".pdf", ".png"}
    seeds = pd.read_csv(tables / "sweep_seeds.csv")
    assert (seeds["seeds"] == 2).all() and set(seeds["system"]) == {"sampler round_robin", "sampler annealed"}
    assert set(pd.read_csv(tables / "sweep_differences.csv")["system"]) == {"sampler annealed"}
