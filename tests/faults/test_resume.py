"""What a run refuses to continue from or to show, and what it repairs."""

import json
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from conftest import made_up_corpus
from run_helpers import CORPUS, PRETRAINING, SMART_AND_TEACHER, SMART_BALL, after_step, at_call, calls, kill, tiny
from store_helpers import fork, snapshot

import mtlib
from mtlib.errors import CheckpointError, StorageError
from mtlib.objectives.bregman import Bregman
from mtlib.training import checkpoints, loop
from mtlib.training import optimization as state
from mtlib.training.files import storage
from mtlib.training.runs import RunStore

EXPERIMENT = dict(epochs=2, steps_per_epoch=2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    assert tiny(SMART_AND_TEACHER, **EXPERIMENT).child(folder) == 0
    return folder


def begun(folder: Path, step: int = 3):
    """A run killed after `step` of its four steps, and its experiment."""
    experiment = tiny(SMART_AND_TEACHER, **EXPERIMENT)
    assert experiment.child(folder, after_step(step)) < 0
    (run,) = RunStore(folder).all()
    return experiment, run


def kept(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` but the locks."""
    return {name: data for name, data in snapshot(folder).items() if not Path(name).name.startswith("lock")}


def refused(experiment, folder: Path, match: str) -> None:
    """Assert that training is refused with `match` and that nothing changes."""
    before = kept(folder)
    with pytest.raises(CheckpointError, match=match) as error:
        mtlib.fit(experiment.settings, CORPUS, folder, progress="none")
    assert error.value.exit_code == 66
    assert kept(folder) == before
    assert not RunStore(folder).find(experiment.settings.name).complete


# Out of memory


def test_out_of_memory_fails_the_run_and_leaves_it_able_to_resume(finished, tmp_path):
    experiment = tiny(SMART_AND_TEACHER, **EXPERIMENT)

    def out_of_memory():
        raise MemoryError("no more")

    assert experiment.child(tmp_path, after_step(3, out_of_memory)) == 99
    (run,) = RunStore(tmp_path).all()
    about = run.read("status.json")
    assert (about["status"], about["step"], about["error"]) == ("failed", 2, "MemoryError: no more")
    assert run.checkpoints.latest().step == 2
    assert experiment.child(tmp_path) == 0
    assert experiment.outcome(tmp_path) == experiment.outcome(finished)


# Another architecture


def parts(width: int):
    """Model, optimizer after one step, and penalties of another size."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Linear(width, 2))
    optimizer = torch.optim.AdamW(state.parameter_groups(model, 0.1), lr=0.1)
    penalties = [Bregman(weight=1.0, decay=0.5).start(model, 10)]
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return model, optimizer, penalties


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda t: t.pop("model.0.bias"), "missing model.0.bias$"),
        (lambda t: t.update({"model.extra": torch.zeros(1)}), "unexpected model.extra$"),
        (
            lambda t: t.update({"model.0.bias": torch.zeros(5)}),
            r"model.0.bias expected \[3\] torch.float32, found \[5\]",
        ),
        (lambda t: t.update({"model.0.bias": torch.zeros(3).double()}), "expected .* torch.float32, found .*float64$"),
        (lambda t: t.pop("penalty.bregman.1.weight"), "missing penalty.bregman.1.weight$"),
        (lambda t: t.pop("optimizer.3.exp_avg"), "missing optimizer.3.exp_avg$"),
        (lambda t: t.pop("optimizer.0.step"), "missing optimizer.0.step$"),
        (lambda t: t.update({"optimizer.0.exp_avg": torch.zeros(4, 3)}), r"optimizer.0.exp_avg expected \[3, 4\]"),
        (lambda t: t.update({"optimizer.4.exp_avg": torch.zeros(1)}), "unexpected optimizer.4.exp_avg$"),
        (lambda t: t.update({"optimizer.x.exp_avg": torch.zeros(1)}), "unexpected optimizer.x.exp_avg$"),
        (lambda t: [t.pop(name) for name in list(t) if "optimizer" in name], "missing optimizer.0.exp_avg; "),
        (lambda t: t.clear(), "missing model.0.bias; .* and 5 more$"),
    ],
)
def test_tensors_that_do_not_fit_are_named_and_change_nothing(damage, match):
    own = parts(3)
    tensors = {name: tensor.clone() for name, tensor in state.gathered(*own).items()}
    for tensor in tensors.values():
        tensor += 1
    damage(tensors)
    before = {name: tensor.clone() for name, tensor in state.gathered(*own).items()}
    with pytest.raises(CheckpointError, match=match):
        state.restore(tensors, *own)
    after = state.gathered(*own)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_another_width_is_named_shape_by_shape():
    with pytest.raises(CheckpointError) as error:
        state.restore(state.gathered(*parts(5)), *parts(3))
    assert "model.0.weight expected [3, 4] torch.float32, found [5, 4] torch.float32" in str(error.value)


def test_a_run_does_not_continue_with_another_architecture(tmp_path):
    """Only a changed library can come to this: the weights are part of a run's identity."""
    experiment, run = begun(tmp_path)
    newest = run.checkpoints.latest()
    tensors = {**newest.tensors, "model.heads.sst.weight": torch.zeros(5, 32)}
    run.checkpoints.save(newest.step, tensors, newest.state)
    refused(experiment, tmp_path, r"model.heads.sst.weight expected \[5, 16\] torch.float32, found \[5, 32\]")


# Other formats, other configurations


@pytest.mark.parametrize("version", [0, 2])
def test_a_run_with_a_checkpoint_of_another_format_is_refused_and_left_alone(tmp_path, version):
    experiment, run = begun(tmp_path)
    newest = max((run.path / "checkpoints").glob("step-*"))
    (newest / "manifest.json").write_bytes(checkpoints._seal({"format": version}))
    refused(experiment, tmp_path, f"expected checkpoint format 1, found {version}")


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_configuration_edited_before_resume_is_refused_with_the_difference(tmp_path):
    experiment, run = begun(tmp_path)
    edit(run.path / "config.json", lambda config: config["experiment"].update(learning_rate=0.5, seed=7))
    refused(
        experiment,
        tmp_path,
        "config.json: edited .*learning_rate: expected 0.001, found 0.5; seed: expected 0, found 7",
    )


def test_a_configuration_edited_after_the_end_is_refused(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (run,) = RunStore(tmp_path).all()
    edit(run.path / "config.json", lambda config: config["experiment"].update(learning_rate=0.5))
    with pytest.raises(CheckpointError, match="config.json: changed since the run finished: expected SHA-256 "):
        run.experiment  # noqa: B018


def test_another_name_or_place_of_the_encoder_is_no_other_run(finished):
    experiment = tiny(SMART_AND_TEACHER, **EXPERIMENT, name="renamed")
    (run,) = RunStore(finished).all()
    assert mtlib.fit(experiment.settings, CORPUS, finished, progress="none").path == run.path


def test_a_corpus_changed_before_resume_is_another_run(tmp_path):
    experiment, run = begun(tmp_path)
    changed = made_up_corpus(rows=24)
    changed["sst"].train.loc[3, "text_a"] += "s"
    assert loop.Start(experiment.settings, changed, RunStore(tmp_path)).run().path != run.path


# Another environment


def test_a_refused_continuation_leaves_every_byte_of_a_run(tmp_path):
    experiment, run = begun(tmp_path)
    run.set_status("interrupted", step=2)
    edit(run.path / "environment.json", lambda here: here.update(threads=99))
    refused(experiment, tmp_path, "threads was 99, is 1")
    assert run.read("status.json")["step"] == 2


def test_a_refused_continuation_sets_no_damaged_checkpoint_aside_and_sweeps_nothing(tmp_path):
    experiment, run = begun(tmp_path)
    edit(run.path / "environment.json", lambda here: here.update(threads=99))
    (max((run.path / "checkpoints").glob("step-*")) / "state.json").write_bytes(b"{}")
    (run.path / ".tmp-999999999-half").touch()
    refused(experiment, tmp_path, "threads was 99, is 1")
    with pytest.warns(UserWarning, match="damaged checkpoint set aside"):
        assert mtlib.fit(experiment.settings, CORPUS, tmp_path, progress="none", allow_inexact=True).complete


def test_a_continuation_without_the_weights_it_started_from_leaves_every_byte(tmp_path):
    parent = tiny(PRETRAINING, name="parent")
    experiment = tiny(SMART_BALL, start_from=parent.settings)
    assert parent.child(tmp_path) == 0 and experiment.child(tmp_path, after_step(4)) < 0
    shutil.rmtree(RunStore(tmp_path).find("parent").path / "model")
    refused(experiment, tmp_path, "found no folder")


@pytest.mark.parametrize("again", [0.4, 0.7])
def test_a_best_epoch_whose_model_is_gone_is_forgotten_where_bits_differ(tmp_path, monkeypatch, again):
    """Killed between the second epoch's better model and its checkpoint; elsewhere that epoch is worse."""
    experiment = tiny(SMART_AND_TEACHER, epochs=3, steps_per_epoch=2)

    def scoring(patch, *qualities, dying=False):
        score, log = loop.Training._score, loop.log_epoch

        def scored(self):
            return score(self)[0], qualities[self.done // 2 - 1]

        def logged(run, row):
            log(run, row)
            if dying and row["epoch"] == 2:
                kill()

        patch.setattr(loop.Training, "_score", scored)
        patch.setattr(loop, "log_epoch", logged)

    assert experiment.child(tmp_path, lambda patch: scoring(patch, 0.5, 0.9, 0.1, dying=True)) == -signal.SIGKILL
    (run,) = RunStore(tmp_path).all()
    assert run.checkpoints.latest().state["best"]["epoch"] == 1
    edit(run.path / "environment.json", lambda here: here.update(threads=99))
    scoring(monkeypatch, 0.5, again, 0.1)
    assert mtlib.fit(experiment.settings, CORPUS, tmp_path, progress="none", allow_inexact=True).complete
    assert run.best_epoch == 2 and run.model().tasks


# Files of a run


@pytest.mark.parametrize("cut", [1, 7, 60])
def test_a_history_cut_off_is_rebuilt_on_resume(finished, tmp_path, cut):
    """The checkpoint after the last epoch has the whole history; no epoch comes that would write it again."""
    experiment = tiny(SMART_AND_TEACHER, **EXPERIMENT)
    before = next(number for number, call in enumerate(calls(experiment, tmp_path / "count")) if "/predictions" in call)
    assert experiment.child(tmp_path / "run", at_call(before)) < 0
    (run,) = RunStore(tmp_path / "run").all()
    path = run.path / "history.csv"
    os.truncate(path, path.stat().st_size - cut)
    with pytest.raises(CheckpointError, match="history.csv: expected whole lines, found the last one cut off"):
        run.history  # noqa: B018
    assert experiment.child(tmp_path / "run") == 0
    assert experiment.outcome(tmp_path / "run") == experiment.outcome(finished)


NAMES = ["history.csv", "scores.json", "config.json", "predictions/dev-sst.csv", "predictions/teacher-sts.csv"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data[: len(data) // 2], lambda data: data + b"\n"]
)
def test_a_finished_run_s_changed_file_is_never_shown(finished, tmp_path, name, change):
    (run,) = RunStore(finished).all()
    path = run.path / name
    data = path.read_bytes()
    try:
        path.write_bytes(change(data))
        with pytest.raises(CheckpointError, match=f"{path}: changed since the run finished: expected SHA-256 "):
            run.read(name) if name.endswith("json") else run.read_frame(name)
    finally:
        path.write_bytes(data)


def test_a_missing_table_is_named(finished):
    (run,) = RunStore(finished).all()
    with pytest.raises(CheckpointError, match="no-such.csv: expected a table of a run"):
        run.read_frame("no-such.csv")


def test_a_best_model_exchanged_before_the_end_is_not_finished_with(tmp_path):
    experiment = tiny(SMART_BALL)  # its first epoch is the best
    assert experiment.child(tmp_path, lambda patch: patch.setattr(loop.Training, "finish", lambda self: kill())) < 0
    (run,) = RunStore(tmp_path).all()
    other = mtlib.MultitaskModel.from_pretrained(run.path / "model")
    with torch.no_grad():
        other.heads["sst"].bias += 1
    other.save_pretrained(run.path / "model")
    assert experiment.child(tmp_path) == 66 and not run.complete


def test_a_run_finished_before_files_were_sealed_is_still_read(finished, tmp_path):
    (run,) = RunStore(finished).all()
    about = (run.path / "status.json").read_bytes()
    try:
        run.set_status("complete")
        assert run.history["epoch"].tolist() == [1, 2] and run.scores["mean"] >= 0
    finally:
        (run.path / "status.json").write_bytes(about)


def test_a_model_that_the_disk_does_not_hold_is_one_clear_error_and_the_old_one_stays(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (run,) = RunStore(tmp_path).all()
    model = run.model()

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with pytest.raises(StorageError, match="model: cannot write: File too large EFBIG"):
            run.write_model(model)
        with pytest.raises(StorageError, match="cannot write: File too large EFBIG"), storage("write", tmp_path):
            model.tokenizer.save_pretrained(tmp_path / "tokenizer")

    assert fork(work) == 0
    assert run.model().tasks == model.tasks


def test_a_model_that_was_about_to_be_replaced_is_put_back(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (run,) = RunStore(tmp_path).all()
    (run.path / "model").rename(run.path / ".tmp-999999999-model-old")
    (run.path / ".tmp-999999999-model").mkdir()
    (run.path / "predictions" / ".tmp-999999999-dev-sst.csv").touch()
    run.sweep()
    run.sweep()
    assert run.model().tasks and not list(run.path.rglob(".tmp-*"))


def test_checkpoints_left_by_a_kill_after_the_end_are_removed(finished, tmp_path):
    experiment = tiny(SMART_BALL)
    made = enumerate(calls(experiment, tmp_path / "count"))
    last = [number for number, call in made if call.startswith("rmdir")][-1]
    assert experiment.child(tmp_path / "run", at_call(last)) < 0
    (run,) = RunStore(tmp_path / "run").all()
    assert run.complete and (run.path / "checkpoints").is_dir()
    assert experiment.child(tmp_path / "run") == 0
    assert not (run.path / "checkpoints").exists()
    assert experiment.outcome(tmp_path / "run") == experiment.outcome(tmp_path / "count")
