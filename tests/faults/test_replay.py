"""Steps replayed: the same bits as when the run was trained, from its start and from a checkpoint, writing nothing."""

import math
import random

import pytest
import torch
from conftest import write_corpus
from run_helpers import CORPUS, PRETRAINING, SMART_AND_TEACHER, Tiny, encoder, rising, tiny
from typer.testing import CliRunner

import mtlib
from mtlib.cli import app
from mtlib.errors import CheckpointError, ConfigurationError, DivergenceError
from mtlib.training.loop import Training
from mtlib.training.optimization import fingerprint, gathered, layer_of

SHARED = {"encoder": encoder(), "max_tokens": 32, "batch_size": 4, "epochs": 3, "steps_per_epoch": 8, "warmup": 0.2}


def kinds() -> dict[str, Tiny]:
    """Plain training with dropout, SMART, Bregman from a pretraining, and two whose learning rates depend on more."""
    teacher = {"penalties": [mtlib.Bregman(weight=1.0, decay=0.9)], "start_from": tiny(PRETRAINING).settings}
    return {
        "plain": Tiny(mtlib.experiment("smoke", sampler="annealed", **SHARED)),
        "SMART": Tiny(mtlib.experiment("smoke", penalties=[mtlib.Smart(weight=1.0, mode="ball")], **SHARED)),
        "Bregman from a pretraining": Tiny(mtlib.experiment("smoke", **teacher, **SHARED)),
        "joint steps": Tiny(mtlib.experiment("smoke", step="joint", sampler="annealed", **teacher, **SHARED)),
        "FAMO": Tiny(mtlib.experiment("smoke", step="joint", aggregate="famo", **SHARED)),
        "halving, SMART and teacher": tiny(SMART_AND_TEACHER),
        "pretraining": tiny(PRETRAINING),
    }


@pytest.fixture
def seen(monkeypatch):
    """Whatever is trained from now on is noted: for each run, SHA-256 before each step, what was logged, the norm."""
    notes: dict[str, list] = {}
    step, record = Training._step, Training._record

    def noted(self, number):
        notes.setdefault(self.run.id, []).append(
            {"sha": fingerprint(gathered(self.model, self.optimizer, self.stateful))}
        )
        clip = self.gradients.clip
        self.gradients.clip = lambda most: notes[self.run.id][-1].setdefault("norm", clip(most))
        step(self, number)
        self.gradients.clip = clip

    def logged(self, parts, values):
        notes[self.run.id][-1] |= {"task": "+".join(part.batch.task.name for part in parts), "values": dict(values)}
        record(self, parts, values)

    monkeypatch.setattr(Training, "_step", noted)
    monkeypatch.setattr(Training, "_record", logged)
    return notes


def files(run) -> dict:
    return {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file() and path.name != "lock"}


@pytest.mark.parametrize("kind", kinds())
def test_a_replayed_step_has_the_bits_of_the_trained_one(kind, tmp_path, monkeypatch, seen):
    each = kinds()[kind]
    if each.rises:
        monkeypatch.setattr(Training, "_objective", rising(Training._objective))
    run = mtlib.fit(each.settings, CORPUS, tmp_path, progress="none")
    trained, before = list(seen[run.id]), files(run)
    steps = random.Random(kind).sample(range(1, each.steps + 1), min(20, each.steps))
    for step in steps:
        replayed, was = run.at(step, CORPUS), trained[step - 1]
        assert replayed.fingerprint == was["sha"], step
        assert (replayed.task, replayed.losses["total"]) == (was["task"], was["values"]["train_loss"])
        assert replayed.gradients["total"] == pytest.approx(was["norm"], rel=1e-5)
        assert len(replayed.batch) == each.settings.batch_size * (2 if kind == "pretraining" else 1)
        if "+" in replayed.task:
            assert list(replayed.batch) == ["task", "id", "text_a", "text_b", "label"]
            assert not replayed.batch.isna().any(axis=None)
            assert all(label == int(label) for label in replayed.batch.query("task != 'sts'")["label"])
    assert len({trained[step - 1]["sha"] for step in steps}) == len(steps)
    assert files(run) == before


def test_terms_add_up_and_layers_make_the_whole_norm(tmp_path):
    run = mtlib.fit(tiny(SMART_AND_TEACHER).settings, CORPUS, tmp_path, progress="none")
    replayed = run.at(5, CORPUS)
    terms = {name: value for name, value in replayed.losses.items() if name != "total"}
    assert set(terms) == {replayed.task, "smart", "bregman"}
    assert sum(terms.values()) == pytest.approx(replayed.losses["total"], rel=1e-5)
    assert terms["bregman"] == pytest.approx(replayed.log["bregman/penalty"])
    layers = {name: value for name, value in replayed.gradients.items() if name != "total"}
    assert f"heads.{replayed.task}" in layers and len([name for name in layers if name.startswith("heads.")]) == 1
    assert sum(value**2 for value in layers.values()) == pytest.approx(replayed.gradients["total"] ** 2)
    logits = replayed.model.predict(replayed.task, _inputs(replayed))
    assert len(logits) == len(replayed.batch) and not replayed.model.training
    with pytest.raises(ConfigurationError, match="from 1 to 16"):
        run.at(17, CORPUS)


def _inputs(replayed) -> list:
    columns = [name for name in ("text_a", "text_b") if name in replayed.batch]
    rows = list(replayed.batch[columns].itertuples(index=False, name=None))
    return rows if len(columns) == 2 else [text for (text,) in rows]


@pytest.mark.parametrize(
    "name, layer",
    [
        ("encoder.embeddings.word_embeddings.weight", "encoder.embeddings"),
        ("encoder.encoder.layer.11.attention.self.query.weight", "encoder.encoder.layer.11"),
        ("encoder.layers.3.mlp.Wi.weight", "encoder.layers.3"),
        ("heads.sst.weight", "heads.sst"),
        ("head.weight", "head"),
    ],
)
def test_layers_are_named_as_encoders_name_them(name, layer):
    assert layer_of(name) == layer


def ended_at_18(folder, monkeypatch):
    """A plain run that failed at its 19th step, with a checkpoint after each one before."""
    step = Training._step

    def ending(self, number):
        if number == 18:
            raise MemoryError
        step(self, number)

    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr(Training, "_step", ending)
        mtlib.fit(kinds()["plain"].settings, CORPUS, folder, progress="none", minutes=0)
    (run,) = mtlib.RunStore(folder).all()
    return run


def test_the_newest_checkpoint_before_the_step_is_where_it_starts(tmp_path, monkeypatch, seen):
    run = ended_at_18(tmp_path, monkeypatch)
    trained = list(seen.pop(run.id))
    for number, done in ((19, 0), (18, 0), (17, 16)):
        seen.pop(run.id, None)
        assert run.at(number, CORPUS).fingerprint == (trained[number - 1]["sha"] if number < 19 else _after(run))
        assert len(seen.get(run.id, [])) == done, "steps that had to be done again"
    assert run.status == "failed"


def test_a_damaged_checkpoint_is_passed_over_and_left(tmp_path, monkeypatch):
    run = ended_at_18(tmp_path, monkeypatch)
    sound = run.at(18, CORPUS).fingerprint
    for folder in (run.path / "checkpoints").iterdir():
        (folder / "state.json").write_bytes(b"{}")
    before = files(run)
    assert run.at(18, CORPUS).fingerprint == sound and files(run) == before


@pytest.mark.parametrize("kind", ["loss", "gradient"])
@pytest.mark.parametrize("steps", [{}, {"aggregate": "sum"}, {"aggregate": "famo"}, {"aggregate": "mgda"}])
def test_the_step_that_diverged_is_shown_and_nothing_is_written(tmp_path, monkeypatch, steps, kind):
    objective = Training._objective

    def broken(self, batch, number):
        loss, log = objective(self, batch, number)
        spoilt = loss * math.nan if kind == "loss" else loss + 0 * (self.model.encode(batch.inputs).sum() * 0).sqrt()
        return spoilt if number == 5 else loss, log

    monkeypatch.setattr(Training, "_objective", broken)
    with pytest.raises(DivergenceError, match="(loss|gradient norm) at step 6 is nan"):
        step = "joint" if steps else "single"
        mtlib.fit(mtlib.experiment("smoke", step=step, **SHARED, **steps), CORPUS, tmp_path, progress="none")
    (run,) = mtlib.RunStore(tmp_path).all()
    before = files(run)
    replayed = run.at(6, CORPUS)
    assert files(run) == before
    assert math.isnan(replayed.gradients["total"]) and math.isnan(replayed.losses["total"]) == (kind == "loss")
    assert set(run.read("divergence.json")["ids"]) <= set(replayed.batch["id"])


def _after(run) -> str:
    return fingerprint(run.checkpoints.latest().tensors)


def test_another_environment_is_refused_and_threads_are_the_run_s(run, corpus, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert run.at(1, corpus).step == 1
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    about = run.read("environment.json")
    try:
        run.write_json("environment.json", about | {"torch": "0.1"})
        with pytest.raises(CheckpointError, match="torch was 0.1"):
            run.at(1, corpus)
        assert run.at(1, corpus, allow_inexact=True).step == 1
    finally:
        run.write_json("environment.json", about)


@pytest.mark.parametrize("threads", ["two", -1, 0, True, [1], None, 2.0, 10**30])
def test_a_number_of_threads_that_is_none_is_refused(run, corpus, threads):
    about = run.read("environment.json")
    try:
        run.write_json("environment.json", about | {"threads": threads})
        with pytest.raises(CheckpointError, match="environment.json: expected a number of threads, at most"):
            run.at(1, corpus)
    finally:
        run.write_json("environment.json", about)


def test_the_command_prints_the_step_and_takes_the_run_s_own_corpus(tmp_path):
    corpus = write_corpus(tmp_path / "corpus")
    settings = mtlib.experiment("smoke", penalties=[mtlib.Smart(weight=1.0)], **SHARED)
    run = mtlib.fit(settings, mtlib.load_corpus(corpus), tmp_path, progress="none")
    said = CliRunner().invoke(app, ["replay", run.id, "--step", "9", "--results", str(tmp_path)])
    assert said.exit_code == 0, said.output
    replayed = run.at(9)
    assert said.output.startswith(f"{run.id}: step 9 of 24, {replayed.task}, learning rate 0.001\n")
    assert replayed.fingerprint in said.output and all(name in said.output for name in replayed.batch["id"])
    assert f"total {replayed.losses['total']:.6g}" in said.output and "encoder.encoder.layer.0" in said.output
    assert CliRunner().invoke(app, ["replay", run.id, "--step", "25", "--results", str(tmp_path)]).exit_code == 64
