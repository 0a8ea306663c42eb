"""The study: experiments in the report's terms, runs by name, and what is written where."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from conftest import made_up_corpus

import mtlib
from mtlib import Smart, Study
from mtlib.errors import ConfigurationError, MissingRunError, StorageError
from mtlib.presets import REPORT
from mtlib.study.eval_splits import Dev, ReportingHalf, task_scores
from mtlib.study.study import Runs
from mtlib.training.runs import Run


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A smoke study on made-up data, everything below `tmp_path`."""
    monkeypatch.setenv("MTLIB_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("MTLIB_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setenv("MTLIB_PROGRESS", "none")
    study = Study("smoke", seed=3)
    study.corpus = made_up_corpus()
    study.root = tmp_path
    return study


def test_settings_are_the_report_s_and_the_dial_makes_them_smaller(study):
    whole = Study("paper")
    assert whole.experiment(epochs=15, batch_size=8).steps == 15 * REPORT["steps_per_epoch"]
    longer = Study("laptop").experiment(epochs=15)
    assert (longer.epochs, longer.steps_per_epoch) == (15, 0.15 * REPORT["steps_per_epoch"])
    rates = [Study("laptop").experiment(learning_rate=rate).learning_rate for rate in (1e-5, 1e-4, 1e-6)]
    assert rates == pytest.approx([5e-5, 5e-4, 5e-6])
    assert study.experiment().seed == 3 and study.experiment(seed=1).seed == 1
    assert study.experiment(sampler="annealed") == study.experiment().but(sampler="annealed")
    with pytest.raises(ConfigurationError, match="unknown key 'epoch' .did you mean 'epochs'"):
        study.experiment(epoch=1)


def test_the_corpus_is_what_is_named_else_the_preset_s():
    assert Study("smoke").source == "sample" and Study("paper").source == "hub"
    assert Study("paper", "sample").source == "sample"


def test_without_training_missing_runs_are_named_and_none_begun(study, tmp_path):
    study.train = False
    wanted = {"plain": study.experiment(), "no dropout": study.experiment(penalties=[Smart(weight=0.0)])}
    with pytest.raises(
        MissingRunError, match=r"plain \(round-robin-seed-3-\w{8}, new\), no dropout \(round-robin-dropout"
    ):
        study.fit(wanted)
    with pytest.raises(
        MissingRunError,
        match=r"not finished: 8 of 8: 0 .*, 5 \(\S+ new\) and 2 more; `make run PRESET=smoke CORPUS=sample`",
    ):
        study.fit({str(seed): study.experiment(seed=seed) for seed in range(8)})
    assert not list((tmp_path / "results").rglob("status.json"))


@pytest.mark.parametrize("given", [lambda one: [one], lambda one: one, lambda one: {"plain": "smoke"}])
def test_what_is_no_dict_of_experiments_is_told_what_one_is(study, given):
    with pytest.raises(ConfigurationError, match='expected experiments by name, {"baseline": study.experiment'):
        study.fit(given(study.experiment()))


def test_runs_are_loaded_by_name_scored_and_compared(study, monkeypatch):
    plain = study.experiment().but(epochs=1, steps_per_epoch=2)
    runs = study.fit({"plain": plain, "λ = 15": plain.but(penalties=[Smart(weight=15.0)]), "again": plain})
    assert runs["again"].path == runs["plain"].path and list(runs) == ["plain", "λ = 15", "again"]
    study.train = False
    assert study.fit({"plain": plain})["plain"].path == runs["plain"].path
    assert (runs["plain"].path / "model" / "README.md").is_file(), "its model card"
    scores = runs.scores()
    assert scores.loc["λ = 15", "mean"] == task_scores(runs["λ = 15"], Dev())["mean"]
    assert scores.loc["plain", "trained"] == "1 x 2 x 16, 0.001"
    assert runs.scores(ReportingHalf()).loc["plain", "sst"] == task_scores(runs["plain"], ReportingHalf())["sst"]
    one, two = runs.compare("plain", "λ = 15"), runs.compare(("plain", "λ = 15"), ("plain", "again"))
    assert set(one["system"]) == {"λ = 15"} and set(two["system"]) == {"λ = 15", "again"}
    same = two[two["system"] == "again"]
    assert (same["difference"] == 0).all() and (same["resolved"] == "no").all()
    for names in ((), ("plain",), ("plain", "again", "plain")):
        with pytest.raises(ConfigurationError, match="compare: expected pairs of two names, found "):
            runs.compare(*names)
    assert list(runs.only("again", "plain")) == ["again", "plain"]
    with pytest.raises(ConfigurationError, match="no run is called 'other'; there are: plain, λ = 15, again"):
        runs["other"]
    assert isinstance(runs.only("plain"), Runs)


def test_what_is_saved_is_written_and_checked(study, tmp_path):
    table = pd.DataFrame({"mean": [0.51234, 0.6]}, index=pd.Index(["a", "b"], name="run"))
    shown = study.save(table, "table_x", caption="Two rows")
    assert shown.loc["a", "mean"] == "0.512"
    figure, axes = plt.subplots()
    axes.plot([1, 2])
    assert study.save(figure, "figure_x") is figure
    tables, figures = tmp_path / "results/tables/smoke-sample", tmp_path / "figures/smoke-sample"
    assert study.outputs("table_x", "figure_x") == [
        *(
            path.relative_to(tmp_path)
            for path in (tables / "table_x.csv", tables / "table_x.md", tables / "table_x.tex")
        ),
        *(path.relative_to(tmp_path) for path in (figures / "figure_x.pdf", figures / "figure_x.png")),
    ]
    assert pd.read_csv(tables / "table_x.csv")["mean"].tolist() == [0.51234, 0.6]
    assert "Two rows, made up" in (tables / "table_x.md").read_text()
    (tables / "table_x.tex").write_text("")
    for name in ("table_x", "table_y"):
        with pytest.raises(StorageError, match=f"{name}: expected this notebook to have written it"):
            study.outputs(name)


def test_a_batch_and_the_encoder_for_a_look_inside(study):
    model = study.encoder()
    batch = study.batch(model, "qqp", 4)
    assert (
        model("qqp", batch.inputs).shape == (4, 1)
        and batch.labels.tolist() == study.corpus["qqp"].dev["label"][:4].tolist()
    )
    assert isinstance(model, mtlib.MultitaskModel) and not model.training


def test_two_runs_are_compared_as_a_study_compares_them(run, corpus, tmp_path):
    other = mtlib.fit(run.experiment.but(name="", seed=1), corpus, tmp_path, progress="none")
    table = mtlib.compare(run, other, draws=500)
    expected = Runs({run.id: run, other.id: other}).compare(run.id, other.id, draws=500)
    pd.testing.assert_frame_equal(table, expected)
    assert list(table["task"])[-2:] == ["mean", "evenness"] and set(table["system"]) == {other.id}
    seeds = mtlib.compare([run, other], other, draws=500)
    assert set(seeds["against"]) == {f"{run.experiment.label}, 2 seeds"}
    by_name = mtlib.compare({"a": run, "b": other}, [("a", "b")], draws=500)
    assert by_name.drop(columns=["system", "against"]).equals(table.drop(columns=["system", "against"]))
    with pytest.raises(ConfigurationError, match="two different runs"):
        mtlib.compare(run, run)
    with pytest.raises(ConfigurationError, match="two different runs, found shared, 2 seeds twice"):
        mtlib.compare([run, other], [Run(other.path), Run(run.path)])
    with pytest.raises(ConfigurationError, match="no runs of"):
        mtlib.compare(run, [])


def test_experiments_that_are_called_alike_are_compared_and_told_apart(corpus, tmp_path):
    short = mtlib.experiment("smoke", epochs=1, steps_per_epoch=2)
    long = short.but(steps_per_epoch=3, learning_rate=0.01)
    a, b = ([mtlib.fit(e.at(seed), corpus, tmp_path, progress="none") for seed in (0, 1)] for e in (short, long))
    table = mtlib.compare(a, b, draws=200)
    assert set(table["against"]) == {"round-robin, 2 seeds, first"}
    assert set(table["system"]) == {"round-robin, 2 seeds, second"}
    by_name = mtlib.compare({"a": a, "b": b}, [("a", "b")], draws=200)
    assert by_name["difference"].tolist() == table["difference"].tolist()
