"""The one training loop: `fit` trains an experiment on a corpus, or loads the finished identical run."""

import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mtlib import fast
from mtlib.config import Experiment, Optimisation
from mtlib.data.batches import Batch, TokenizedCorpus, TokenizedSplit
from mtlib.errors import CheckpointError, DataError, DivergenceError, StorageError
from mtlib.model import MultitaskModel
from mtlib.objectives.penalty import Penalty, Step
from mtlib.randomness import seeded
from mtlib.tasks import TASKS
from mtlib.training import evaluation
from mtlib.training.device import Device
from mtlib.training.progress import Progress
from mtlib.training.ranks import Ranks
from mtlib.training.runs import Run, RunStore, environment
from mtlib.training.schedule import learning_rate_factor, positions
from mtlib.training.scope import continued
from mtlib.training.signals import Interruption
from mtlib.training.start import Start
from mtlib.training.state import fingerprint, gathered, parameter_groups, restore
from mtlib.training.trackers import log_epoch

SHARE = 0.02
"""An epoch's checkpoint is left out where it would make saving take more than this share of the training time."""

WRITTEN = 1e8
"""Bytes that a disk is taken to write in a second before the first checkpoint (weights, moments, teacher) tells."""

NOTED = ("history", "best", "sums", "counts", "seconds")
"""What a checkpoint holds of a run besides its tensors and the learning rate."""


def fit(
    experiment: Experiment,
    corpus,
    results: Path | str = "results",
    *,
    progress: str = "auto",
    minutes: float = 10.0,
    allow_inexact: bool = False,
) -> Run:
    """Train `experiment` on `corpus` and return its run; a finished identical run is returned as it is.

    An interrupted identical run continues from its newest checkpoint, to the bits it would have had.
    progress: "auto", "bar", "lines" or "none". minutes: a checkpoint at least this often, beside those at
    the ends of epochs (of short epochs some are left out, so that saving stays under 2 % of the time).
    The bits are promised for the same versions, kind of device, precision and number of threads; elsewhere continuing
    raises CheckpointError with the difference, unless `allow_inexact`, which the run records.
    Raises DivergenceError for a loss or gradient that is not finite, LockedError while another process trains
    the same run, DataError for a corpus without one of the tasks, and SystemExit(143 or 130) after SIGTERM or SIGINT.
    """
    return carry_out(Training, experiment, corpus, results, progress, minutes, allow_inexact)


def carry_out(
    kind: type["Training"],
    experiment: Optimisation,
    corpus,
    results: Path | str,
    progress: str,
    minutes: float,
    allow_inexact: bool,
) -> Run:
    """Load the finished identical run, or do the `kind` of training under the run's lock."""
    start = Start(experiment, RunStore(results))
    run = start.run_on(corpus)
    if run.complete:
        run.forget_checkpoints()
        return run
    for name in experiment.task_names:
        if name not in corpus:
            raise DataError(f"corpus {corpus.name}: expected the task {name!r}, found {', '.join(corpus)}")
    ranks = Ranks()
    with run.lock() if ranks.first else nullcontext():
        if not ranks.any(run.complete):
            _guarded(kind(experiment, corpus, run, start, progress, minutes, allow_inexact, ranks))
        ranks.wait()
    return run


def _guarded(training: "Training") -> None:
    """Train and finish; whatever ends it otherwise is written into the run's status."""
    run = training.run
    try:
        training.prepare()
        with Interruption() as interruption:
            training.train(interruption)
        training.finish()
    except BaseException as error:
        status = "interrupted" if isinstance(error, SystemExit | KeyboardInterrupt) else "failed"
        with suppress(StorageError):
            run.set_status(status, step=training.done, error=f"{type(error).__name__}: {error}"[:2000])
        raise


class Training:
    """The state of one run while it trains: model, optimizer, penalties, history, and the number of steps done."""

    def __init__(
        self,
        experiment: Optimisation,
        corpus,
        run: Run,
        start: Start,
        progress: str,
        minutes: float,
        inexact: bool,
        ranks: Ranks,
    ):
        self.experiment, self.corpus, self.run, self.start = experiment, corpus, ranks.run(run), start
        self.device, self.ranks = Device(experiment.precision), ranks
        self.progress = Progress(progress if ranks.first else "none", experiment)
        self.minutes, self.inexact = minutes, inexact
        self.done = 0
        self.penalties: list[Penalty] = []
        self.history: list[dict] = []
        self.best: dict = {"epoch": 0, "quality": float("-inf")}
        self.sums: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)
        self.seconds = 0.0
        self.saving, self.saved_in = 0.0, 0.0  # seconds spent on checkpoints, and on the last one

    def prepare(self) -> None:
        """Write what the run is, build everything, and continue from a checkpoint where there is one."""
        e = self.experiment
        with self.ranks.in_turn():
            self._describe()
        fast.keep_memory()
        self.model = self.start.model().to(self.device.device)
        self.tasks = self.model.tasks
        self.data = TokenizedCorpus.build(self.corpus, self.tasks, self.model.tokenizer, self.model.max_tokens)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, e.weight_decay), lr=e.learning_rate, betas=e.betas, fused=self.device.fused
        )
        self.gradients = fast.Gradients(self.model)
        self.saved_in = sum(4 * parameter.nbytes for parameter in self.model.parameters()) / WRITTEN
        self._build()
        with self.ranks.in_turn():
            self._resume()
        if self.ranks.size > 1:
            tensors = gathered(self.model, self.optimizer, self.penalties)
            self.ranks.agree(f"{self.run.path}: step and SHA-256 to begin with", (self.done, fingerprint(tensors)))
        self.run.set_status("running", step=self.done)

    def _build(self) -> None:
        """The run's order of batches, its penalties, and the dev examples scored after each epoch."""
        e = self.experiment
        sizes = [len(self.data.train[name]) for name in e.tasks]
        self.schedule = e.sampler.schedule(sizes, e.epochs, e.steps, e.seed).reshape(-1)
        self.positions = positions(self.schedule)
        self.scored = {name: self._limited(name) for name in e.tasks}
        self.penalties = [penalty.start(self.model, len(self.schedule)) for penalty in e.penalties if penalty.weight]
        self.model.train(e.dropout != "off")

    def _describe(self) -> None:
        """config.json, whose existence makes the folder a run, and environment.json."""
        here = environment(self.device.device, self.device.precision, self.ranks.size)
        self.run.sweep()
        if self.run.checkpoints.latest() is not None:
            here = continued(self.run, here, self.inexact)
        self.run.set_status("running", step=0)
        self.run.write_json("config.json", self.start.described(self.corpus))
        self.run.write_json("environment.json", here)

    def _limited(self, name: str) -> TokenizedSplit:
        frame = self.corpus[name].dev
        some = evaluation.limited(frame, self.experiment.dev_limit, name)
        if len(some) == len(frame):
            return self.data.dev[name]
        return TokenizedSplit(TASKS[name], some, self.model.tokenizer, self.model.max_tokens)

    def train(self, interruption: Interruption) -> None:
        """Optimizer steps up to the end of the last epoch, with checkpoints as `minutes` and SHARE allow."""
        e = self.experiment
        saved = time.monotonic()
        for number in range(self.done, e.epochs * e.steps):
            begun = time.monotonic()
            self._step(number)
            self.done = number + 1
            self.seconds += time.monotonic() - begun
            self.progress.step(self.done, self.seconds)
            if self.done % e.steps == 0:
                self._end_epoch()
            due = self.done % e.steps == 0 and self.saving + self.saved_in <= SHARE * self.seconds
            stopping = self.ranks.any(bool(interruption))
            if due or time.monotonic() - saved > 60 * self.minutes or stopping:
                self._save()
                saved = time.monotonic()
            if stopping:
                raise SystemExit(interruption.exit_code or 143)

    def _step(self, number: int) -> None:
        """One optimizer step, or DivergenceError before anything is changed by it."""
        e = self.experiment
        whole = self._batch(number)
        batch, weight = self.ranks.share(whole.to(self.device.device))
        with self.device.autocast(), self.model.fixed():
            loss, log = self._objective(batch, number)
        log = self.ranks.mean(weight, {"train_loss": loss.item(), **log})
        value = log["train_loss"]
        if not np.isfinite(value):
            raise self._divergence("loss", value, whole, number)
        self.gradients.clear()
        (loss * weight).backward()
        self.ranks.sum_gradients(self.model)
        norm = self.gradients.clip(e.clip)
        if not np.isfinite(norm):
            raise self._divergence("gradient norm", norm, whole, number)
        rate = e.learning_rate * self._factor(number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        for penalty in self.penalties:
            penalty.after_step(self.model, number)
        self._record(batch.task.name, log, len(whole.rows))

    def _batch(self, number: int) -> Batch:
        """The batch of optimizer step `number`."""
        split = self.data.train[self.tasks[self.schedule[number]].name]
        return split.training_batch(int(self.positions[number]), self.experiment.batch_size, self.experiment.seed)

    def _objective(self, batch: Batch, number: int) -> tuple[torch.Tensor, dict[str, float]]:
        """The task loss of one batch plus its weighted penalties, float32, and what to record."""
        e, model, task = self.experiment, self.model, batch.task
        with seeded(e.seed, "dropout/embeddings", number):
            embeddings = model.embed_tokens(batch.inputs)
        with seeded(e.seed, "dropout", number):
            logits = model(task.name, batch.inputs, embeddings)
        loss = task.loss(logits, batch.labels)
        if not self.penalties:
            return loss, {f"train_loss_{task.name}": loss.item()}
        passes = iter(range(1, 1000))

        def forward(given: torch.Tensor) -> torch.Tensor:
            stream = ("dropout", number) if e.dropout == "shared" else ("dropout/penalty", number, next(passes))
            with seeded(e.seed, *stream):
                return model(task.name, batch.inputs, given)

        step = Step(
            number=number,
            seed=e.seed,
            kind=task.kind,
            mask=batch.inputs["attention_mask"],
            embeddings=embeddings,
            logits=logits,
            labels=batch.labels,
            forward=forward,
            run=lambda other: other(task.name, batch.inputs),
        )
        total = loss
        for penalty in self.penalties:
            total = total + penalty.weight * penalty(step)
        return total, {f"train_loss_{task.name}": loss.item(), **{k: float(v) for k, v in step.log.items()}}

    def _factor(self, number: int) -> float:
        e = self.experiment
        total = e.epochs * e.steps
        losses = [row["train_loss"] for row in self.history]
        return learning_rate_factor(e.schedule, number, total, round(e.warmup * total), losses)

    def _record(self, task: str, values: dict[str, float], examples: int) -> None:
        for name, value in values.items():
            self.sums[name] += value
            self.counts[name] += 1
        self.counts[f"draws_{task}"] += 1
        self.counts["examples"] += examples

    def _divergence(self, what: str, value: float, batch: Batch, number: int) -> DivergenceError:
        ids = [str(self.data.train[batch.task.name].ids[row]) for row in batch.rows]
        dump = {"step": number, "task": batch.task.name, "what": what, "value": repr(value), "ids": ids}
        self.run.write_json("divergence.json", {**dump, "history": self.history[-3:]})
        return DivergenceError(
            f"{what} at step {number + 1} is {value}: expected a finite number (task {batch.task.name}, "
            f"examples {', '.join(ids[:4])}, ...; all in {self.run.path / 'divergence.json'}). "
            "Nothing was updated by this step; a smaller learning rate is the usual cure"
        )

    def _end_epoch(self) -> None:
        """Score dev, append a row to the history, and store the model if it is the best so far."""
        begun = time.monotonic()
        epoch = self.done // self.experiment.steps
        with self.device.autocast():
            row, quality = self._score()
        self.seconds += time.monotonic() - begun
        self.history.append(self._row(epoch) | row | {"seconds": round(self.seconds, 3)})
        quality = quality if np.isfinite(quality) else float("-inf")
        if quality > self.best["quality"] or self.best["epoch"] == 0:
            self.best = {"epoch": epoch, "quality": quality}
            self.run.write_model(self.model)
        self.sums.clear()
        self.counts.clear()
        self.run.write_frame("history.csv", pd.DataFrame(self.history))
        self.progress.epoch(self.history[-1])
        log_epoch(self.run, self.history[-1])

    def _score(self) -> tuple[dict[str, float], float]:
        """Dev scores of student and teacher for the history, and the number by which the stored epoch is chosen."""
        frames = self._predict(self.model, self.scored)
        row = evaluation.scores(frames)
        for penalty in self.penalties:
            if (teacher := penalty.teacher()) is not None:
                taught = evaluation.scores(self._predict(teacher, self.scored))
                row |= {f"teacher_{name}": value for name, value in taught.items()}
        quality = evaluation.choosing_mean(frames)
        return row | {"choosing_mean": quality}, quality

    def _predict(self, model: MultitaskModel, splits: Mapping[str, TokenizedSplit]) -> dict[str, pd.DataFrame]:
        return evaluation.predict_all(model, splits, self.ranks.predictions)

    def _row(self, epoch: int) -> dict[str, float]:
        """Means over the epoch's steps of everything recorded, draws by task, and the learning rate."""
        means = {name: self.sums[name] / self.counts[name] for name in sorted(self.sums)}
        draws = {f"draws_{task.name}": self.counts[f"draws_{task.name}"] for task in self.tasks}
        rate = self.optimizer.param_groups[0]["lr"]
        return {"epoch": epoch, "step": self.done, "learning_rate": rate, "examples": self.counts["examples"]} | (
            means | draws
        )

    def _save(self) -> None:
        """A checkpoint: everything that cannot be recomputed from the step."""
        if not self.ranks.first:
            return
        begun = time.monotonic()
        noted = {name: getattr(self, name) for name in NOTED}
        rate = self.optimizer.param_groups[0]["lr"]
        self.run.checkpoints.save(
            self.done, gathered(self.model, self.optimizer, self.penalties), {**noted, "learning_rate": rate}
        )
        self.saved_in = time.monotonic() - begun
        self.saving += self.saved_in

    def _resume(self) -> None:
        checkpoint = self.run.checkpoints.latest()
        if checkpoint is None:
            return
        if missing := {*NOTED, "learning_rate"} - checkpoint.state.keys():
            raise CheckpointError(f"{self.run.path}: checkpoint of step {checkpoint.step}: missing {sorted(missing)}")
        restore(checkpoint.tensors, self.model, self.optimizer, self.penalties)
        for group in self.optimizer.param_groups:
            group["lr"] = checkpoint.state["learning_rate"]
        for name in NOTED:
            noted = getattr(self, name)
            if isinstance(noted, defaultdict):
                noted.update(checkpoint.state[name])
            else:
                setattr(self, name, checkpoint.state[name])
        self.done = checkpoint.step
        if self.history:
            self.run.write_frame("history.csv", pd.DataFrame(self.history))

    def finish(self) -> None:
        """Score the last and the chosen model on all of dev, predict test, and only then call the run complete."""
        begun = time.monotonic()
        with self.device.autocast():
            last = self._predict(self.model, self.data.dev)
            chosen_model = self.model
            if self.best["epoch"] != self.experiment.epochs:
                chosen_model = self.run.model().to(self.device.device)
            chosen = self._predict(chosen_model, self.data.dev) if chosen_model is not self.model else last
            test = self._predict(chosen_model, self.data.test)
            teachers = [teacher for penalty in self.penalties if (teacher := penalty.teacher()) is not None]
            taught = [("teacher", self._predict(teacher, self.data.dev)) for teacher in teachers[:1]]
        for split, frames in (("dev", chosen), ("test", test), *taught, *[("last", last) for _ in taught]):
            for task, frame in frames.items():
                self.run.write_frame(f"predictions/{split}-{task}.csv", frame)
        self.seconds += time.monotonic() - begun
        scores = {
            "epoch": self.best["epoch"],
            "chosen": evaluation.scores(chosen),
            "last": evaluation.scores(last),
            "seconds": self.seconds,
            "truncated": self.data.truncated,
        }
        if labelled := {task: frame for task, frame in test.items() if "label" in frame}:
            scores["test"] = evaluation.scores(labelled)
        self.run.write_json("scores.json", scores)
        self.run.set_complete(self.done)
        self.progress.end(scores["chosen"], self.seconds)
