"""The speedrun: an attempt is a record if every seed reaches the score, and its time is the slowest seed's."""

import importlib
import subprocess
from pathlib import Path

import pandas as pd
import pytest

import mtlib

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def speedrun(monkeypatch, tmp_path):
    """The benchmark's module, which writes its record into a folder of the test's."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("speedrun")
    monkeypatch.setattr(module, "RECORDS", tmp_path / "records" / "table_speedrun.csv")
    return module


def attempted(*means: float) -> pd.DataFrame:
    rows = [
        {"seed": seed, "minutes": 3 + seed, "mean": mean, "sst": 0.5, "qqp": 0.8, "sts": 0.9}
        for seed, mean in enumerate(means)
    ]
    return pd.DataFrame(rows)


def main(speedrun, monkeypatch, found: pd.DataFrame) -> int:
    monkeypatch.setattr(speedrun, "attempt", lambda *given: found)
    monkeypatch.setattr("sys.argv", ["speedrun.py", "--corpus", "../data"])
    return speedrun.main()


def test_a_record_takes_the_slowest_seed_and_stands_below_the_last(speedrun, monkeypatch):
    assert main(speedrun, monkeypatch, attempted(0.75, 0.74, 0.76)) == 0
    assert main(speedrun, monkeypatch, attempted(0.74, 0.77, 0.741)) == 0
    table = pd.read_csv(speedrun.RECORDS)
    assert table["minutes"].tolist() == [5, 5] and table["fastest seed"].tolist() == [3, 3]
    assert table["lowest mean"].tolist() == [0.74, 0.74] and table["seeds"].tolist() == [3, 3]
    assert table["mean"].tolist() == pytest.approx([0.75, 2.251 / 3])


@pytest.mark.parametrize("means", [(0.75, 0.7399, 0.76), (0.75, 0.7501)])
def test_a_seed_below_the_score_or_too_few_seeds_are_no_record(speedrun, monkeypatch, capsys, means):
    assert main(speedrun, monkeypatch, attempted(*means)) == 1
    expected = f"not kept: {len(means)} seeds, lowest mean {min(means):.4f}; expected 3, 0.74"
    assert expected in capsys.readouterr().out
    assert not speedrun.RECORDS.exists()


def test_a_seed_is_trained_as_the_recipe_says_and_scored_on_all_of_dev(speedrun, monkeypatch, corpus):
    given = {}

    def fit(experiment, data, folder, **options):
        given.update(experiment=experiment, data=data)
        changed = experiment.but(encoder="tiny", epochs=1, steps_per_epoch=1, phrases=0.0)
        return plain(changed, data, folder, **options)

    plain = mtlib.fit
    monkeypatch.setattr(mtlib, "fit", fit)
    scores = speedrun.trained("sample", 7, 1)
    assert set(scores) == {"mean", "sst", "qqp", "sts"}
    experiment = given["experiment"]
    assert experiment.seed == 7 and experiment.dev_limit is None and experiment.encoder == "minilm"
    assert {name: getattr(experiment, name) for name in ("epochs", "steps_per_epoch", "learning_rate")} == {
        name: speedrun.RECIPE[name] for name in ("epochs", "steps_per_epoch", "learning_rate")
    }
    assert all(splits.test is None for splits in given["data"].values())


def test_a_failing_seed_ends_the_attempt(speedrun, tmp_path):
    with pytest.raises(subprocess.CalledProcessError):
        speedrun.attempt(str(tmp_path / "nothing"), [0], 1)
