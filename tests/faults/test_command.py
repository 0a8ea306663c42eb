"""The command where a folder, a link or a stream of its surroundings is not what it should be."""

import os

import pytest
from store_helpers import snapshot
from typer.testing import CliRunner

from mtlib.cli import app
from mtlib.training.runs import RunStore


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


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_results_that_may_not_be_read_are_one_message(tmp_path):
    from store_helpers import fork

    tmp_path.chmod(0o755)
    (tmp_path / "runs").mkdir(mode=0o700)

    def as_nobody():
        os.setgroups([])
        os.setuid(65534)
        code, text = command("runs", "--results", tmp_path)
        assert code == 74 and text.startswith("mtlib: ") and "Permission denied" in text

    for parent in tmp_path.parents[:3]:
        parent.chmod(0o755)
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
    assert snapshot(run.path) == before
