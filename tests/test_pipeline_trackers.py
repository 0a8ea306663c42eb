"""Trackers watch a run's history, and are no part of the run."""

import pytest

import mtlib
from mtlib.errors import ConfigurationError
from mtlib.training import progress
from mtlib.workbook.pipeline import prepare


@pytest.fixture
def fit(corpus, tmp_path):
    """Train a smoke run in a folder of its own."""
    return lambda name="run": mtlib.fit(mtlib.experiment("smoke", name=name), corpus, tmp_path, progress="none")


def test_without_a_request_there_is_no_tracker(fit, monkeypatch):
    monkeypatch.delenv(progress.TRACKER, raising=False)
    monkeypatch.setattr(progress, "_opened", lambda name, run: pytest.fail("opened"))
    assert fit().complete


def test_an_unknown_tracker_is_refused_before_anything_is_written(fit, monkeypatch, tmp_path):
    monkeypatch.setenv(progress.TRACKER, "tensorbord")
    with pytest.raises(ConfigurationError, match="tensorbord: unknown tracker .did you mean 'tensorboard'"):
        fit()
    with pytest.raises(ConfigurationError, match="unknown tracker"):
        prepare("run", None, tmp_path, tmp_path, "make resume")
    assert not list(tmp_path.iterdir())


def test_every_epoch_is_handed_over_and_the_tracker_closed(fit, run, monkeypatch):
    calls = []

    class Watching:
        def log(self, values, step):
            calls.append((step, values))

        def finish(self):
            calls.append("finished")

    monkeypatch.setenv(progress.TRACKER, "wandb")
    monkeypatch.setattr(progress, "_opened", lambda name, run: Watching())
    watched = fit()
    history = watched.history
    assert [step for step, _ in calls[:-1]] == history["step"].tolist() and calls[-1] == "finished"
    assert [values["train_loss"] for _, values in calls[:-1]] == history["train_loss"].tolist()
    assert watched.identity == run.identity


def test_a_tracker_that_fails_is_reported_once_and_the_run_completes(fit, monkeypatch):
    def broken(name, run):
        raise OSError("no network")

    monkeypatch.setenv(progress.TRACKER, "trackio")
    monkeypatch.setattr(progress, "_opened", broken)
    with pytest.warns(UserWarning, match="trackio failed and is left out: OSError: no network") as warned:
        assert fit().complete
    assert sum("left out" in str(each.message) for each in warned) == 1


def test_tensorboard_files_hold_the_history(fit, monkeypatch):
    pytest.importorskip("tensorboard", reason="needs the extra `trackers`")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv(progress.TRACKER, "tensorboard")
    watched = fit()
    events = EventAccumulator(str(watched.path / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in events.Scalars("mean")]
    expected = zip(watched.history["step"], watched.history["mean"], strict=True)
    assert found == [(step, pytest.approx(mean, rel=1e-6)) for step, mean in expected]
