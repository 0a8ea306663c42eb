"""The six methods, and the tables and figures that finished runs give without training."""

import shutil
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import made_up_corpus

from mtlib.data.corpus import Corpus
from mtlib.errors import MissingRunError
from mtlib.study import cards, ensembles, grids, paper
from mtlib.study.ensembles import families, soup
from mtlib.study.grids import Study
from mtlib.study.parts import ChoosingHalf, Dev, ReportingHalf, task_scores
from mtlib.study.report import Report, cost

ROWS = [
    {"epochs": 10, "learning_rate": 1e-5, "mu": mu, "beta": 0.75, "use": {"epochs": 1, "learning_rate": 1e-3}}
    for mu in (1, 3)
]


def small_study(results, **options):
    """A smoke study on made-up data, with two rows of Table 6 to choose from."""
    study = Study("smoke", "sample", results, progress="none", **options)
    study.corpus = made_up_corpus()
    study.preset = study.preset.model_copy(update={"grids": {**study.preset.grids, "table_6": ROWS}})
    return study


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report whose study trains what it needs."""
    return Report(small_study(tmp_path_factory.mktemp("results")))


@pytest.fixture(scope="module")
def tables(report):
    """The tables as training wrote them: path -> bytes."""
    for name in ("table_2", "table_6", "table_7", "table_8", "table_7_differences", "table_calibration"):
        report.write_table(name)
    return {path: path.read_bytes() for path in report.study.tables.iterdir()}


@pytest.fixture
def finished(report, monkeypatch):
    """The same study where training is an error."""
    assert report.methods
    monkeypatch.setattr(grids, "fit", None)
    monkeypatch.setattr(grids, "pretrain", None)
    return small_study(report.study.results, train=False)


def test_the_methods_are_table_7_s_and_share_their_runs_with_the_grids(report, finished):
    assert [*report.methods, "ensemble"] == paper.table(7)["method"].tolist()
    ids = {name: run.id for name, run in finished.methods().items()}
    assert ids == {name: run.id for name, run in report.methods.items()}
    assert finished.table(2)[1][0].id == ids["annealed+SMART"]
    assert finished.best_mnrl().id == ids["MNRL+annealed+SMART"]
    assert all(cards.card_path(run).is_file() for run in report.methods.values())


def test_the_row_of_table_6_is_chosen_by_the_choosing_half_and_kept_for_other_seeds(report, finished, monkeypatch):
    _, runs = finished.table(6)
    means = [task_scores(run, ChoosingHalf())["mean"] for run in runs]
    assert report.methods["MNRL+Bregman"].id == runs[int(np.argmax(means))].id
    for wanted in (0, 1):
        monkeypatch.setattr(ensembles, "best", lambda table, wanted=wanted: table.index[wanted])
        assert finished.best_bregman().id == runs[wanted].id
        asked = []
        other = finished.at(7)
        monkeypatch.setattr(other, "run", lambda name, asked=asked, **changes: asked.append(changes), raising=False)
        monkeypatch.setattr(other, "best_mnrl", lambda: runs[0], raising=False)
        other.best_bregman()
        assert [changes["penalties"][0].weight for changes in asked] == [ROWS[wanted]["mu"]]


def test_without_training_a_missing_run_is_said_and_nothing_is_begun(tmp_path):
    study = small_study(tmp_path, train=False)
    with pytest.raises(MissingRunError, match=r"run baseline-\w{8} is not finished"):
        study.baseline()
    assert study.available({"a": study.baseline, "b": study.baseline}) == {} and len(study.missing) == 1
    report = Report(study)
    assert report.write_all(["table_1", "table_7"], report.write_table) == []
    assert any(message.startswith("table_7: run baseline-") for message in study.missing)
    assert list(tmp_path.iterdir()) == []


def test_rebuilt_tables_are_the_same_bytes(tables, report, finished):
    shutil.rmtree(report.study.tables)
    rebuilt = Report(finished)
    written = rebuilt.write_all(rebuilt.table_names, rebuilt.write_table)
    assert written == [name for name in rebuilt.table_names if name not in ("table_1", "table_3", "table_5")]
    assert {path: path.read_bytes() for path in tables} == tables


def test_table_7_is_scored_where_nothing_was_chosen_and_says_what_it_costs(report):
    table = report.all_methods(7, ReportingHalf()).set_index("method")
    for name, system in report.systems.items():
        assert table.loc[name, "mean"] == task_scores(system, ReportingHalf())["mean"]
        assert table.loc[name, "all of dev"] == task_scores(system, Dev())["mean"]
    bregman = [report.methods["MNRL+Bregman"], report.methods["MNRL+annealed+SMART"], report.study.pretrained()]
    assert table.loc["MNRL+Bregman", "seconds"] == pytest.approx(sum(run.seconds for run in bregman))
    everything = {run.id: run.seconds for m in report.methods.values() for run in ensembles.ancestry(m)}
    assert cost(report.systems["ensemble, no gate"]) == {
        "models": "6, 6, 6",
        "seconds": pytest.approx(sum(everything.values())),
    }
    assert cost(report.soups["soup from mnrl"]) == {
        "models": "1, 1, 1",
        "seconds": table.loc["MNRL+Bregman", "seconds"],
    }


def test_families_share_an_ancestor(report):
    found = {ancestor: list(runs) for ancestor, runs in families(report.methods).items()}
    first, last = list(report.methods)[:4], list(report.methods)[4:]
    assert found == {"tiny": first, "mnrl": last}
    assert families({"alone": report.methods["MNRL+Bregman"], "baseline": report.methods["baseline"]}) == {}


def test_a_soup_of_one_is_the_run_and_is_kept(report, tmp_path, monkeypatch):
    run, corpus = report.methods["annealed"], report.study.corpus
    with pytest.raises(MissingRunError, match=run.id):
        soup([run], corpus, tmp_path, compute=False)
    made = soup([run], corpus, tmp_path)
    for split in ("dev", "test"):
        for task in run.experiment.tasks:
            pd.testing.assert_frame_equal(made.predictions(split, task), run.predictions(split, task), rtol=1e-5)
    monkeypatch.setattr(ensembles, "average_weights", None)
    kept = soup([run], corpus, tmp_path, compute=False)
    assert kept.predictions("dev", "sst").equals(made.predictions("dev", "sst"))
    with pytest.raises(TypeError):
        soup([run, report.methods["baseline"]], corpus, tmp_path)


def test_an_unlabelled_test_split_has_no_table_8(report):
    splits = {t: replace(s, test=s.test.drop(columns="label")) for t, s in report.study.corpus.splits.items()}
    study = small_study(report.study.results, train=False)
    study.corpus = Corpus("made up", study.corpus.tasks, splits)
    names = Report(study).table_names
    assert "table_7" in names and not any(name.startswith("table_8") for name in names)


def test_every_figure_is_drawn_without_training(finished, tmp_path):
    drawn = Report(finished)
    written = drawn.write_all(drawn.figures, lambda name: plt.close(drawn.figures[name]()))
    assert written == [name for name in drawn.figures if name != "figure_3"]
    assert finished.missing[-1].startswith("figure_3: none of its runs")
    drawn.write_figure("figure_1a", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"figure_1a.{kind}" for kind in ("pdf", "png", "html")}
