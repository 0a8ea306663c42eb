"""The training loop: what one step does, that runs are found again, and that a run resumes to the same bits."""

import hashlib
import io
import json
import math
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import made_up_corpus

import mtlib
from mtlib.data.corpus import Corpus
from mtlib.errors import CheckpointError, ConfigurationError, DataError, DivergenceError
from mtlib.objectives.losses import LOSSES
from mtlib.randomness import seeded
from mtlib.tasks import QQP, SST, STS, TASKS, Task
from mtlib.training import loop
from mtlib.training.evaluation import choosing_mean, in_choosing_half, limited, scores
from mtlib.training.runs import Run, RunStore
from mtlib.training.start import Start


def smoke(**changes):
    return mtlib.experiment("smoke", **changes)


def fit(experiment, corpus, folder, **options) -> Run:
    return mtlib.fit(experiment, corpus, folder, progress="none", **options)


def contents(run: Run) -> str:
    """SHA-256 over everything a run stores but times, process numbers and the clock."""
    digest = hashlib.sha256()
    for path in sorted(path for path in run.path.rglob("*") if path.is_file()):
        name = str(path.relative_to(run.path))
        if name in ("status.json", "environment.json", "model/README.md") or name.startswith("lock"):
            continue
        data = path.read_bytes()
        if name == "history.csv":
            data = run.history.drop(columns="seconds").to_csv().encode()
        if name == "scores.json":
            data = json.dumps({**json.loads(data), "seconds": 0}).encode()
        digest.update(name.encode() + data)
    return digest.hexdigest()


def test_fit_writes_a_model_card(run):
    assert (run.path / "model" / "README.md").read_text().partition(f"# {run.id}")[1]


def test_a_finished_run_has_everything_it_promises(run, corpus):
    assert run.complete
    files = {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}
    expected = {"config.json", "environment.json", "history.csv", "scores.json", "status.json"}
    expected |= {f"predictions/{split}-{task}.csv" for split in ("dev", "test") for task in corpus}
    expected |= {
        f"model/{name}" for name in ("model.safetensors", "config.json", "tokenizer.json", "heads.safetensors")
    }
    assert expected <= files
    assert not any("checkpoints" in name or name.endswith((".bin", ".pt", ".pkl")) for name in files)
    assert set(run.scores) >= {"sst", "qqp", "sts", "mean", "evenness", "sts_r"}
    assert run.history["epoch"].tolist() == [1, 2]
    assert (run.history[["draws_sst", "draws_qqp", "draws_sts"]] == 2).all(axis=None)
    environment = run.read("environment.json")
    assert {"torch", "device", "threads", "commit", "precision"} <= set(environment)


def test_results_may_be_a_relative_path(run, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = mtlib.fit(run.experiment, corpus, "results", progress="none")
    assert (there.status, there.path) == ("complete", Path("results/runs") / run.id)
    assert there.read("status.json")["files"].keys() == run.read("status.json")["files"].keys()
    assert there.scores == run.scores


def test_scores_are_those_of_the_stored_predictions_and_model(run, corpus):
    by_task = {}
    for task in (SST, QQP, STS):
        stored = run.predictions("dev", task.name)
        assert stored["id"].tolist() == corpus[task.name].dev["id"].tolist()
        by_task[task.name] = task.score(stored["label"].to_numpy(), stored["prediction"].to_numpy())
        assert run.scores[task.name] == by_task[task.name]
        frame = corpus[task.name].dev
        texts = list(zip(frame["text_a"], frame["text_b"], strict=True)) if task.is_pair else frame["text_a"].tolist()
        with torch.autocast("cpu", torch.bfloat16, enabled=run.read("environment.json")["precision"] == "bfloat16"):
            again = run.model().predict(task.name, texts)
        np.testing.assert_allclose(again["prediction"], stored["prediction"], rtol=1e-6)
    assert run.scores["mean"] == pytest.approx(np.mean(list(by_task.values())))
    assert run.scores["evenness"] == pytest.approx(1 - (max(by_task.values()) - min(by_task.values())))


def test_an_identical_experiment_is_loaded_and_not_trained_again(run, corpus, monkeypatch):
    monkeypatch.setattr(loop.Training, "_step", lambda *_: pytest.fail("trained again"))
    again = fit(smoke(name="under another name"), corpus, run.path.parent.parent)
    assert again.path == run.path


def test_a_run_is_the_same_whatever_tasks_lie_beside_its_own(corpus, tmp_path):
    ranking, single = mtlib.pretraining("smoke"), smoke(tasks=("sts", "sst"))
    for experiment in (ranking, single, single.but(start_from=ranking)):
        alone = Start(experiment, made_up_corpus((SST, STS)), RunStore(tmp_path))
        assert Start(experiment, corpus, RunStore(tmp_path)).identity == alone.identity
    with pytest.raises(DataError, match="expected the task 'sts', found sst"):
        fit(single, made_up_corpus((SST,)), tmp_path)


def test_a_corpus_that_was_changed_in_place_is_another_one(tmp_path, monkeypatch):
    corpus, experiment = made_up_corpus((SST,)), smoke(tasks=("sst",))
    identity = Start(experiment, corpus, RunStore(tmp_path)).identity
    train = corpus["sst"].train
    for change in (lambda: train.loc.__setitem__((3, "text_a"), "changed"), lambda: train.update(4 - train[["label"]])):
        before = train.copy()
        change()
        assert Start(experiment, corpus, RunStore(tmp_path)).identity != identity
        train.loc[:, ["text_a", "label"]] = before[["text_a", "label"]]
        assert Start(experiment, corpus, RunStore(tmp_path)).identity == identity
    monkeypatch.setattr(Corpus, "_content", lambda self: pytest.fail("computed again, though nothing changed"))
    assert Start(experiment, corpus, RunStore(tmp_path)).identity == identity


def test_a_copy_beside_a_run_does_not_take_its_place(corpus, tmp_path):
    start = Start(smoke(name="own", epochs=1, steps_per_epoch=2), corpus, RunStore(tmp_path))
    run = start.begin()
    run.write_json("config.json", start.described())
    run.set_status("interrupted")
    copy, renamed = (Run(run.path.with_name(name)) for name in (f"backup-{run.id}", "renamed"))
    shutil.copytree(run.path, copy.path)
    shutil.copytree(run.path, renamed.path)
    for other in (copy, renamed):
        with pytest.raises(CheckpointError, match="its folder was renamed or copied: expected it at .*/own-"):
            mtlib.resume(other, corpus, progress="none")
    assert mtlib.resume(run, corpus, progress="none").id == run.id
    assert run.complete and copy.status == renamed.status == "interrupted"
    for other in (copy, renamed):
        shutil.copytree(run.path, other.path, dirs_exist_ok=True)
        assert other.at(2, corpus).fingerprint == run.at(2, corpus).fingerprint


def test_the_first_step_is_adamw_on_the_task_loss(corpus, tmp_path):
    """One round-robin step, recomputed with torch's own plain AdamW, decay only on matrices, gradient clipped.

    The decay moves a weight by 1 % and the clipped gradient is of epsilon's size, so that either shows in the numbers.
    """
    decay, clip = 10.0, 1e-6
    settings = {"precision": "float32", "weight_decay": decay, "clip": clip, "tasks": ("qqp",)}
    experiment = smoke(epochs=1, steps_per_epoch=1, **settings)
    run = fit(experiment, corpus, tmp_path)
    start = Start(experiment, corpus, RunStore(tmp_path)).model()
    split = start.tokenize(QQP, list(zip(corpus["qqp"].train["text_a"], corpus["qqp"].train["text_b"], strict=True)))
    batch = split.training_batch(0, experiment.batch_size, experiment.seed)
    labels = torch.from_numpy(corpus["qqp"].train["label"].to_numpy()[batch.rows])
    start.train()
    with seeded(0, "dropout/embeddings", 0):
        x = start.embed_tokens(batch.inputs)
    with seeded(0, "dropout", 0):
        logits = start("qqp", batch.inputs, x)
    loss = LOSSES["binary"](logits, labels)
    loss.backward()
    assert run.history["train_loss"].item() == pytest.approx(loss.item(), rel=1e-6)
    norm = torch.cat([p.grad.flatten() for p in start.parameters() if p.grad is not None]).norm()
    rate, stored = experiment.learning_rate, dict(run.model().named_parameters())
    for name, p in start.named_parameters():
        if p.grad is None:
            continue
        g = p.grad * min(1.0, clip / norm.item())
        decayed = p.detach() * (1 - rate * decay) if p.ndim > 1 else p.detach()
        by_hand = decayed - rate * g / (
            g.abs() + 1e-8
        )  # AdamW's first step: m/sqrt(v) with both bias-corrected is g/|g|
        torch.testing.assert_close(stored[name].detach(), by_hand, rtol=1e-4, atol=2e-6, msg=name)


def test_a_warm_up_starts_at_its_first_fraction(corpus, tmp_path):
    run = fit(smoke(epochs=2, steps_per_epoch=1, warmup=1.0), corpus, tmp_path)
    assert run.history["learning_rate"].tolist() == pytest.approx([0.5e-3, 1e-3])


def test_a_fourth_task_is_one_value(tmp_path):
    topic = Task("topic", "classification", ("sentence",), "topic", "topic", classes=3, title="Topic")
    mtlib.register(topic)
    try:
        corpus = made_up_corpus((SST, QQP, STS, topic))
        run = fit(smoke(tasks=("sst", "qqp", "sts", "topic"), epochs=1, steps_per_epoch=8), corpus, tmp_path)
        assert run.history["draws_topic"].item() == 2
        assert set(run.predictions("dev", "topic").columns) == {"id", "label", "prediction", "p0", "p1", "p2"}
        assert run.scores["mean"] == pytest.approx(np.mean([run.scores[t] for t in ("sst", "qqp", "sts", "topic")]))
    finally:
        TASKS.pop("topic")


def test_training_learns_what_can_be_learnt(tmp_path):
    corpus = made_up_corpus((SST,), rows=40)
    run = fit(smoke(tasks=("sst",), epochs=4, steps_per_epoch=60, learning_rate=3e-3), corpus, tmp_path)
    assert run.history["train_loss"].iloc[-1] < 0.2 < 1.0 < run.history["train_loss"].iloc[0]


def test_sigterm_between_steps_saves_and_exits(corpus, tmp_path, monkeypatch):
    import os
    import signal

    experiment = smoke(epochs=1, steps_per_epoch=4)
    step = loop.Training._step

    def interrupted(self, number):
        step(self, number)
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Training, "_step", interrupted)
    with pytest.raises(SystemExit) as stopped:
        fit(experiment, corpus, tmp_path)
    assert stopped.value.code == 143
    run = RunStore(tmp_path).all()[0]
    assert run.status == "interrupted"
    assert run.checkpoints.latest().step == 2
    monkeypatch.setattr(loop.Training, "_step", step)
    assert contents(fit(experiment, corpus, tmp_path)) == contents(fit(experiment, corpus, tmp_path / "whole"))


def test_a_run_begun_elsewhere_continues_only_when_asked_to(corpus, tmp_path, monkeypatch):
    experiment = smoke(epochs=1, steps_per_epoch=3)
    step = loop.Training._step

    def dying(self, number):
        if number == 1:
            raise KeyboardInterrupt
        step(self, number)
        self.minutes = 0

    monkeypatch.setattr(loop.Training, "_step", dying)
    with pytest.raises(KeyboardInterrupt):
        fit(experiment, corpus, tmp_path)
    monkeypatch.setattr(loop.Training, "_step", step)
    run = RunStore(tmp_path).all()[0]
    about = run.path / "environment.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"threads": 99}))
    with pytest.raises(CheckpointError, match="threads was 99, is"):
        fit(experiment, corpus, tmp_path)
    assert fit(experiment, corpus, tmp_path, allow_inexact=True).complete
    assert run.read("environment.json")["inexact"][0]["threads"][0] == 99


@pytest.mark.parametrize(("kind", "message"), [("loss", "loss at step 3 is nan"), ("grad", "gradient norm at step 3")])
def test_divergence_stops_before_the_update(corpus, tmp_path, monkeypatch, kind, message):
    objective, update = loop.Training._objective, torch.optim.AdamW.step
    updates, seen = [], []

    def broken(self, batch, number):
        loss, log = objective(self, batch, number)
        seen[:] = corpus[batch.task.name].train["id"].iloc[batch.rows]
        if number == 2 and kind == "loss":
            loss = loss * math.nan
        if number == 2 and kind == "grad":
            loss = loss + 0 * (self.model.heads["sts"].weight.sum() * 0).sqrt()
        return loss, log

    monkeypatch.setattr(loop.Training, "_objective", broken)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: updates.append(update(self)))
    with pytest.raises(DivergenceError, match=message):
        fit(smoke(epochs=1, steps_per_epoch=4), corpus, tmp_path)
    run = RunStore(tmp_path).all()[0]
    assert run.status == "failed"
    dump = json.loads((run.path / "divergence.json").read_text())
    assert dump["step"] == 2 and dump["ids"] == [str(each) for each in seen] and len(updates) == 2
    assert set(dump["ids"]) <= set(corpus["sts"].train["id"]) and len(seen) == 16
    with pytest.raises(CheckpointError, match="expected a finished run"):
        RunStore(tmp_path).get(run.id)


def test_an_undefined_dev_score_is_never_the_best(corpus, tmp_path, monkeypatch):
    qualities = iter([math.nan, 0.4, math.nan])
    monkeypatch.setattr("mtlib.training.evaluation.choosing_mean", lambda frames: next(qualities))
    run = fit(smoke(epochs=3, steps_per_epoch=1), corpus, tmp_path)
    assert run.best_epoch == 2


def test_of_undefined_dev_scores_alone_the_last_epoch_is_stored(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("mtlib.training.evaluation.choosing_mean", lambda frames: math.nan)
    assert fit(smoke(epochs=3, steps_per_epoch=1), corpus, tmp_path).best_epoch == 3


@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (2, 1), (1, 3)])
def test_an_update_that_leaves_no_numbers_is_never_stored(corpus, tmp_path, epochs, steps):
    broken = smoke(epochs=epochs, steps_per_epoch=steps, learning_rate=1e38, precision="float32")
    with pytest.raises(DivergenceError, match="after step 1 the weights are not finite numbers"):
        fit(broken, corpus, tmp_path, minutes=0)
    run = RunStore(tmp_path).all()[0]
    assert run.status == "failed" and not (run.path / "model").exists() and run.checkpoints.latest() is None


def test_what_a_run_starts_from_is_trained_first(corpus, tmp_path):
    ranked = mtlib.pretraining("smoke", epochs=1, steps_per_epoch=2)
    first = smoke(start_from=ranked, epochs=1, steps_per_epoch=1)
    run = fit(smoke(start_from=first, epochs=1, steps_per_epoch=1, seed=1), corpus, tmp_path)
    assert [each.status for each in RunStore(tmp_path).all()] == ["complete"] * 3
    assert run.experiment.start_from == first and list(run.experiment.ancestors()) == [first, ranked]
    assert run.id.startswith("from-from-mnrl-5-round-robin")


def test_a_stored_model_that_changed_is_refused_wherever_it_is_read(corpus, tmp_path):
    run = fit(smoke(epochs=1, steps_per_epoch=1), corpus, tmp_path)
    weights = run.path / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    for use in (run.model, lambda: fit(smoke(start_from=run.experiment, seed=1), corpus, tmp_path)):
        with pytest.raises(CheckpointError, match="model.safetensors: changed since it was written"):
            use()


@pytest.mark.parametrize(
    "refusal", [OSError(28, "No space left on device"), ValueError("I/O operation on closed file")]
)
def test_a_stdout_that_takes_nothing_ends_no_training(corpus, tmp_path, monkeypatch, refusal):
    class Refusing(io.StringIO):
        def write(self, text):
            raise refusal

    monkeypatch.setattr("sys.stdout", Refusing())
    assert mtlib.fit(smoke(epochs=1, steps_per_epoch=1), corpus, tmp_path, progress="lines").complete


def test_constant_predictions_have_no_correlation():
    frame = pd.DataFrame({"id": ["a", "b", "c"], "label": [0.0, 1.0, 2.0], "prediction": [1.0, 1.0, 1.0]})
    found = scores({"sts": frame})
    assert math.isnan(found["sts"]) and math.isnan(found["sts_r"]) and math.isnan(found["mean"])


def test_the_stored_epoch_is_chosen_without_the_reporting_half(corpus):
    frames = {t: pd.DataFrame({"id": corpus[t].dev["id"], "label": corpus[t].dev["label"]}) for t in corpus}
    for task, frame in frames.items():
        frame["prediction"] = frame["label"]
        frame.loc[~in_choosing_half(frame["id"]), "prediction"] = -1
        assert scores({task: frame})[task] < 1
    assert choosing_mean(frames) == pytest.approx(1)


@pytest.mark.parametrize(("limit", "times"), [(None, 1), (10, 2)])
def test_without_a_limit_dev_is_predicted_once_and_stored_as_scored(corpus, tmp_path, monkeypatch, limit, times):
    predicted, plain = [], loop.Training._predict

    def counted(self, model, splits):
        predicted.append(splits)
        return plain(self, model, splits)

    monkeypatch.setattr(loop.Training, "_predict", counted)
    run = fit(smoke(epochs=1, steps_per_epoch=2, dev_limit=limit, seed=5), corpus, tmp_path)
    assert len(predicted) == times + 1  # and test
    assert (run.history["mean"].iloc[-1] == pytest.approx(run.last_scores["mean"], abs=0)) == (limit is None)
    for task in corpus:
        assert run.predictions("dev", task)["id"].tolist() == corpus[task].dev["id"].tolist()


def test_a_dev_limit_takes_the_same_rows_for_everybody(corpus):
    frame = corpus["sst"].dev
    assert limited(frame, 10, "sst")["id"].tolist() == limited(frame, 10, "sst")["id"].tolist()
    assert len(limited(frame, 10, "sst")) == 10
    assert limited(frame, None, "sst") is frame and limited(frame, 1000, "sst") is frame


def test_a_corpus_without_a_task_is_refused(tmp_path):
    with pytest.raises(DataError, match="expected the task 'qqp', found sst"):
        fit(smoke(tasks=("sst", "qqp")), made_up_corpus((SST,)), tmp_path)


def test_a_run_starts_from_a_finished_one(run, corpus, tmp_path):
    results = run.path.parent.parent
    start = Start(smoke(start_from=run.experiment), corpus, RunStore(results))
    assert start.fingerprint == run.identity
    stored = run.model().state_dict()
    for name, tensor in start.model().state_dict().items():
        assert torch.equal(tensor, stored[name]), name
    with pytest.raises(ConfigurationError, match="start_from: expected an experiment or a pretraining, found str"):
        smoke(start_from="nobody")


def test_pretraining_trains_the_encoder_and_leaves_the_heads(corpus, tmp_path):
    settings = mtlib.pretraining("smoke", name="ranked", epochs=2, steps_per_epoch=20, learning_rate=1e-3)
    run = fit(settings, corpus, tmp_path)
    assert run.complete and run.history["train_loss"].iloc[-1] < run.history["train_loss"].iloc[0]
    assert fit(settings, corpus, tmp_path).path == run.path
    assert run.experiment == settings
    before = Start(settings, corpus, RunStore(tmp_path)).model()
    after = run.model()
    assert torch.equal(before.heads["sst"].weight, after.heads["sst"].weight)
    moved = [
        not torch.equal(a, b) for a, b in zip(before.encoder.parameters(), after.encoder.parameters(), strict=True)
    ]
    assert all(moved[3:])  # the unused rows of the embedding tables move by weight decay alone
    fine_tuned = Start(smoke(start_from=settings), corpus, RunStore(tmp_path)).model()
    assert torch.equal(fine_tuned.encoder.embeddings.LayerNorm.weight, after.encoder.embeddings.LayerNorm.weight)


def test_the_run_table_has_a_row_a_run(run):
    table = RunStore(run.path.parent.parent).table()
    assert table["run"].tolist() == [run.id]
    assert table["mean"].item() == run.scores["mean"]
    assert table["corpus"].item() == "made up"


def test_two_that_begin_one_run_under_two_names_at_once_get_one_folder(corpus, tmp_path, monkeypatch):
    found = RunStore.open

    def slowly(*arguments):
        run = found(*arguments)
        time.sleep(0.3)
        return run

    monkeypatch.setattr(RunStore, "open", slowly)
    starts = [Start(smoke(name=name), corpus, RunStore(tmp_path)) for name in ("first", "second")]
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(Start.begin, starts)
    assert one.path == other.path and one.path.is_dir()
