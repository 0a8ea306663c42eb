"""The command where a folder, a link or a stream of its surroundings is not what it should be."""

import os
import shutil

import pandas as pd
import pytest
from store_helpers import fork, snapshot
from typer.testing import CliRunner

from mtlib.cli import app
from mtlib.errors import CheckpointError, ConfigurationError
from mtlib.study.submissions import write_submissions
from mtlib.training.runs import Run, RunStore


def command(*arguments) -> tuple[int, str]:
    """Exit code, and everything that was printed."""
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


@pytest.mark.parametrize("arguments", [["train", "--preset", "smoke"], ["run", "03_smart"], ["pipeline", "plan"]])
def test_a_current_folder_that_is_gone_is_one_message(tmp_path, monkeypatch, arguments):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert command(*arguments) == (74, "mtlib: the current folder: No such file or directory\n")


def test_a_run_that_is_a_link_out_of_the_store_hides_no_other(run, tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "away-00000000").symlink_to(run.path)
    real = runs / run.id
    real.mkdir()
    for path in run.path.iterdir():
        (real / path.name).symlink_to(path)
    with pytest.warns(UserWarning, match="left out: .*away-00000000: expected a place inside"):
        assert [each.id for each in RunStore(tmp_path).all()] == [run.id]
    code, text = command("rm", "away-00000000", "--results", tmp_path)
    assert code == 64 and (runs / "away-00000000").is_symlink() and run.path.is_dir()


def test_a_link_to_another_run_of_the_store_hides_no_run(run, tmp_path):
    kept = tmp_path / "runs" / "kept"
    shutil.copytree(run.path, kept / run.id)
    (tmp_path / "runs" / f"a{run.id}").symlink_to(kept / run.id)  # the only way there
    assert [each.id for each in RunStore(tmp_path).all()] == [run.id]
    (tmp_path / "runs" / "b-00000000").symlink_to(f"a{run.id}")
    with pytest.warns(UserWarning, match="left out: .*b-00000000: expected a run's own folder, found a link to"):
        assert RunStore(tmp_path).find(run.id).path == kept / run.id


@pytest.mark.parametrize("name", ["predictions", "checkpoints"])
def test_nothing_is_written_or_removed_through_a_link_out_of_a_run(run, tmp_path, name):
    kept, outside = Run(shutil.copytree(run.path, tmp_path / "runs" / run.id)), tmp_path / "outside"
    if (kept.path / name).is_dir():
        (kept.path / name).rename(outside)
    else:
        outside.mkdir()
    (outside / ".tmp-999999999-x").touch()
    (kept.path / name).symlink_to(outside)
    before = snapshot(outside)
    frame = pd.DataFrame({"id": ["a"]})
    acts = [kept.sweep, lambda: kept.write_frame("predictions/dev-sst.csv", frame), lambda: kept.checkpoints]
    refused = 0
    for act in acts:
        try:
            act()
        except CheckpointError as error:
            refused += "expected a place inside" in str(error)
    assert refused == {"predictions": 2, "checkpoints": 1}[name] and snapshot(outside) == before


@pytest.mark.parametrize("place", ["elsewhere", "runs/again-00000000"])
def test_a_run_is_not_removed_through_a_link(run, tmp_path, place):
    kept = tmp_path / "runs" / run.id
    shutil.copytree(run.path, kept)
    (tmp_path / place).symlink_to(kept)
    before = snapshot(tmp_path)
    code, text = command("rm", tmp_path / place, "--results", tmp_path)
    assert code == 64 and f"expected a run's own folder, found a link to {kept}" in text
    assert snapshot(tmp_path) == before and (tmp_path / place).is_symlink()
    code, text = command("rm", kept / "predictions" / "..")
    assert code == 0 and f"{run.id}: removed" in text and not kept.exists()


@pytest.mark.parametrize(
    "arguments",
    [["rm"], ["rm", "--force"], ["evaluate"], ["card"], ["train", "--resume"], ["export", "--onnx"]],
    ids=str,
)
def test_a_folder_that_is_no_run_is_refused_and_stays_as_it_is(run, tmp_path, arguments):
    shutil.copytree(run.path / "model", tmp_path / "runs" / "mine")
    (tmp_path / "runs" / "mine" / "notes.txt").write_text("years of work")
    before, model = snapshot(tmp_path), snapshot(run.path)
    for folder in (tmp_path / "runs" / "mine", run.path / "model"):
        code, text = command(*arguments, folder, "--results", tmp_path)
        assert code == 66 and text.count("\n") == 1
        assert f"{folder}: expected a run, whose config.json has the keys identity and experiment, found" in text
    if arguments[0] == "rm":
        code, text = command(*arguments, "mine", "--results", tmp_path)
        assert code == 66 and "expected a run" in text
    assert snapshot(tmp_path) == before and snapshot(run.path) == model


def test_a_run_with_a_damaged_configuration_is_removed_by_its_id(run, tmp_path):
    kept = tmp_path / "runs" / run.id
    shutil.copytree(run.path, kept)
    (kept / "config.json").write_text("{")
    code, _ = command("rm", run.id, "--results", tmp_path)
    assert code == 0 and not kept.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_results_that_may_not_be_read_are_one_message(public):
    (public / "runs").mkdir(mode=0o700)

    def as_nobody():
        os.setgroups([])
        os.setuid(65534)
        code, text = command("runs", "--results", public)
        assert code == 74 and text.startswith("mtlib: ") and "Permission denied" in text

    assert fork(as_nobody) == 0


@pytest.mark.parametrize("arguments", [
    ["predict", "--split", "dev", "--output", "predictions"],
    ["predict", "--output", "."],
    ["export", "--task", "sst", "--output", "model"],
    ["export", "--task", "sst", "--output", "model/new"],
    ["export", "--onnx", "--output", "."],
])  # fmt: skip
def test_nothing_is_written_into_a_run_or_a_stored_model(run, tmp_path, arguments):
    before = snapshot(run.path)
    for place in (run.path, tmp_path / "link"):
        if not place.exists():
            place.symlink_to(run.path)
        code, text = command(arguments[0], run.path, *arguments[1:-1], place / arguments[-1])
        assert code == 64 and "expected a folder outside of runs and stored models" in text
        with pytest.raises(ConfigurationError, match="expected a folder outside of runs"):
            write_submissions(run, place / arguments[-1], "x")
    assert snapshot(run.path) == before
