"""The one training loop: optimizer steps, epochs, checkpoints, and the run that they leave."""

import time
from collections import defaultdict
from collections.abc import Mapping
from itertools import count

import numpy as np
import pandas as pd
import torch

from mtlib import fast
from mtlib.averages import Average
from mtlib.data.batches import Batch, TokenizedSplit
from mtlib.data.phrases import tokenized
from mtlib.device import Device
from mtlib.errors import CheckpointError
from mtlib.gradients import Gradients
from mtlib.model import MultitaskModel
from mtlib.objectives.aggregation import Aggregation, Sum
from mtlib.objectives.penalty import Penalty, Step
from mtlib.randomness import seeded
from mtlib.training import evaluation
from mtlib.training.checkpoints import Checkpoint
from mtlib.training.conflicts import ConflictLog
from mtlib.training.criteria import Criteria
from mtlib.training.distillation import targets_of
from mtlib.training.distributed import Ranks
from mtlib.training.divergence import expect_finite, expect_number
from mtlib.training.environment import environment
from mtlib.training.joint import JointBatches, Part, SharedGradients
from mtlib.training.optimization import (
    fingerprint,
    gathered,
    learning_rate_factor,
    parameter_groups,
    positions,
    restore,
    set_learning_rate,
)
from mtlib.training.progress import Progress, log_epoch
from mtlib.training.runs import Run
from mtlib.training.signals import Interruption
from mtlib.training.start import NO_EPOCH, Start, recorded, still_stored
from mtlib.training.steps import backward, losses_again

SHARE = 0.02
"""An epoch's checkpoint is left out where it would make saving take more than this share of the training time."""

WRITTEN = 1e8
"""Bytes that a disk is taken to write in a second before the first checkpoint (weights, moments, teacher) tells."""

NOTED = ("history", "best", "sums", "counts", "seconds")
"""What a checkpoint holds of a run besides its tensors."""


class Training:
    """The state of one run while it trains: model, optimizer, penalties, history, and the number of steps done."""

    def __init__(self, start: Start, run: Run, progress: str, minutes: float, inexact: bool, ranks: Ranks):
        self.experiment, self.corpus, self.run, self.start = start.experiment, start.corpus, ranks.run(run), start
        self.device, self.ranks = Device(self.experiment.precision), ranks
        self.progress = Progress(progress if ranks.first else "none", self.experiment)
        self.minutes, self.inexact = minutes, inexact
        self.done = 0
        self.begun, self.looked_at = False, False  # the disk says that it runs; its step is replayed, and may diverge
        self.penalties: list[Penalty] = []
        self.averages: list[Average] = []
        self.stored = getattr(self.experiment, "stored", "own")
        self.joint: JointBatches | None = None
        self.conflicts: ConflictLog | None = None
        self.aggregate: Aggregation = Sum()
        self.history: list[dict] = []
        self.best: dict = NO_EPOCH
        self.frames: dict[str, dict[str, pd.DataFrame]] = {}  # what each model predicted after this process' last epoch
        self.sums: dict[str, float] = defaultdict(float)
        self.counts: dict[str, float] = defaultdict(int)
        self.seconds = 0.0
        self.saving, self.saved_in = 0.0, 0.0  # seconds spent on checkpoints, and on the last one

    @property
    def stateful(self) -> list[Penalty | Average | Aggregation]:
        """What has tensors of its own in a checkpoint, beside model and optimizer."""
        return [*self.penalties, *self.averages, self.aggregate]

    def prepare(self) -> None:
        """Build everything, continue from a checkpoint where there is one, and only then write what the run is."""
        here = environment(self.device.device, self.device.precision, self.ranks.size)
        with self.ranks.in_turn():
            here = recorded(self.run, here, self.inexact)
            self.run.sweep()
            checkpoint = self.run.checkpoints.latest()
        self.build()
        self.restore(checkpoint)
        if self.ranks.size > 1:
            tensors = gathered(self.model, self.optimizer, self.stateful)
            self.ranks.agree(f"{self.run.path}: step and SHA-256 to begin with", (self.done, fingerprint(tensors)))
        with self.ranks.in_turn():
            if self.conflicts:
                self.conflicts.restore(self.run, self.done)
            if here.get("inexact") and self.done < self.experiment.steps:
                self.best = still_stored(self.run, self.best)
            self._describe(here)
        self.progress.continued(self.done)

    def build(self) -> None:
        """The model as the run starts, its tokenized data, optimizer, penalties and order of batches."""
        e = self.experiment
        fast.keep_memory()
        self.model = self.start.model().to(self.device.device)
        self.tasks = self.model.tasks
        self.data = tokenized(self.corpus, self.model, getattr(e, "phrases", 0.0))
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, e.weight_decay, e.layer_decay, getattr(e, "head_rate", 1.0)),
            lr=e.learning_rate,
            betas=e.betas,
            fused=self.device.fused,
        )
        self.gradients = Gradients(self.model)
        self.saved_in = sum(4 * parameter.nbytes for parameter in self.model.parameters()) / WRITTEN
        self._build()

    def _build(self) -> None:
        """The run's order of batches, its penalties, and the dev examples scored after each epoch."""
        e = self.experiment
        sizes = [len(self.data.train[name]) for name in e.tasks]
        self.joint = JointBatches(e, self.data.train) if e.step == "joint" or e.conflicts else None
        self.conflicts = ConflictLog(e.conflicts, e.tasks) if e.conflicts else None
        self.aggregate = e.aggregate.start(len(e.tasks))
        if self.conflicts or self.aggregate.of == "gradients":
            self.shared = SharedGradients(self.model, len(e.tasks))
        if e.step == "single":
            self.schedule = e.sampler.schedule(sizes, e.epochs, e.steps_per_epoch, e.seed).reshape(-1)
            self.positions = positions(self.schedule)
        self.scored = {
            name: evaluation.scored(self.data.dev[name], self.corpus[name].dev, e.dev_limit, self.model)
            for name in e.tasks
        }
        self.penalties = [penalty.start(self.model, e.steps) for penalty in e.penalties if penalty.weight]
        self.averages = [average.start(self.model, e.steps_per_epoch) for average in e.averages]
        self.criteria = Criteria(e, self.tasks, self.ranks.size, targets_of(self))
        self.model.train(e.dropout != "off")

    def _describe(self, here: dict) -> None:
        """The status, config.json, whose existence makes the folder a run, environment.json, and the history so far."""
        self.begun = True
        self.run.set_status("running", step=self.done)
        self.run.write_json("config.json", self.start.described())
        self.run.write_json("environment.json", here)
        if self.history:
            self.run.write_frame("history.csv", pd.DataFrame(self.history))

    def train(self, interruption: Interruption) -> None:
        """Optimizer steps up to the end of the last epoch, with checkpoints as `minutes` and SHARE allow."""
        e, saved = self.experiment, time.monotonic()
        for number in range(self.done, e.steps):
            begun = time.monotonic()
            self._step(number)
            self.done = number + 1
            self.seconds += time.monotonic() - begun
            self.progress.step(self.done, self.seconds)
            if self.done % e.steps_per_epoch == 0:
                self._end_epoch()
            due = self.done % e.steps_per_epoch == 0 and self.saving + self.saved_in <= SHARE * self.seconds
            stopping = self.ranks.any(bool(interruption))
            if due or time.monotonic() - saved > 60 * self.minutes or stopping:
                self._save()
                saved = time.monotonic()
            if stopping:
                raise self.progress.stopped(self.done, interruption)

    def _step(self, number: int) -> None:
        """One optimizer step, or DivergenceError before anything is changed by it."""
        e, parts = self.experiment, self._parts(number)
        log = backward(self, parts, number)
        norm = self.gradients.clip(e.clip)
        expect_number(self, "gradient norm", norm, parts, number)
        set_learning_rate(self.optimizer, self._rate(number))
        self.optimizer.step()
        for each in (*self.penalties, *self.averages):
            each.after_step(self.model, number)
        self.aggregate.learn(losses_again(self, parts, number) if self.aggregate.again else None)
        self._record(parts, log)

    def _parts(self, number: int) -> list[Part]:
        """What optimizer step `number` is computed on: a batch of one task, or a part of it from every task."""
        if self.joint and self.experiment.step == "joint":
            return self.joint.parts(number)
        return [Part(self._batch(number), 1, self.experiment.seed)]

    def _batch(self, number: int) -> Batch:
        """The batch of optimizer step `number` of a single task."""
        split = self.data.train[self.tasks[self.schedule[number]].name]
        return split.training_batch(int(self.positions[number]), self.experiment.batch_size, self.experiment.seed)

    def _objective(self, batch: Batch, number: int) -> tuple[torch.Tensor, dict[str, float]]:
        """The task loss of one batch plus its weighted penalties, float32, and what to record."""
        e, model, task, seed = self.experiment, self.model, batch.task, self.part.seed
        embeddings, logits = self._forward(batch, number, seed)
        criterion = self.criteria(batch)
        loss = criterion(logits)
        if not self.penalties:
            return loss, {f"train_loss_{task.name}": loss.item()}
        passes = count(1)

        def forward(given: torch.Tensor) -> torch.Tensor:
            stream = ("dropout", number) if e.dropout == "shared" else ("dropout/penalty", number, next(passes))
            with seeded(seed, *stream):
                return model(task.name, batch.inputs, given)

        step = Step(
            number=number,
            seed=seed,
            kind=task.kind,
            mask=batch.inputs["attention_mask"],
            embeddings=embeddings,
            logits=logits,
            labels=batch.labels,
            forward=forward,
            run=lambda other: other(task.name, batch.inputs),
            share=self.share,
            criterion=criterion,
        )
        total = loss
        for penalty in self.penalties:
            total = total + penalty.weight * penalty(step)
        return total, {f"train_loss_{task.name}": loss.item(), **{k: float(v) for k, v in step.log.items()}}

    def _forward(self, batch: Batch, number: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The clean pass: output of the embedding block and logits, under the step's masks."""
        with seeded(seed, "dropout/embeddings", number):
            embeddings = self.model.embed_tokens(batch.inputs)
        with seeded(seed, "dropout", number):
            return embeddings, self.model(batch.task.name, batch.inputs, embeddings)

    def _rate(self, number: int) -> float:
        """The learning rate of optimizer step `number`."""
        e, losses = self.experiment, [row["train_loss"] for row in self.history]
        return e.learning_rate * learning_rate_factor(e.schedule, number, e.steps, round(e.warmup * e.steps), losses)

    def _record(self, parts: list[Part], values: dict[str, float]) -> None:
        for name, value in values.items():
            self.sums[name] += value
            self.counts[name] += 1
        for part in parts:
            self.counts[f"draws_{part.batch.task.name}"] += part.weight
            self.counts["examples"] += len(part.batch.rows)

    def _end_epoch(self) -> None:
        """Score dev, append a row to the history, and store the model if it is the best so far."""
        begun = time.monotonic()
        epoch = self.done // self.experiment.steps_per_epoch
        with self.device.autocast():
            row, quality = self._score()
        self.seconds += time.monotonic() - begun
        self.history.append(self._row(epoch) | row | {"seconds": round(self.seconds, 3)})
        quality = quality if np.isfinite(quality) else float("-inf")
        if quality > self.best["quality"] or self.best["quality"] == float("-inf"):
            expect_finite(self.model, self.done)
            seal = self.run.write_model(self._models()[self.stored])
            seal = seal if self.ranks.size == 1 else self.ranks.gathered(seal)[0]
            self.best = {"epoch": epoch, "quality": quality, "seal": seal}
        self._begin_epoch()
        self.run.write_frame("history.csv", pd.DataFrame(self.history))
        if self.conflicts:
            self.conflicts.write(self.run)
        self.progress.epoch(self.history)
        log_epoch(self.run, self.history[-1])

    def _begin_epoch(self) -> None:
        self.sums.clear()
        self.counts.clear()
        self.aggregate.end_epoch()

    def _score(self) -> tuple[dict[str, float], float]:
        """Dev scores of student and teacher for the history, and the number by which the stored epoch is chosen."""
        self.frames = {name: self._predict(model, self.scored) for name, model in self._models().items()}
        quality = evaluation.choosing_mean(self.frames[self.stored])
        return evaluation.all_scores(self.frames) | {"choosing_mean": quality}, quality

    def _models(self) -> dict[str, MultitaskModel]:
        """The models to be scored, "own" first."""
        return evaluation.models(self.model, self.penalties, self.averages)

    def _predict(self, model: MultitaskModel, splits: Mapping[str, TokenizedSplit]) -> dict[str, pd.DataFrame]:
        return evaluation.predict_all(model, splits, self.ranks.predictions)

    def _row(self, epoch: int) -> dict[str, float]:
        """Means over the epoch's steps of everything recorded, draws by task, and the learning rate."""
        means = {name: self.sums[name] / self.counts[name] for name in sorted(self.sums)}
        draws = {f"draws_{task.name}": self.counts[f"draws_{task.name}"] for task in self.tasks}
        row = {"epoch": epoch, "step": self.done, "learning_rate": self._rate(self.done - 1)}
        return row | {"examples": self.counts["examples"]} | means | draws

    def _save(self) -> None:
        """A checkpoint: everything that cannot be recomputed from the step; of weights that are no numbers, none."""
        expect_finite(self.model, self.done)
        if not self.ranks.first:
            return
        begun = time.monotonic()
        if self.conflicts:
            self.conflicts.write(self.run)
        noted = {name: getattr(self, name) for name in NOTED}
        self.run.checkpoints.save(self.done, gathered(self.model, self.optimizer, self.stateful), noted)
        self.saved_in = time.monotonic() - begun
        self.saving += self.saved_in

    def restore(self, checkpoint: Checkpoint | None) -> None:
        """Everything as it was when the checkpoint was saved; without one, as it is."""
        if checkpoint is None:
            return
        if missing := set(NOTED) - checkpoint.state.keys():
            raise CheckpointError(f"{self.run.path}: checkpoint of step {checkpoint.step}: missing {sorted(missing)}")
        restore(checkpoint.tensors, self.model, self.optimizer, self.stateful)
        for name in NOTED:
            setattr(self, name, checkpoint.state[name])
        self.sums, self.counts = defaultdict(float, self.sums), defaultdict(int, self.counts)
        self.done = checkpoint.step

    def finish(self) -> None:
        """Score the last and the chosen model on all of dev, predict test, and only then call the run complete."""
        begun = time.monotonic()
        expect_finite(self.model, self.done)
        with self.device.autocast():
            models = self._models()
            known = self.frames if self.scored == dict(self.data.dev) else {}  # then dev is predicted already
            frames = {name: known.get(name) or self._predict(each, self.data.dev) for name, each in models.items()}
            chosen_model, chosen = models[self.stored], frames[self.stored]
            if self.best["epoch"] != self.experiment.epochs:
                chosen_model = self.run.model(self.best["seal"]).to(self.device.device)
                chosen = self._predict(chosen_model, self.data.dev)
            test = self._predict(chosen_model, self.data.test)
        last = frames.pop("own")
        for split, tables in (("dev", chosen), ("test", test), *frames.items(), *([("last", last)] if frames else [])):
            for task, frame in tables.items():
                self.run.write_frame(f"predictions/{split}-{task}.csv", frame)
        self.seconds += time.monotonic() - begun
        scores = {
            "epoch": self.best["epoch"],
            "chosen": evaluation.scores(chosen),
            "last": evaluation.scores(last),
            **{name: evaluation.scores(tables) for name, tables in frames.items()},
            "seconds": self.seconds,
            "truncated": self.data.truncated,
        }
        if labelled := {task: frame for task, frame in test.items() if "label" in frame}:
            scores["test"] = evaluation.scores(labelled)
        self.run.write_json("scores.json", scores)
        self.run.set_complete(self.done, self.best["seal"])
        self.progress.end(scores["chosen"], self.seconds)
