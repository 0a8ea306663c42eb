"""The one training loop: optimizer steps, epochs, checkpoints, and the run that they leave."""

import time
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from mtlib import fast
from mtlib.data.batches import Batch, TokenizedCorpus, TokenizedSplit
from mtlib.device import Device
from mtlib.errors import CheckpointError, DivergenceError
from mtlib.model import MultitaskModel
from mtlib.objectives.penalty import Penalty, Step
from mtlib.randomness import seeded
from mtlib.tasks import TASKS
from mtlib.training import evaluation
from mtlib.training.distributed import Ranks
from mtlib.training.optimization import (
    fingerprint,
    gathered,
    learning_rate_factor,
    parameter_groups,
    positions,
    restore,
)
from mtlib.training.progress import Progress, log_epoch
from mtlib.training.runs import Run, environment
from mtlib.training.signals import Interruption
from mtlib.training.start import Start, continued

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
        self.schedule = e.sampler.schedule(sizes, e.epochs, e.steps_per_epoch, e.seed).reshape(-1)
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
        self.run.write_json("config.json", self.start.described())
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
                raise SystemExit(interruption.exit_code or 143)

    def _step(self, number: int) -> None:
        """One optimizer step, or DivergenceError before anything is changed by it."""
        e = self.experiment
        whole = self._batch(number)
        batch, self.share = self.ranks.share(whole.to(self.device.device))
        weight = self.share.weight
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
            share=self.share,
        )
        total = loss
        for penalty in self.penalties:
            total = total + penalty.weight * penalty(step)
        return total, {f"train_loss_{task.name}": loss.item(), **{k: float(v) for k, v in step.log.items()}}

    def _factor(self, number: int) -> float:
        e = self.experiment
        losses = [row["train_loss"] for row in self.history]
        return learning_rate_factor(e.schedule, number, e.steps, round(e.warmup * e.steps), losses)

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
        epoch = self.done // self.experiment.steps_per_epoch
        with self.device.autocast():
            row, quality = self._score()
        self.seconds += time.monotonic() - begun
        self.history.append(self._row(epoch) | row | {"seconds": round(self.seconds, 3)})
        quality = quality if np.isfinite(quality) else float("-inf")
        if quality > self.best["quality"] or self.best["quality"] == float("-inf"):
            self._expect_finite()
            seal = self.run.write_model(self.model)
            seal = seal if self.ranks.size == 1 else self.ranks.gathered(seal)[0]
            self.best = {"epoch": epoch, "quality": quality, "seal": seal}
        self.sums.clear()
        self.counts.clear()
        self.run.write_frame("history.csv", pd.DataFrame(self.history))
        self.progress.epoch(self.history)
        log_epoch(self.run, self.history[-1])

    def _expect_finite(self) -> None:
        """Raise DivergenceError where an update has left weights that are not finite numbers: none is ever stored."""
        broken = [name for name, weight in self.model.named_parameters() if not torch.isfinite(weight).all()]
        if broken:
            raise DivergenceError(
                f"after step {self.done} the weights are not finite numbers: {', '.join(broken[:3])}, ... "
                f"({len(broken)} tensors). A smaller learning rate is the usual cure"
            )

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
        self.run.checkpoints.save(self.done, gathered(self.model, self.optimizer, self.penalties), noted)
        self.saved_in = time.monotonic() - begun
        self.saving += self.saved_in

    def _resume(self) -> None:
        checkpoint = self.run.checkpoints.latest()
        if checkpoint is None:
            return
        if missing := set(NOTED) - checkpoint.state.keys():
            raise CheckpointError(f"{self.run.path}: checkpoint of step {checkpoint.step}: missing {sorted(missing)}")
        restore(checkpoint.tensors, self.model, self.optimizer, self.penalties)
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
        self._expect_finite()
        with self.device.autocast():
            last = self._predict(self.model, self.data.dev)
            chosen_model = self.model
            if self.best["epoch"] != self.experiment.epochs:
                chosen_model = self.run.model(self.best["seal"]).to(self.device.device)
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
        self.run.set_complete(self.done, self.best["seal"])
        self.progress.end(scores["chosen"], self.seconds)
