"""The table of runs, as `mtlib runs` shows it; and `mtlib rm`."""

import json
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
from typer.testing import CliRunner

import mtlib
from mtlib.cli import app
from mtlib.cli.training import listed
from mtlib.errors import ConfigurationError, LockedError
from mtlib.training import listing
from mtlib.training.start import Start

SHORT = {"epochs": 1, "steps_per_epoch": 2}


@pytest.fixture(scope="module")
def results(corpus, tmp_path_factory):
    """Results with a pretraining, a run that starts from it, and one of SMART with a long name."""
    folder = tmp_path_factory.mktemp("listed")
    ranking = mtlib.pretraining("smoke", **SHORT)
    annealed = mtlib.experiment("smoke", sampler="annealed", start_from=ranking, **SHORT)
    smart = mtlib.experiment("smoke", penalties=[mtlib.Smart(weight=5.0)], seed=3, name="x" * 100, **SHORT)
    for experiment in (annealed, smart):
        mtlib.fit(experiment, corpus, folder, progress="none")
    return folder


def names(results, **options):
    return [name.rpartition("-")[0] for name in mtlib.RunStore(results).table(**options)["run"]]


def test_runs_are_filtered_by_settings_and_columns_and_sorted_best_first(results):
    store = mtlib.RunStore(results)
    assert names(results, where=[("sampler", "annealed")]) == ["from-mnrl-5-annealed"]
    for key, value in (("smart.weight", "5"), ("penalties", "smart"), ("penalties", "Smart")):
        assert names(results, where=[(key, value)]) == ["x" * 100]
    assert names(results, where=[("learning_rate", "1e-3"), ("seed", "3")]) == ["x" * 100]
    for key, value in (("corpus", "Made up"), ("corpus", "own"), ("encoder", "tiny")):
        assert len(store.table(where=[(key, value)])) == 3, value
    for key, value in (("start_from", "mnrl-5"), ("aggregate", "sum"), ("penalties", "none"), ("teachers", "none")):
        assert "from-mnrl-5-annealed" in names(results, where=[(key, value)]), key
    assert names(results, where=[("start_from", "none")]) == ["mnrl-5", "x" * 100]
    assert len(store.table(where=[("status", "complete")])) == 3 and not len(store.table(where=[("seed", "7")]))
    means = store.table("mean")["mean"]
    assert means[:2].tolist() == sorted(means[:2], reverse=True) and means[2:].isna().all()
    assert store.table("seed")["seed"].tolist() == [0, 0, 3]
    assert list(store.table())[-7:] == ["qqp", "sst", "sts", "mean", "evenness", "dev_loss", "sts_r"]
    for options in ({"where": [("smart.wieght", "5")]}, {"sort": "maen"}):
        with pytest.raises(ConfigurationError, match="did you mean"):
            store.table(**options)


def test_a_reference_to_no_run_names_those_that_begin_so_else_all(results):
    store = mtlib.RunStore(results)
    for reference, others in (("from", 1), ("nothing", 3)):
        with pytest.raises(ConfigurationError, match="none of that name in .*; there are: ") as caught:
            store.find(reference)
        assert str(caught.value).count(", ") == others - 1


def test_the_list_fits_120_columns_and_keeps_what_identifies_a_run(results):
    table = mtlib.RunStore(results).table()
    lines = listed(table).splitlines()
    assert len(lines) == 4 and max(map(len, lines)) <= 120
    for run_id, line in zip(table["run"], lines[1:], strict=True):
        assert run_id[-8:] in line.split()[0]
    unread = {"run": "a", "status": f"{listing.UNREAD}{'long ' * 40}"}
    both = listed(pd.concat([pd.DataFrame([unread]), table])).splitlines()
    assert both[:4] == lines and both[4:] == [f"a: {unread['status']}"]
    assert listed(pd.DataFrame([unread])) == f"a: {unread['status']}"


def test_the_command_lists_what_is_asked(results):
    said = CliRunner().invoke(app, ["runs", "--results", str(results), "--where", "sampler=annealed", "--sort", "mean"])
    assert said.exit_code == 0 and len(said.output.splitlines()) == 2 and "annealed" in said.output
    none = CliRunner().invoke(app, ["runs", "--results", str(results), "--where", "seed=9"])
    assert "no run has seed=9" in none.output
    refused = CliRunner().invoke(app, ["runs", "--results", str(results), "--sort", "nosuch"])
    assert refused.exit_code == 64 and refused.output.count("\n") == 1


def test_a_run_is_removed_with_its_mark_unless_it_runs_or_others_start_from_it(corpus, tmp_path):
    ranking = mtlib.pretraining("smoke", **SHORT)
    run = mtlib.fit(mtlib.experiment("smoke", start_from=ranking, **SHORT), corpus, tmp_path, progress="none")
    store = mtlib.RunStore(tmp_path)
    parent = store.get("mnrl-5")
    marks = tmp_path / "plans" / "smoke"
    marks.mkdir(parents=True)
    for each in (run, parent):
        (marks / f"{each.id}.done").write_text(json.dumps({"run": each.id, "identity": each.identity}))
    with pytest.raises(ConfigurationError, match=f"{run.id} started from it or was taught by it; --force"):
        listing.remove(store, parent)
    with run.lock(), pytest.raises(LockedError):
        listing.remove(store, run, force=True)
    size = sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())
    said = CliRunner().invoke(app, ["rm", run.id, "--results", str(tmp_path)])
    assert said.exit_code == 0 and f"{size / 1e6:.1f} MB freed" in said.output
    assert not run.path.exists() and [each.id for each in store.all()] == [parent.id]
    assert [mark.name for mark in marks.iterdir()] == [f"{parent.id}.done"]
    parent.set_status("running")
    with pytest.raises(LockedError, match="--force"):
        listing.remove(store, parent)
    assert listing.remove(store, parent, force=True) > 0 and not store.all()


def test_a_folder_of_runs_that_is_a_link_holds_them_as_any_other(corpus, tmp_path):
    results, real = tmp_path / "results", tmp_path / "elsewhere" / "all"
    for folder in (results, real):
        folder.mkdir(parents=True)
    (results / "runs").symlink_to(real)
    ranking = mtlib.pretraining("smoke", **SHORT)
    made = mtlib.fit(mtlib.experiment("smoke", start_from=ranking, **SHORT), corpus, results, progress="none")
    store = mtlib.RunStore(results)
    run, parent = store.find(made.id), store.get("mnrl-5")
    assert run.path == results / "runs" / run.id == mtlib.fit(run.experiment, corpus, results, progress="none").path
    for reference in (parent.id, parent.path, real / parent.id):
        said = CliRunner().invoke(app, ["rm", str(reference), "--results", str(results)])
        assert said.exit_code == 64 and f"{run.id} started from it" in said.output and parent.path.is_dir()
    for each in (run, mtlib.Run(real / run.id)):
        assert mtlib.resume(each, corpus, progress="none").id == run.id
        assert each.at(1, corpus).step == 1
    mark = results / "plans" / "smoke" / f"{run.id}.done"
    mark.parent.mkdir(parents=True)
    mark.write_text(json.dumps({"run": run.id, "identity": run.identity}))
    said = CliRunner().invoke(app, ["rm", run.id, "--results", str(results)])
    assert said.exit_code == 0 and not run.path.exists() and not mark.exists()


def test_tasks_of_an_unfinished_run_that_are_no_texts_are_one_message(corpus, tmp_path):
    start = Start(mtlib.experiment("smoke", **SHORT), corpus, mtlib.RunStore(tmp_path))
    run, about = start.begin(), start.described()
    run.write_json("config.json", about | {"corpus": about["corpus"] | {"source": "somewhere", "tasks": [1]}})
    run.set_status("interrupted")
    for command in (["train", "--resume", run.id], ["replay", run.id, "--step", "1"]):
        said = CliRunner().invoke(app, [*command, "--results", str(tmp_path)])
        assert said.exit_code == 66 and "config.json: corpus: expected a list of tasks' names" in said.output


def test_what_is_left_of_a_removed_run_is_new_and_trained_from_its_start(corpus, tmp_path):
    """As earlier versions left it when they were killed: without config.json, and perhaps more."""
    experiment = mtlib.experiment("smoke", **SHORT)
    run = mtlib.fit(experiment, corpus, tmp_path, progress="none")
    expected = run.scores
    for gone in ("scores.json", "model", "environment.json"):
        place = run.path / gone
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        (run.path / "config.json").unlink()
        (run.path / "checkpoints" / "step-00000001").mkdir(parents=True)
        assert run.status == "new" and not mtlib.RunStore(tmp_path).all()
        mtlib.fit(experiment, corpus, tmp_path, progress="none")
        assert run.complete and run.scores == expected and run.model().tasks


def test_a_run_of_the_longest_name_is_found_by_its_id(results):
    store = mtlib.RunStore(results)
    run = store.find("x" * 100)
    assert store.find(run.id).path == run.path and len(run.id) == 109


def test_a_parent_of_a_run_with_teachers_is_not_removed(corpus, tmp_path):
    """What such a run starts from is one SHA-256 of all of them."""
    store, plain, pair = mtlib.RunStore(tmp_path), mtlib.experiment("smoke"), corpus.only(["sst", "qqp"])
    experiments = [plain, plain.at(7), plain.at(8), plain.but(start_from=plain, teachers=[plain.at(7)], epochs=4)]
    runs = []
    for experiment, part in [*((each, corpus) for each in experiments), (plain.but(tasks=["sst"]), pair)]:
        start = Start(experiment, part, store)
        runs.append(start.run())
        runs[-1].path.mkdir(parents=True)
        runs[-1].write_json("config.json", start.described())
        runs[-1].set_status("complete")
    base, teacher, stranger, student, other_tasks = runs
    for parent in (base, teacher):
        with pytest.raises(ConfigurationError, match=f"{parent.id}: {student.id} started from it or was taught by it"):
            listing.remove(store, parent)
    config = teacher.read("config.json")
    config["corpus"]["fingerprint"] = "0" * 64
    teacher.write_json("config.json", config)
    for each in (stranger, other_tasks, teacher, student, base):
        assert listing.remove(store, each) > 0


def test_the_version_is_said():
    said = CliRunner().invoke(app, ["--version"])
    assert said.output.strip() == f"mtlib {mtlib.__version__}" and said.exit_code == 0


def test_the_smallest_loss_comes_first(monkeypatch):
    losses = {"worse": 1.5, "better": 0.2, "without": None}
    monkeypatch.setattr(listing, "_row", lambda run: ({"run": run, "status": "complete", "dev_loss": losses[run]}, {}))
    store = SimpleNamespace(all=lambda: list(losses))
    assert listing.table(store, sort="dev_loss")["run"].tolist() == ["better", "worse", "without"]


@pytest.mark.parametrize("title", [5, True, None, "caf\udce9"])
def test_one_odd_run_hides_no_other(results, tmp_path, title):
    shutil.copytree(results, tmp_path / "results")
    store = mtlib.RunStore(tmp_path / "results")
    odd = store.all()[0]
    config = odd.read("config.json")
    config["corpus"]["title"] = title
    (odd.path / "config.json").write_text(json.dumps(config))
    odd.set_status("interrupted")
    shutil.copytree(odd.path, odd.path.parent / f"caf\udce9-{odd.id[-8:]}")
    for options in ([], ["--sort", "corpus"]):
        result = CliRunner().invoke(app, ["runs", "--results", str(tmp_path / "results"), *options])
        assert result.exit_code == 0 and result.stdout.count("27169e8e") == 1, result.output
