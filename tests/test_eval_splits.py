"""Parts of predictions: the halves of dev, what may choose, the alignment of systems, and tasks by default."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import made_up_corpus
from systems import classes, system

from mtlib.errors import ConfigurationError, DataError
from mtlib.study import eval_splits
from mtlib.study.eval_splits import (
    ChoosingHalf,
    Dev,
    ReportingHalf,
    Stored,
    Test,
    aligned,
    require_choosing,
    score_table,
    task_scores,
    tasks_of,
)
from mtlib.tasks import QQP, SST, TASKS, Task
from mtlib.training.evaluation import in_choosing_half


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda f: f.iloc[1:], "ids are in one system only"),
        (lambda f: f.assign(label=1 - f["label"]), "two different labels"),
        (lambda f: pd.concat([f, f.iloc[:1]]), "occurs twice"),
        (lambda f: f.drop(columns="label"), "expected the columns"),
    ],
)
def test_examples_that_do_not_match_are_refused(change, words):
    frame = classes(np.ones(10))
    with pytest.raises(DataError, match=words):
        aligned([frame, change(frame)], "qqp")


def test_halves_of_dev_are_disjoint_complete_and_follow_the_id():
    ids = [f"id{i}" for i in range(4000)]
    member = in_choosing_half(ids)
    assert 0.46 < member.mean() < 0.54
    assert (in_choosing_half(ids[::-1])[::-1] == member).all()
    run = system(1)
    chosen, reported = ChoosingHalf().predictions(run, "sst"), ReportingHalf().predictions(run, "sst")
    assert not set(chosen["id"]) & set(reported["id"])
    assert set(chosen["id"]) | set(reported["id"]) == set(Dev().predictions(run, "sst")["id"])


def test_the_choosing_half_reads_dev_only():
    asked = []

    class Spy(Stored):
        def predictions(self, split, task):
            asked.append(split)
            return super().predictions(split, task)

    ChoosingHalf().predictions(Spy(system(1).frames), "sst")
    assert asked == ["dev"]
    for part in (Test(), Dev(), ReportingHalf(), "dev", None):
        with pytest.raises(ConfigurationError, match="ChoosingHalf"):
            require_choosing(part)
    with pytest.raises(TypeError):
        ChoosingHalf("test")
    with pytest.raises(AttributeError):
        ChoosingHalf().split = "test"
    with pytest.raises(ConfigurationError, match="redefined"):
        type("Cheat", (ChoosingHalf,), {})
    with pytest.raises(DataError, match="no predictions of sst on test"):
        Test().predictions(Stored({}), "sst")


def test_tasks_come_in_the_reports_order_and_are_the_systems_own():
    run = SimpleNamespace(experiment=SimpleNamespace(task_names=("sst", "other", "qqp")))
    assert tasks_of(run) == ["qqp", "sst", "other"]
    assert tasks_of(run, system(1)) == ["qqp", "sst"] and tasks_of(system(1)) == ["qqp", "sst", "sts"]
    with pytest.raises(ConfigurationError, match="a task in common"):
        tasks_of(run, Stored({("dev", "sts"): classes([1])}))
    with pytest.raises(ConfigurationError, match="at least one system, found none"):
        tasks_of()


def test_scores_are_those_of_fewer_tasks_or_of_a_fourth(monkeypatch):
    fourth = Task("colour", "binary", ("text",), "is_red")
    monkeypatch.setitem(TASKS, fourth.name, fourth)
    two = Stored({("dev", task): classes([1, 1, 1, 0], np.ones(4, int)) for task in ("qqp", fourth.name)})
    assert task_scores(two, Dev()) == {"qqp": 0.75, "colour": 0.75, "mean": 0.75, "evenness": 1.0}
    table = score_table({"a": system(1), "b": system(2, skill=0.5)}, ReportingHalf())
    assert list(table.columns) == ["qqp", "sst", "sts", "mean", "evenness"] and list(table.index) == ["a", "b"]
    scores = task_scores(system(1), ReportingHalf())
    assert table.loc["a"].to_dict() == scores
    three = [scores[task] for task in ("qqp", "sst", "sts")]
    assert scores["mean"] == pytest.approx(np.mean(three)) and scores["evenness"] == pytest.approx(1 - np.ptp(three))


def test_a_test_split_is_labelled_when_every_task_of_it_is():
    corpus = made_up_corpus((SST, QQP))
    assert eval_splits.is_labelled(corpus) and eval_splits.is_labelled(corpus, "dev", ["sst"])
    unlabelled = {name: SimpleNamespace(test=corpus[name].test.drop(columns="label")) for name in corpus}
    assert not eval_splits.is_labelled(unlabelled) and not eval_splits.is_labelled({"sst": SimpleNamespace(test=None)})


def test_predictions_without_probabilities_are_refused():
    with pytest.raises(DataError, match="p0, p1"):
        eval_splits.probabilities(pd.DataFrame({"prediction": [1.0]}))
