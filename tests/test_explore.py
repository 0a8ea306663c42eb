"""Every run on a corpus, and two of them: which belong, in which order, and what is compared by default."""

import numpy as np
import pytest
from conftest import made_up_corpus

import mtlib
from mtlib.errors import ConfigurationError
from mtlib.study.chapters import Explore
from mtlib.study.grids import Study
from mtlib.study.parts import ChoosingHalf, Dev, ReportingHalf, task_scores


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study with two runs of its own, a user's, one of two tasks, and one on another corpus."""
    folder = tmp_path_factory.mktemp("results")
    study = Study("smoke", "sample", folder, progress="none")
    study.corpus = made_up_corpus()
    short = {"epochs": 1, "steps": 4}
    penalty = mtlib.Bregman(weight=0.5, decay=0.9)
    settings = {
        "mine": ({"penalties": [penalty]}, study.corpus),
        "pair-tasks": ({"tasks": ("sst", "qqp")}, study.corpus),
        "elsewhere": ({}, made_up_corpus(rows=40)),
    }
    for name, (changes, corpus) in settings.items():
        mtlib.fit(mtlib.experiment("smoke", name=name, **short, **changes), corpus, folder, progress="none")
    return study


def test_every_run_of_the_three_tasks_on_this_corpus_is_there_the_best_of_the_choosing_half_first(study):
    found = Explore(study).table("table_runs")
    assert {name.rpartition("-")[0] for name in found["run"]} == {"baseline", "annealed", "mine"}
    store = mtlib.RunStore(study.results)
    for row in found.to_dict("records"):
        run = store.get(row["run"])
        assert row["choosing"] == task_scores(run, ChoosingHalf())["mean"]
        assert row["mean"] == task_scores(run, ReportingHalf())["mean"]
        assert row["seconds"] == run.seconds
    assert found["choosing"].is_monotonic_decreasing
    mine = found.set_index(found["run"].str.rpartition("-")[0]).loc["mine"]
    assert (mine["penalties"], mine["start"], mine["trained"]) == ("bregman 0.5", "encoder", "1 x 4 x 8, 0.001")


def test_two_runs_are_compared_on_the_same_examples_whichever_are_asked_for(study):
    report = Explore(study, run="mine", against="annealed")
    assert [run.experiment.name for run in report.pair] == ["mine", "annealed"]
    found = report.table("table_two_runs").set_index("task")
    scores = [task_scores(run, ReportingHalf()) for run in report.pair]
    for task in ("sst", "qqp", "sts", "mean"):
        assert found.loc[task, "difference"] == pytest.approx(scores[0][task] - scores[1][task])
    assert not np.allclose(scores[0]["mean"], task_scores(report.pair[0], Dev())["mean"])


def test_without_a_wish_the_best_is_compared_with_the_baseline_and_the_baseline_with_annealed_sampling(study):
    report = Explore(study)
    assert report.pair[0].id == report.table("table_runs")["run"].iloc[0]
    assert Explore(study, run="mine").pair[1].experiment.name == "baseline"
    assert Explore(study, run="baseline").pair[1].experiment.name == "annealed"


@pytest.mark.parametrize("reference", ["pair-tasks", "elsewhere"])
def test_a_run_that_cannot_be_compared_is_refused(study, reference):
    with pytest.raises(ConfigurationError, match=f"{reference!r}: expected a run of sst, qqp, sts on made up"):
        Explore(study, run=reference).pair  # noqa: B018
