"""What a plan reads from the notebooks: their experiments, each one once, as jobs in an order that works."""

import builtins
import json
import os
import time
from collections import Counter
from pathlib import Path

import pytest
from pipelines import PARAMETERS, SETUP, project, trains, write_notebook, write_preset

import mtlib
from mtlib import Smart, Study
from mtlib.encoders import find_encoder
from mtlib.errors import ConfigurationError, DataError
from mtlib.experiments import Experiment, Pretraining, read_experiment
from mtlib.presets import preset_names, project_root
from mtlib.workbook import plan as plan_module
from mtlib.workbook import sweeps
from mtlib.workbook.notebooks import with_preset
from mtlib.workbook.parameters import load_notebook, parameters_of
from mtlib.workbook.pipeline import prepare
from mtlib.workbook.plan import Plan, Stage, notebooks, runs_of


def asked(path, values):
    """The runs that a notebook asks for with these values of its parameters."""
    with plan_module._answering() as answers:
        return answers.of(path, values)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A small project, the current folder."""
    monkeypatch.chdir(project(tmp_path))
    return tmp_path


@pytest.fixture
def asking(folder):
    """Write the notebook `asking`, of a parameters cell and these cells (tag, source); its runs, read."""

    def read(*cells, **values):
        return asked(write_notebook(folder / "asking.ipynb", ("parameters", "x: int = 1"), *cells), values)

    return read


EXPERIMENT = "from mtlib import Experiment\nruns = {f'x {x}': Experiment(epochs=x)}"


def test_runs_are_read_with_the_values_that_are_given(asking):
    assert asking(("runs", EXPERIMENT)) == {"x 1": Experiment(epochs=1)}
    assert asking(("runs", EXPERIMENT), x=3) == {"x 3": Experiment(epochs=3)}
    assert asking(("", "x = 1 / 0")) == {}, "without a cell tagged `runs` nothing is executed"


def test_a_plan_computes_no_method_trains_nothing_and_goes_no_further_than_the_runs(asking, capsys, tmp_path):
    sentinel = str(tmp_path / "sentinel")
    touching = f"open({sentinel!r}, 'w').close()"
    before = f"assert train is False; print('loud'); assert 'sentinel' not in globals(); open({sentinel!r} + '2', 'w')"
    cells = [("method", f"sentinel = {touching}"), ("setup", before), ("runs", f"{EXPERIMENT}; print('louder')")]
    assert list(asking(*cells, ("", touching), ("check", touching), train=True)) == ["x 1"]
    assert capsys.readouterr() == ("", "") and not os.path.exists(sentinel) and os.path.exists(f"{sentinel}2")


def test_a_preset_may_name_the_notebooks_that_are_executed(folder):
    write_preset(folder, only=["02_second"])
    assert list(Plan("mine.yaml").stages) == ["02_second"]
    assert list(runs_of(Study("mine.yaml"))) == ["annealed", "baseline"]
    write_preset(folder, only=["03_third"])
    with pytest.raises(ConfigurationError, match="there is no '03_third': 01_first, 02_second"):
        Plan("mine.yaml")


def test_magics_and_shell_lines_are_no_syntax_errors(asking):
    assert list(asking(("", "if False:\n    %matplotlib inline\n    !touch sentinel"), ("runs", EXPERIMENT))) == ["x 1"]


@pytest.mark.parametrize(
    "cells, message",
    [
        ([("", "a = 1"), ("", "a = 1 / 0")], "code cell 3: ZeroDivisionError: division by zero"),
        ([("method", "b = 1"), ("", "print(b)")], "code cell 3: NameError: name 'b' is not defined"),
        ([("", "import sys; sys.exit(0)")], "code cell 2: SystemExit: 0"),
        ([("", "a b")], "code cell 2: SyntaxError"),
        ([("", "from mtlib import Experiment; Experiment(epochs=0).but(epoch=1)")], "code cell 2: ValidationError"),
        ([("", "from mtlib import experiment; experiment('smok')")], "code cell 2: unknown preset 'smok'"),
        ([("", "raise RuntimeError('x' * 100_000)")], "code cell 2: RuntimeError: x{500}$"),
    ],
)
def test_a_cell_that_fails_is_named(asking, cells, message):
    with pytest.raises(ConfigurationError, match=f"asking.ipynb, {message}"):
        asking(*cells, ("runs", EXPERIMENT))


def test_a_cell_s_own_error_keeps_its_kind(asking):
    with pytest.raises(DataError, match="asking.ipynb, code cell 2: corpus '/nowhere'"):
        asking(("", "import mtlib; mtlib.load_corpus('/nowhere')"), ("runs", EXPERIMENT))


@pytest.mark.parametrize("source", ["runs = [1]", "runs = {'a': 1}", "pass", "runs = None"])
def test_the_cell_has_to_make_runs(asking, source):
    with pytest.raises(ConfigurationError, match="asking.ipynb: its cell tagged `runs` has to make `runs`"):
        asking(("runs", source))


def test_equal_experiments_are_one_run_and_ancestors_come_first(folder):
    plan = Plan("mine.yaml")
    study = Study("mine.yaml")
    baseline, ranking = study.experiment(), study.pretraining()
    ranked, annealed = study.experiment(start_from=ranking), study.experiment(sampler="annealed")
    assert list(plan.experiments.values()) == [baseline, ranking, ranked, annealed]
    shown = {name: [plan.experiments[digest] for digest in stage.digests] for name, stage in plan.stages.items()}
    assert shown == {"01_first": [baseline, ranked], "02_second": [annealed, baseline]}


def test_a_run_called_otherwise_is_the_same_run(folder):
    trains(folder / "notebooks" / "03_named.ipynb", "runs = {'a': study.experiment(name='a'), 'b': study.experiment()}")
    plan = Plan("mine.yaml")
    assert len(plan.experiments) == 4 and len(plan.stages["03_named"].digests) == 1


CHAIN = """ranking = study.pretraining(task="sst")
first = study.experiment(start_from=ranking, sampler="annealed")
runs = {"last": study.experiment(start_from=first, penalties=[Smart(weight=1.0)])}"""


def test_short_runs_of_a_notebook_are_one_job_and_longer_ones_a_job_each(folder):
    trains(folder / "notebooks" / "03_chain.ipynb", CHAIN)
    plan = Plan("mine.yaml")
    assert list(plan.jobs) == ["01_first", "02_second", "03_chain"]
    assert [len(digests) for digests in plan.jobs.values()] == [3, 1, 2]
    ranking = next(digest for digest, each in plan.experiments.items() if isinstance(each, Pretraining))
    assert [list(plan.after(job)) for job in plan.jobs] == [[], [], [ranking, ranking]]
    write_preset(folder, dial=0.05)
    longer = Plan("mine.yaml")
    assert all(len(digests) == 1 for digests in longer.jobs.values()) and len(longer.jobs) == len(longer.experiments)
    by_job = {longer.experiments[digests[0]].label: job for job, digests in longer.jobs.items()}
    last = longer.experiments[longer.jobs[by_job["from-from-mnrl-5-annealed-round-robin-smart-1"]][0]]
    after = [longer.experiments[digest] for digest in longer.after(by_job[last.label])]
    assert after == list(last.ancestors()) and len(after) == 2


def test_a_job_s_ancestors_are_trained_before_it_in_every_preset():
    for name in preset_names():
        plan, seen = Plan(name), set()
        for job, digests in plan.jobs.items():
            assert set(plan.after(job)) <= seen
            for digest in digests:
                assert {each.digest[:16] for each in plan.experiments[digest].ancestors()} <= seen
                seen.add(digest)
        assert seen == set(plan.experiments)


def test_a_notebook_that_is_added_is_planned_with_no_other_change(folder):
    before = Plan("mine.yaml")
    trains(folder / "notebooks" / "99_mine.ipynb", "runs = {'new': study.experiment().but(epochs=4)}")
    after = Plan("mine.yaml")
    assert after.stages.keys() - before.stages.keys() == {"99_mine"}
    (new,) = after.experiments.keys() - before.experiments.keys()
    assert after.stages["99_mine"].digests == (new,) and after.jobs["99_mine"] == [new]


@pytest.mark.parametrize(
    "name, cells, message",
    [
        ("a b", None, "a b.ipynb: expected a name of letters"),
        ("{a}", None, "{a}.ipynb: expected a name of letters"),
        ("Untitled", [("", "1")], "Untitled.ipynb: expected one cell tagged 'parameters', found 0"),
        ("x", [("parameters", "corpus: str = ''")], "x.ipynb: expected the parameters corpus, preset, found no preset"),
        ("x", [("parameters", "preset: str = 'tour'")], "x.ipynb: expected the parameters .*, found no corpus"),
    ],
)
def test_a_notebook_that_cannot_be_a_stage_is_named(folder, name, cells, message):
    cells = cells or [("parameters", PARAMETERS)]
    write_notebook(folder / "notebooks" / f"{name}.ipynb", *cells)
    with pytest.raises(ConfigurationError, match=message):
        Plan("mine.yaml")


def test_hidden_files_and_checkpoints_of_jupyter_are_no_notebooks(folder):
    (folder / "notebooks" / ".ipynb_checkpoints").mkdir()
    (folder / "notebooks" / ".~x.ipynb").write_text("")
    (folder / "notebooks" / ".ipynb_checkpoints" / "x.ipynb").write_text("")
    assert [path.stem for path in notebooks()] == ["01_first", "02_second"]


def test_a_preset_for_a_notebook_that_is_not_there_is_refused(folder):
    write_preset(folder, notebooks={"03_thrid": {"rates": [1.0]}})
    with pytest.raises(ConfigurationError, match="there is no '03_thrid': 01_first, 02_second"):
        Plan("mine.yaml")


def test_a_run_s_name_cannot_lead_out_of_the_plan(folder):
    trains(folder / "notebooks" / "03_named.ipynb", "runs = {'a': study.experiment(name='../../a', epochs=3)}")
    with pytest.raises(ConfigurationError, match="run name '../../a'"):
        Plan("mine.yaml").write(folder / "plan.json", "figures", "c")
    assert not list(folder.glob("a-*"))


def test_the_written_plan_holds_everything_a_job_is_told(folder):
    write_preset(folder, notebooks={"01_first": {"rates": [1e-5, 3e-5]}})
    plan = Plan("mine.yaml", corpus="sample")
    path = plan.write(folder / "my plans" / "plan.json", "my figures", "0123456789", again="make resume")
    about = json.loads(path.read_text())
    facts = {"name": "mine-sample", "preset": "mine.yaml", "corpus": "sample", "figures": "my figures"}
    facts |= {"content": "0123456789", "again": "make resume"}
    assert {key: about[key] for key in facts} == facts
    trained = []
    for job in about["jobs"].values():
        assert set(job["after"]) <= {f"{file.removesuffix('.json')}.done" for file in trained}
        trained += job["experiments"]
        assert [file.replace(".json", ".done") for file in job["experiments"]] == job["done"]
    read = [read_experiment(json.loads((folder / file).read_text()), file) for file in trained]
    assert read == list(plan.experiments.values())
    first = about["stages"]["01_first"]
    assert first["notebook"] == "notebooks/01_first.ipynb" and set(first["after"]) <= {
        mark for job in about["jobs"].values() for mark in job["done"]
    }


def test_a_job_trains_only_what_is_not_marked_as_done_on_this_corpus(folder):
    plan, path = Plan("mine.yaml"), folder / "plan.json"
    before = json.loads(plan.write(path, "figures", "content one").read_text())
    first, second, third = before["jobs"]["01_first"]["done"]
    for mark in (second, *before["jobs"]["02_second"]["done"]):
        Path(mark).write_text("{}")
    after = json.loads(plan.write(path, "figures", "content one").read_text())
    assert after["jobs"].keys() == {"01_first"} and after["jobs"]["01_first"]["done"] == [first, third]
    assert after["stages"] == before["stages"]
    other = json.loads(plan.write(path, "figures", "another content").read_text())
    assert [len(job["done"]) for job in other["jobs"].values()] == [3, 1]
    assert not set(other["jobs"]["01_first"]["done"]) & {first, second, third}


def test_a_notebook_s_parameters_come_back_as_they_were_planned(folder):
    parameters = PARAMETERS.replace("[1e-5]", "[1e-05, 2.5]") + '\nnote: str = "1"\nmore: dict[str, int] = {"a b": 1}'
    path = trains(folder / "notebooks" / "03_more.ipynb", "runs = {}", parameters=parameters)
    values = {"note": "it's $(x) = `y`\n", "more": {"ä": 3}, "rates": [1e-7]}
    write_preset(folder, notebooks={"03_more": values})
    plan = Plan("mine.yaml", corpus="123")
    known = parameters_of(load_notebook(path), path.name)
    told = json.loads(plan.write(folder / "plan.json", "figures", "c").read_text())["stages"]["03_more"]["parameters"]
    split = [text.partition("=") for text in told]
    assert {name: known[name].parse(text) for name, _, text in split} == values | {
        "preset": "mine.yaml",
        "corpus": "123",
    }


@pytest.mark.parametrize("name", ["smoke", "afternoon", "gpu", "paper"])
def test_a_control_of_bppo_differs_from_its_row_in_the_penalty_alone(name):
    runs = runs_of(Study(name, "sample"), "05_bppo")
    rows = {label: row for label, row in runs.items() if "μ" in label and row.penalties[0].weight > 0}
    rows = {label: row for label, row in rows.items() if "SMART" not in label}
    alone = {label: row for label, row in rows.items() if label.removesuffix(", halving") not in rows.keys() - {label}}
    assert 1 < len(alone) < len(rows)
    for label, row in alone.items():
        control = runs[label.split("μ")[0] + "μ = 0" + ", halving" * label.endswith(", halving")]
        assert [each.weight for each in control.penalties] == [0.0]
        assert row.but(penalties=control.penalties, name="") == control.but(name="")


def test_a_row_that_halves_alone_has_a_control_that_halves():
    rows = {"base_rows": ["μ = 3, β = 0.3", "μ = 0.3, β = 0.75, halving"], "rows": [], "decays": []}
    runs = asked(project_root() / "notebooks" / "05_bppo.ipynb", {"preset": "smoke", "corpus": "sample"} | rows)
    assert [runs[name].schedule for name in ("μ = 0", "μ = 0, halving")] == ["constant", "halve"]


def test_the_content_of_the_corpus_is_part_of_the_plan_and_its_age_is_not(folder, corpus_folder):
    def content():
        plan = prepare("plan", Plan("mine.yaml", str(corpus_folder)), "results", "figures", "")
        return json.loads(plan.read_text())["content"]

    file = corpus_folder / "sts-train.csv"
    first, age = content(), file.stat().st_mtime
    os.utime(file, (time.time() + 9, time.time() + 9))
    assert content() == first
    file.write_text(file.read_text().replace("red", "blue"))
    os.utime(file, (age, age))
    assert content() != first
    file.unlink()
    with pytest.raises(DataError, match="sts-train.csv"):
        content()


def test_phrases_and_the_encoders_in_folders_are_part_of_the_plans_content(folder, corpus_folder):
    def content():
        return json.loads(prepare("plan", plan(), "results", "figures", "").read_text())["content"]

    def plan():
        return Plan("mine.yaml", str(corpus_folder))

    path = corpus_folder / "ids-sst-phrases.csv"
    train = (corpus_folder / "ids-sst-train.csv").read_text().splitlines()
    path.write_text("\n".join([train[0], "0\tp1\ta phrase of it\t2", "1\tp2\ta phrase of them\t3", ""]))
    plain = content()
    path.write_text(path.read_text().replace("a phrase", "the phrase"))
    assert content() == plain  # nothing draws from them
    write_preset(folder, experiment__phrases=0.5, encoder="small")
    for part in find_encoder("tiny").load():
        part.save_pretrained("small")
    found = [content()]
    path.write_text(path.read_text().replace("the phrase", "a phrase"))
    found.append(content())
    about = folder / "small" / "config.json"
    about.write_text(about.read_text().replace('"hidden_dropout_prob": 0.1', '"hidden_dropout_prob": 0.2'))
    assert len({plain, *found, content()}) == 4


def test_what_others_train_is_asked_of_them(folder):
    study = Study("mine.yaml", seed=3)
    annealed, baseline = study.experiment(sampler="annealed"), study.experiment()
    assert runs_of(study, "02_second") == {"annealed": annealed, "baseline": baseline}
    ranked = study.experiment(start_from=study.pretraining())
    assert runs_of(study) == {"rate 1e-05": baseline, "ranked": ranked, "annealed": annealed, "baseline": baseline}
    with pytest.raises(ConfigurationError, match="unknown stage '02_secnd'.*'02_second'"):
        runs_of(study, "02_secnd")


def test_what_others_train_is_at_the_preset_s_values(folder):
    write_preset(folder, notebooks={"01_first": {"rates": [3e-5]}})
    assert "rate 3e-05" in runs_of(Study("mine.yaml"), "01_first")


def test_different_runs_of_one_name_are_told_apart(folder):
    ranked = "study.experiment(start_from=study.pretraining())"
    trains(folder / "notebooks" / "03_other.ipynb", f"runs = {{'annealed': study.experiment(), 'ranked': {ranked}}}")
    found = runs_of(Study("mine.yaml"))
    assert found["annealed"].sampler.kind == "annealed" and found["03_other: annealed"] == found["baseline"]
    assert "03_other: ranked" not in found


def test_notebooks_that_ask_for_each_other_s_runs_come_to_an_end(folder):
    everything = "runs = {**runs_of(study), 'own %d': study.experiment().but(epochs=%d)}"
    for number in (3, 4, 5):
        trains(folder / "notebooks" / f"0{number}_all.ipynb", everything % (number, number * 10))
    plan = Plan("mine.yaml")
    for stage in ("03_all", "04_all", "05_all"):
        assert set(plan.stages[stage].digests) == plan.experiments.keys() - {
            digest for digest, each in plan.experiments.items() if isinstance(each, Pretraining)
        }


@pytest.mark.parametrize("number", [2, 8])
def test_every_notebook_is_read_once_and_those_that_ask_for_one_another_at_most_three_times(
    folder, monkeypatch, number
):
    executed, loaded, load = Counter(), Counter(), plan_module.load_notebook
    monkeypatch.setattr(plan_module, "load_notebook", lambda path: loaded.update([path.stem]) or load(path))
    monkeypatch.setattr(builtins, "executed_here", executed, raising=False)
    counting = "executed_here.update([{0!r}])\nruns = {{**runs_of(study), {0!r}: study.experiment().but(epochs={1})}}"
    stages = [f"{place:02}_all" for place in range(3, 3 + number)]
    for place, stage in enumerate(stages):
        trains(folder / "notebooks" / f"{stage}.ipynb", counting.format(stage, 3 + place))
    once = "executed_here.update(['20_once'])\nruns = runs_of(study, '01_first')"
    trains(folder / "notebooks" / "20_once.ipynb", once)
    plan = Plan("mine.yaml")
    assert set(loaded.values()) == {1} and executed["20_once"] == 1 and max(executed[stage] for stage in stages) <= 3
    everything = {digest for stage in plan.stages.values() for digest in stage.digests}
    assert all(set(plan.stages[stage].digests) == everything for stage in stages)


def test_notebooks_that_name_one_another_get_the_whole_of_each_other_s_runs(folder):
    for stage, other in (("03_ping", "04_pong"), ("04_pong", "03_ping")):
        own = f"study.experiment().but(epochs={stage[1]})"
        derived = "{name: each.but(batch_size=3) for name, each in asked.items()}"
        source = f"asked = runs_of(study, '{other}')\nruns = {{**asked, '{stage}': {own}}}"
        trains(folder / "notebooks" / f"{stage}.ipynb", source)
    trains(folder / "notebooks" / "05_more.ipynb", f"asked = runs_of(study, '04_pong')\nruns = {derived}")
    plan = Plan("mine.yaml")
    assert set(plan.stages["03_ping"].digests) == set(plan.stages["04_pong"].digests)
    assert len(plan.stages["04_pong"].digests) == len(plan.stages["05_more"].digests) == 2


def test_notebooks_that_ask_for_ever_more_are_refused(folder):
    more = "runs = {f'{n} again': e.but(epochs=e.epochs + 1) for n, e in runs_of(study).items()}"
    for stage in ("03_more", "04_more"):
        trains(folder / "notebooks" / f"{stage}.ipynb", more)
    with pytest.raises(ConfigurationError, match="03_more.ipynb, 04_more.ipynb: they ask for each other's runs, ever"):
        Plan("mine.yaml")


def test_what_is_executed_asks_for_what_was_planned(folder):
    everything = "runs = {**runs_of(study), 'own': study.experiment().but(epochs=3)}"
    path = trains(folder / "notebooks" / "03_all.ipynb", everything)
    values, _ = with_preset("03_all", parameters_of(load_notebook(path), path.name), {"preset": "mine.yaml"})
    space: dict = {}
    exec("\n".join([PARAMETERS, SETUP, everything]), space)
    assert space["runs"] == asked(path, values)


def test_table_7_has_the_rows_that_are_asked_for():
    path = project_root() / "notebooks" / "06_ensemble.ipynb"
    six = asked(path, {"preset": "smoke"})
    some = asked(path, {"preset": "smoke", "rows": ["baseline", "annealed"], "seeds": [0, 1]})
    assert list(some) == ["baseline", "annealed", "baseline, seed 1", "annealed, seed 1"]
    assert len(six) == 6 and all(some[name] == six[name] for name in ("baseline", "annealed"))
    with pytest.raises(ConfigurationError, match="06_ensemble.ipynb.*'anneald'"):
        asked(path, {"preset": "smoke", "rows": ["baseline", "anneald"]})


def test_what_takes_turns_does_so_whatever_the_preset_samples(tmp_path):
    content = "corpus: sample\nencoder: tiny\ndial: 0.001\nlearning_rate: 1.0e-3\nexperiment: {sampler: annealed}\n"
    (tmp_path / "mine.yaml").write_text(content)
    rows = {"01_baseline": ["baseline"], "06_ensemble": ["baseline", "baseline+SMART"], "10_beyond": ["plain, seed 0"]}
    rows["09_explore"] = [*rows["06_ensemble"], "baseline"]
    for stage, names in rows.items():
        runs = asked(project_root() / "notebooks" / f"{stage}.ipynb", {"preset": str(tmp_path / "mine.yaml")})
        assert {runs[name].sampler.kind for name in names} == {"round_robin"}, stage


def test_a_seed_that_is_asked_for_twice_is_trained_once():
    folder = project_root() / "notebooks"
    runs = asked(folder / "04_mnrl.ipynb", {"preset": "smoke", "repeats": [0, 1, 1]})
    assert [name for name in runs if "seed" in name] == [
        f"15 epochs {way} MNRL, seed 1" for way in ("without", "after")
    ]
    runs = asked(folder / "06_ensemble.ipynb", {"preset": "smoke", "rows": ["baseline"], "seeds": [0, 1, 1]})
    assert list(runs) == ["baseline", "baseline, seed 1"]


def test_a_sweep_is_planned_by_the_same_means(folder):
    file = folder / "grid.yaml"
    file.write_text("preset: mine.yaml\nseeds: [0, 1]\ngrid: {sampler: [round_robin, annealed]}\n")
    plan = Plan("mine.yaml", file="grid.yaml")
    assert list(plan.experiments.values()) == list(sweeps.read("grid.yaml").experiments().values())
    assert plan.name == "grid-sample" and len(plan.jobs) == 4
    assert {name: stage.parameters for name, stage in plan.stages.items()} == {
        "sweep": {"corpus": "sample", "file": "grid.yaml"}
    }
    assert isinstance(plan.stages["sweep"], Stage) and plan.stages["sweep"].notebook.is_file()


def test_a_study_and_the_command_ask_for_the_same_experiment(folder):
    study = Study("mine.yaml")
    assert study.experiment(sampler="annealed") == mtlib.experiment("mine.yaml", sampler="annealed")
    assert study.experiment(penalties=[Smart(weight=1.0)]).penalties[0].weight == 1.0
