"""Runs passed on in one file: `mtlib pack` and `mtlib unpack`."""

import io
import json
import os
import platform
import shutil
import tarfile
from pathlib import Path

import pandas as pd
import pytest
from conftest import made_up_corpus
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import mtlib
from mtlib.cli import app
from mtlib.data.cached import file_sha256
from mtlib.errors import CheckpointError, ConfigurationError
from mtlib.training import bundles
from mtlib.training.bundles import has_weights, pack, unpack

SHORT = {"epochs": 1, "steps_per_epoch": 2}


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """A store with a pretraining, a run that starts from it, and a run with a teacher of its own."""
    folder = tmp_path_factory.mktemp("trained")
    after = mtlib.experiment("smoke", start_from=mtlib.pretraining("smoke", **SHORT), **SHORT)
    taught = mtlib.experiment("smoke", sampler="annealed", penalties=[mtlib.Bregman(weight=1.0, decay=0.9)], **SHORT)
    for experiment in (after, taught):
        mtlib.fit(experiment, corpus, folder, progress="none")
    return mtlib.RunStore(folder)


@pytest.fixture(scope="module")
def bundle(trained, tmp_path_factory):
    """All of them in one file."""
    return pack(trained.all(), tmp_path_factory.mktemp("bundle") / "runs.tar.xz")


def members(path):
    with tarfile.open(path, "r:xz") as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def bundle_of(files, path):
    """A bundle of the given files, by their names or as pairs with them, whatever they are."""
    with tarfile.open(path, "w:xz") as archive:
        for name, data in files.items() if isinstance(files, dict) else files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_unpacked_runs_are_those_that_were_packed_but_for_their_weights(trained, bundle, corpus, tmp_path):
    found = unpack(bundle, corpus, tmp_path)
    assert [run.id for run in mtlib.RunStore(tmp_path).all()] == [run.id for run in trained.all()]
    for run in found:
        original = mtlib.Run(trained.folder / run.id)
        files = {path.relative_to(run.path) for path in run.path.rglob("*") if path.is_file()}
        assert run.complete and not has_weights(run) and has_weights(original)
        assert {str(name) for name in files} > {"config.json", "history.csv", "scores.json", "environment.json"}
        for name in files - {Path("lock"), Path("status.json")}:
            assert (run.path / name).read_bytes() == (original.path / name).read_bytes()
        about = original.read("status.json")
        about["files"]["environment.json"] = file_sha256(original.path / "environment.json")
        assert about.pop("started") and run.read("status.json") == about
    taught = next(run for run in found if "bregman" in run.id)
    for split in ("dev", "test", "last", "teacher"):
        for task in corpus:
            expected = mtlib.Run(trained.folder / taught.id).predictions(split, task)
            pd.testing.assert_frame_equal(taught.predictions(split, task), expected)


def test_a_bundle_has_no_label_and_no_text_of_the_corpus(bundle, corpus):
    tables = {name: data for name, data in members(bundle).items() if "/predictions/" in name}
    assert len(tables) == 2 * 6 + 6
    assert all("label" not in pd.read_csv(io.BytesIO(data)) for data in tables.values())
    everything = b"\n".join(members(bundle).values()).decode()
    assert not any(text in everything for _, _, frame in corpus.frames() for text in frame["text_a"] if " " in text)


def test_a_bundle_says_neither_where_nor_on_which_machine_it_was_made(corpus_folder, tmp_path):
    source = mtlib.load_corpus(corpus_folder)
    run = mtlib.fit(mtlib.experiment("smoke", **SHORT), source, tmp_path / "a", progress="none")
    bundle = pack([run], tmp_path / "runs.tar.xz")
    everything = b"\n".join(members(bundle).values()).decode()
    assert str(tmp_path) in (run.path / "config.json").read_text() and str(tmp_path) not in everything
    assert platform.node() and f'"{platform.node()}"' not in everything
    moved = corpus_folder.rename(tmp_path / "moved")
    (found,) = unpack(bundle, mtlib.load_corpus(moved), tmp_path / "b")
    assert found.corpus["source"] == str(moved) and found.scores == run.scores
    assert {key: value for key, value in found.corpus.items() if key not in ("name", "title", "source")} == {
        key: value for key, value in run.corpus.items() if key not in ("name", "title", "source")
    }


def test_the_same_runs_make_the_same_bytes(trained, bundle, tmp_path):
    assert pack(reversed(trained.all()), tmp_path / "again.tar.xz").read_bytes() == bundle.read_bytes()


def test_fit_loads_an_unpacked_run_and_says_what_is_missing_where_weights_are_needed(bundle, corpus, tmp_path):
    unpack(bundle, corpus, tmp_path)
    ranking = mtlib.pretraining("smoke", **SHORT)
    after = mtlib.experiment("smoke", start_from=ranking, **SHORT)
    run = mtlib.fit(after, corpus, tmp_path, progress="none")
    scores = run.scores
    assert not has_weights(run) and 0 <= scores["mean"] <= 1
    with pytest.raises(CheckpointError, match="found no folder; .* remove it and train it again"):
        run.model()
    with pytest.raises(CheckpointError, match="mnrl-5.*found no folder"):
        mtlib.fit(after.but(seed=1, start_from=ranking), corpus, tmp_path, progress="none")
    shutil.rmtree(run.path)
    shutil.rmtree(mtlib.RunStore(tmp_path).find("mnrl-5").path)
    again = mtlib.fit(after, corpus, tmp_path, progress="none")
    assert has_weights(again) and again.scores == scores


def test_runs_that_are_there_stay_and_one_that_was_begun_is_not_replaced(trained, bundle, corpus, tmp_path):
    shutil.copytree(trained.folder, tmp_path / "runs")
    assert all(has_weights(run) for run in unpack(bundle, corpus, tmp_path))
    begun = mtlib.RunStore(tmp_path).all()[0]
    begun.set_status("interrupted", step=1)
    with pytest.raises(CheckpointError, match="begun here, interrupted"):
        unpack(bundle, corpus, tmp_path)
    with pytest.raises(CheckpointError, match="expected a finished run, found status 'interrupted'"):
        pack([begun], tmp_path / "no.tar.xz")
    assert not (tmp_path / "no.tar.xz").exists()


def test_a_run_that_finished_before_files_were_sealed_is_read_and_not_packed(run, tmp_path):
    old = mtlib.Run(shutil.copytree(run.path, tmp_path / "runs" / run.id))
    about = old.read("status.json")
    old.write_json("status.json", {key: value for key, value in about.items() if key not in ("files", "seal")})
    assert old.sealed == {} and old.scores == run.scores and old.model().tasks
    result = CliRunner().invoke(app, ["pack", str(tmp_path / "no.tar.xz"), "--results", str(tmp_path)])
    assert result.exit_code == 66 and "finished before files were sealed cannot be packed; remove it" in result.output
    for files in (None, 3, ["config.json"], {"config.json": 3}):
        old.write_json("status.json", about | {"files": files})
        for asked in (["evaluate", run.id], ["pack", str(tmp_path / "no.tar.xz")]):
            result = CliRunner().invoke(app, [*asked, "--results", str(tmp_path)])
            assert result.exit_code == 66, result.exception
            assert "status.json: files: expected the SHA-256 of files by their names, found" in result.output
    assert not (tmp_path / "no.tar.xz").exists()


def test_no_runs_make_no_bundle_and_leave_the_one_that_is_there(bundle, tmp_path):
    path = shutil.copy(bundle, tmp_path)
    result = CliRunner().invoke(app, ["pack", str(path), "--results", str(tmp_path / "typo")])
    assert result.exit_code == 64 and "expected finished runs to pack, found none; --results says" in result.output
    assert Path(path).read_bytes() == bundle.read_bytes()


def test_a_run_of_the_longest_name_is_unpacked_into_what_is_left_of_it(corpus, tmp_path):
    run = mtlib.fit(mtlib.experiment("smoke", name="x" * 100, **SHORT), corpus, tmp_path / "a", progress="none")
    path, place = pack([run], tmp_path / "one.tar.xz"), tmp_path / "b" / "runs" / run.id
    shutil.copytree(run.path, place)
    (place / "config.json").unlink()
    (found,) = unpack(path, corpus, tmp_path / "b")
    assert found.id == run.id and found.scores == run.scores and not has_weights(found)


def test_another_corpus_is_refused(bundle, tmp_path):
    with pytest.raises(CheckpointError, match="trained on another corpus: expected SHA-256"):
        unpack(bundle, made_up_corpus(rows=62), tmp_path)
    with pytest.raises(CheckpointError, match="trained on another corpus: .* of sst.*, found made up with qqp"):
        unpack(bundle, made_up_corpus(rows=62).only(["qqp"]), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_whose_tasks_are_in_another_order_than_the_corpus_has_them(corpus, tmp_path):
    turned = mtlib.experiment("smoke", tasks=list(corpus)[::-1], **SHORT)
    run = mtlib.fit(turned, corpus, tmp_path / "a", progress="none")
    (found,) = unpack(pack([run], tmp_path / "runs.tar.xz"), corpus, tmp_path / "b")
    assert found.scores == run.scores and found.id == run.id


def test_a_run_of_a_part_of_the_corpus_finds_its_part(corpus, tmp_path):
    one = mtlib.fit(mtlib.experiment("smoke", tasks=["sts"], **SHORT), corpus, tmp_path / "a", progress="none")
    path = pack([one], tmp_path / "one.tar.xz")
    (found,) = unpack(path, corpus, tmp_path / "b")
    assert found.scores == one.scores


@pytest.mark.parametrize(
    "change",
    [
        {"scores.json": b"{}"},
        {"history.csv": None},
        {"predictions/dev-sst.csv": b"id,prediction\nsst-dev-0,1\n"},
        {"status.json": b"[]"},
        {"status.json": b'{"status": "running", "files": {}}'},
        {"config.json": b"\xff"},
        {"environment.json": b"\xff"},
        {"environment.json": b"[]"},
        {"status.json": b'{"status": "complete", "pid": 1}'},
        {"status.json": b'{"status": "complete", "pid": 1, "files": null}'},
        {"environment.json": b'{"device": "cuda", "threads": 99}'},
    ],
    ids=lambda change: f"{next(iter(change))} {next(iter(change.values()))!r:.20}",
)
def test_a_changed_bundle_adds_no_run(bundle, corpus, tmp_path, change):
    files = members(bundle)
    run = next(name.partition("/")[0] for name in files if "bregman" in name)
    mine = {name: data for name, data in files.items() if name.startswith(f"{run}/")}
    for name, data in change.items():
        mine.pop(f"{run}/{name}")
        mine |= {} if data is None else {f"{run}/{name}": data}
    sound = {name: data for name, data in files.items() if not name.startswith(f"{run}/")}
    with pytest.raises(CheckpointError, match=run):
        unpack(bundle_of(sound | mine, tmp_path / "changed.tar.xz"), corpus, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["changed.tar.xz"]


@pytest.mark.parametrize("change", [{"files": list}, {"pid": lambda pid: None}])
def test_a_status_that_could_not_be_read_afterwards_is_not_unpacked(bundle, corpus, tmp_path, change):
    files = members(bundle)
    name = next(name for name in files if name.endswith("/status.json"))
    status = json.loads(files[name])
    status |= {key: changed(status[key]) for key, changed in change.items()}
    with pytest.raises(CheckpointError, match="files: expected the SHA-256 of|expected the files of a finished run"):
        unpack(bundle_of(files | {name: json.dumps(status).encode()}, tmp_path / "odd.tar.xz"), corpus, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["odd.tar.xz"]


def test_a_byte_that_flipped_is_one_message_or_nothing_that_is_read(bundle, trained, corpus, tmp_path):
    data, path, results = bundle.read_bytes(), tmp_path / "flipped.tar.xz", tmp_path / "results"
    refused = 0
    for place in {*range(0, len(data), len(data) // 60), *range(len(data) - 40, len(data))}:
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        try:
            found = unpack(path, corpus, results)
        except CheckpointError:
            refused += 1
            assert not results.exists()
        else:  # behind the archive's end
            assert [run.scores for run in found] == [mtlib.Run(trained.folder / run.id).scores for run in found]
            assert len(found) == len(trained.all()) and place > len(data) - 100
            shutil.rmtree(results)
    assert refused >= 60


@pytest.mark.parametrize(
    "name", ["../x/config.json", "/etc/config.json", "a/model/x", "a/../../scores.json", "config.json"]
)
def test_names_that_lead_elsewhere_are_refused(corpus, tmp_path, name):
    with pytest.raises((CheckpointError, ConfigurationError)):
        unpack(bundle_of({name: b"{}"}, tmp_path / "evil.tar.xz"), corpus, tmp_path / "results")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.tar.xz"]


def test_a_link_or_an_enormous_file_is_refused(corpus, tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "link.tar.xz", "w:xz") as archive:
        member = tarfile.TarInfo("a-00000000/config.json")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    monkeypatch.setattr(bundles, "LARGEST", 8)
    large = bundle_of({"a-00000000/config.json": b"x" * 9}, tmp_path / "large.tar.xz")
    for path in (tmp_path / "link.tar.xz", large):
        with pytest.raises(CheckpointError, match="not a file of a bundled run"):
            unpack(path, corpus, tmp_path)


def test_a_file_that_is_there_twice_or_too_much_in_all_is_refused(bundle, corpus, tmp_path, monkeypatch):
    files = members(bundle)
    name = next(name for name in files if name.endswith("/environment.json"))
    again = bundle_of([*files.items(), (name, b"{}")], tmp_path / "again.tar.xz")
    with pytest.raises(CheckpointError, match="is there twice"):
        unpack(again, corpus, tmp_path / "results")
    monkeypatch.setattr(bundles, "ALL", sum(map(len, files.values())) - 1)
    with pytest.raises(CheckpointError, match="bytes in all"):
        unpack(bundle, corpus, tmp_path / "results")
    broken = bundle_of(files | {name: b"\xff" * 10**6}, tmp_path / "broken.tar.xz")
    monkeypatch.undo()
    with pytest.raises(CheckpointError) as caught:
        unpack(broken, corpus, tmp_path / "results")
    assert len(str(caught.value)) < 1000 and not (tmp_path / "results").exists()


def test_pack_replaces_bundles_alone(trained, tmp_path):
    run = trained.all()[0]
    (tmp_path / "mine.tar.xz").write_bytes(b"no bundle")
    (tmp_path / "folder.tar.xz").mkdir()
    os.mkfifo(tmp_path / "fifo.tar.xz")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    for path in ("mine.tar.xz", "folder.tar.xz", "fifo.tar.xz", "mine.csv"):
        with pytest.raises(ConfigurationError, match="earlier bundle|ends in .tar.xz"):
            pack([run], tmp_path / path)
    for path in (run.path / "scores.json", run.path / "model" / "x.tar.xz", trained.folder / "x.tar.xz"):
        with pytest.raises(ConfigurationError, match="outside of runs"):
            pack([run], path)
    assert before == {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert (tmp_path / "mine.tar.xz").read_bytes() == b"no bundle"
    assert pack([run], pack([run], tmp_path / "b.tar.xz")).is_file()


def test_what_no_corpus_could_open_is_not_packed_and_a_copy_hides_no_run(trained, corpus, tmp_path):
    store = mtlib.RunStore(tmp_path)
    plain = mtlib.experiment("smoke", **SHORT)
    run = mtlib.fit(plain, corpus, tmp_path, progress="none")
    other = mtlib.fit(plain, made_up_corpus(rows=62), tmp_path, progress="none")
    with pytest.raises(ConfigurationError, match="were trained on different corpora of sst, qqp, sts"):
        pack([run, other], tmp_path / "both.tar.xz")
    shutil.copytree(run.path, store.folder / f"{run.id}-backup")
    assert store.find(run.id).path == run.path.resolve()
    with pytest.raises(ConfigurationError, match="it was renamed or copied"):
        pack(store.all(), tmp_path / "copy.tar.xz")
    assert not list(tmp_path.glob("*.tar.xz"))


@pytest.mark.parametrize("data", [b"", b"no archive", 1, 12, 100])
def test_what_is_no_bundle_or_is_cut_off_is_one_message(bundle, corpus, tmp_path, data):
    path = tmp_path / "x.tar.xz"
    path.write_bytes(bundle.read_bytes()[:-data] if isinstance(data, int) else data)
    with pytest.raises(CheckpointError, match="expected runs as `mtlib pack` writes them"):
        unpack(path, corpus, tmp_path)
    assert not [each for each in mtlib.RunStore(tmp_path).all() if each.complete]


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1), min_size=1, unique=True),
    st.data(),
)
def test_labels_come_back_to_the_same_bytes_whatever_the_ids(ids, data):
    numbers = st.floats(allow_nan=False, allow_infinity=False)
    column = st.lists(numbers, min_size=len(ids), max_size=len(ids))
    frame = pd.DataFrame({"id": ids, "label": data.draw(column), "prediction": data.draw(column)})
    stored = bundles._csv(frame)
    assert bundles._with_labels(bundles._without_labels(stored), frame) == stored


def test_the_commands(trained, corpus_folder, tmp_path):
    runner, file = CliRunner(), str(tmp_path / "runs.tar.xz")
    results = ["--results", str(trained.folder.parent)]
    packed = runner.invoke(app, ["pack", file, "mnrl-5", *results])
    assert packed.exit_code == 0 and "1 runs" in packed.output
    assert "3 runs" in runner.invoke(app, ["pack", file, *results]).output
    there = ["--results", str(tmp_path / "there")]
    unpacked = runner.invoke(app, ["unpack", file, "--corpus", str(corpus_folder), *there])
    assert unpacked.exit_code == 0 and len(unpacked.output.splitlines()) == 3
    refused = runner.invoke(app, ["unpack", file, "--corpus", "sample", "--results", str(tmp_path / "elsewhere")])
    assert refused.exit_code == CheckpointError.exit_code and "another corpus" in refused.output


def test_unpack_needs_of_a_folder_the_files_of_the_runs_tasks_alone(corpus_folder, tmp_path):
    folder, runner, file = tmp_path / "sst", CliRunner(), str(tmp_path / "runs.tar.xz")
    folder.mkdir()
    for path in corpus_folder.glob("ids-sst-*.csv"):
        shutil.copy(path, folder)
    mtlib.fit(mtlib.experiment("smoke", tasks=["sst"], **SHORT), mtlib.load_corpus(folder, ["sst"]), tmp_path)
    assert runner.invoke(app, ["pack", file, "--results", str(tmp_path)]).exit_code == 0
    there = ["--corpus", str(folder), "--results", str(tmp_path / "there")]
    unpacked = runner.invoke(app, ["unpack", file, *there])
    assert unpacked.exit_code == 0, unpacked.output
    (run,) = mtlib.RunStore(tmp_path / "there").all()
    assert run.complete and run.experiment.tasks == ("sst",)


@pytest.mark.parametrize("config", [b"", b"[]", b"{}", b'{"corpus": {"tasks": 5}}'])
def test_a_bundle_of_a_run_that_names_no_tasks_is_refused(tmp_path, config):
    path = bundle_of({"a-12345678/config.json": config}, tmp_path / "runs.tar.xz")
    with pytest.raises(CheckpointError, match="a-12345678: expected a run that names its tasks"):
        bundles.tasks_of(path)


@pytest.mark.slow
def test_the_methods_table_is_made_anew_from_a_bundle(tmp_path):
    from mtlib.workbook.notebooks import find_stage, run_notebook

    path, given = find_stage("06_ensemble"), {"preset": "smoke", "corpus": "sample"}
    run_notebook(path, given, results=tmp_path / "a", figures=tmp_path / "a")
    bundle = pack(mtlib.RunStore(tmp_path / "a").all(), tmp_path / "runs.tar.xz")
    unpack(bundle, mtlib.load_corpus("sample"), tmp_path / "b")
    run_notebook(path, given | {"train": False}, results=tmp_path / "b", figures=tmp_path / "b")
    before, after = (
        pd.read_csv(tmp_path / place / "tables" / "smoke-sample" / "table_7.csv", index_col="method") for place in "ab"
    )
    assert set(before.index) - set(after.index) == {"soup from the encoder", "soup from MNRL"}
    pd.testing.assert_frame_equal(before.loc[after.index], after)
