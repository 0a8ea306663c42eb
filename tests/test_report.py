"""The six methods, and the tables and figures of every notebook, that finished runs give without training."""

import ast
import shutil
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import made_up_corpus

from mtlib.data.corpus import Corpus
from mtlib.errors import MissingRunError, StorageError
from mtlib.study import cards, ensembles, grids, paper
from mtlib.study.chapters import CHAPTERS, Methods
from mtlib.study.chapters.methods import cost
from mtlib.study.ensembles import families, soup
from mtlib.study.grids import Study
from mtlib.study.parts import ChoosingHalf, Dev, ReportingHalf, task_scores
from mtlib.study.report import Report

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
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
    """The methods of a study that trains what it needs."""
    folder = tmp_path_factory.mktemp("results")
    return Methods(small_study(folder), folder / "figures")


@pytest.fixture(scope="module")
def written(report):
    """Everything that the notebooks write, training what they need: path -> bytes."""
    paths = [report.folder / "figure_1a.html"]
    for chapter in CHAPTERS.values():
        told = chapter(report.study, report.folder)
        for name in told.table_names:
            told.write_table(name)
        for name in told.figure_names:
            told.write_figure(name)
        paths += told.outputs()
    return {path: path.read_bytes() for path in paths}


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
    report = Report(study, tmp_path / "figures")
    corpus = ["data_summary", "data_balance", "data_lengths", "data_leakage", "data_difficulty"]
    assert report.write_all(report.tables, report.write_table) == corpus
    assert report.write_all(report.figures, report.write_figure) == corpus[1:3] + corpus[4:]
    assert any(message.startswith("table_7: run baseline-") for message in study.missing)
    assert "table_1: all of the runs of Table 1 are not finished" in study.missing
    assert not (tmp_path / "runs").exists()


def test_what_is_rebuilt_is_what_the_notebooks_wrote_to_the_byte(report, written, finished):
    assert len(written) == 3 * 41 + 2 * 27 + 1
    shutil.rmtree(report.study.tables)
    shutil.rmtree(report.folder)
    rebuilt = Report(finished, report.folder)
    assert rebuilt.write_all(rebuilt.tables, rebuilt.write_table) == list(rebuilt.tables)
    assert rebuilt.write_all(rebuilt.figures, rebuilt.write_figure) == list(rebuilt.figures)
    assert finished.missing == []
    folders = report.study.tables, report.folder
    assert {path: path.read_bytes() for folder in folders for path in folder.iterdir()} == written


@pytest.mark.parametrize("stage", CHAPTERS)
def test_a_notebook_writes_what_its_chapter_has_and_nothing_else(stage, report):
    chapter = CHAPTERS[stage]
    names = {*chapter._tables, *chapter._figures}
    cells = nbformat.read(NOTEBOOKS / f"{stage}.ipynb", as_version=4).cells
    tree = ast.parse("\n".join(cell.source for cell in cells if cell.cell_type == "code"))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    asked = [call.args[0] for call in calls if call.func.attr in ("write_table", "write_figure", "table", "figure")]
    assert names <= texts
    assert {node.value for node in asked if isinstance(node, ast.Constant)} <= names
    assert cells[-1].source == 'print(*report.outputs(), sep="\\n")'


def test_a_chapter_says_which_file_was_not_written(report, tmp_path):
    baseline = CHAPTERS["01_baseline"](report.study, tmp_path)
    baseline.write_table("table_baseline")
    with pytest.raises(StorageError, match=r"learning_curves.pdf: expected this notebook to have written it"):
        baseline.outputs()
    baseline.write_figure("learning_curves")
    assert len(baseline.outputs()) == 5


def test_table_7_is_scored_where_nothing_was_chosen_and_says_what_it_costs(report):
    table = report.table("table_7").set_index("method")
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
    names = Methods(study).table_names
    assert "table_7" in names and not any(name.startswith("table_8") for name in names)
