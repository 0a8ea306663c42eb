"""A step of a run once more: its batch, losses and gradients, and the model as it was.

Every draw is a function of (seed, name, step), so a step can be reached from the start, or from a checkpoint before it,
with the same bits as when the run was trained, and nothing of a run has to be recorded for it.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pandas as pd
import torch

from mtlib.checking import shortened
from mtlib.data.corpus import Corpus
from mtlib.errors import CheckpointError, ConfigurationError
from mtlib.experiments import Pretraining
from mtlib.model import MultitaskModel
from mtlib.objectives.penalty import Penalty, Step
from mtlib.training.distributed import Ranks, Reader
from mtlib.training.environment import environment
from mtlib.training.fit import start_of
from mtlib.training.joint import Part
from mtlib.training.loop import Training
from mtlib.training.optimization import fingerprint, gathered, layer_of
from mtlib.training.pretraining import Ranking
from mtlib.training.runs import Run
from mtlib.training.start import continued
from mtlib.training.steps import backward

MOST_THREADS = 2**15


@dataclass(frozen=True)
class Replayed:
    """Optimizer step `step` (from 1) of a run, as it was before its update.

    task: its name, of a joint step all names, joined by "+". batch: the examples, a row each, with id, texts and label.
    losses: each task's, each weighted penalty's (of a joint step the mean by the tasks' shares), and `total`.
    gradients: the norm of the gradient, before clipping, by layer, and `total`. log: what the penalties recorded.
    fingerprint: SHA-256 of the weights, the optimizer's moments and the teachers. model: in evaluation mode.
    """

    step: int
    task: str
    batch: pd.DataFrame
    learning_rate: float
    losses: dict[str, float]
    gradients: dict[str, float]
    log: dict[str, float]
    fingerprint: str
    model: MultitaskModel


def at(run: Run, step: int, source: str | Path | Corpus | None = None, *, allow_inexact: bool = False) -> Replayed:
    """Step `step` of `run`, counted from 1, finished or not: from its newest checkpoint before it, or from its start.

    source: its corpus, or where it is if it has moved. Nothing is written. It takes as long as training up to that step
    did, without the scoring of dev. Of a step that diverged, losses and gradients are shown as they are.
    Raises ConfigurationError for a step that the run does not have, CheckpointError where the bits cannot be those that
    were trained (unless `allow_inexact`), and what `resume` raises.
    """
    start = start_of(run, source)
    if not 1 <= step <= start.experiment.steps:
        raise ConfigurationError(f"{run.id}: expected a step from 1 to {start.experiment.steps}, found {step}")
    with _threads(_threads_of(run)):
        kind = Ranking if isinstance(start.experiment, Pretraining) else Training
        training = kind(start, Reader(run.path), "none", 0, allow_inexact, Ranks())
        continued(run, environment(training.device.device, training.device.precision), allow_inexact)
        training.build()
        training.conflicts = None  # the log is the run's, and written
        training.restore(run.checkpoints.latest(before=step))
        for number in range(training.done, step - 1):
            _advance(training, number)
        return _inspected(training, step)


def _threads_of(run: Run) -> int:
    """How many threads the run was computed with; where it does not say, as many as here."""
    number = run.read("environment.json").get("threads", torch.get_num_threads())
    if type(number) is not int or not 0 < number <= MOST_THREADS:
        expected = f"expected a number of threads, at most {MOST_THREADS}"
        raise CheckpointError(f"{run.path / 'environment.json'}: {expected}, found {shortened(number)}")
    return number


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Compute with as many threads as the run did, for its bits depend on them."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _advance(training: Training, number: int) -> None:
    """Optimizer step `number` (from 0); an epoch ends with what the next steps' learning rate depends on, unscored."""
    training._step(number)
    training.done, per_epoch = number + 1, training.experiment.steps_per_epoch
    if training.done % per_epoch == 0:
        training.history.append(training._row(training.done // per_epoch))
        training._begin_epoch()


def _inspected(training: Training, step: int) -> Replayed:
    parts = training._parts(step - 1)
    state = fingerprint(gathered(training.model, training.optimizer, training.stateful))
    terms: dict[str, float] = defaultdict(float)
    training.looked_at = True
    training.penalties = [cast(Penalty, _Heard(penalty, training, terms)) for penalty in training.penalties]
    log = backward(training, parts, step - 1)
    total, tasks = log.pop("train_loss"), [part.batch.task.name for part in parts]
    losses = {task: log.pop(f"train_loss_{task}", total) for task in tasks} | terms | {"total": total}
    norms = _norms(training.model)
    training.gradients.clear()
    frame = _examples(training, parts)
    rate = training._rate(step - 1)
    return Replayed(step, "+".join(tasks), frame, rate, losses, norms, log, state, training.model.eval())


def _examples(training: Training, parts: Sequence[Part]) -> pd.DataFrame:
    """The parts' examples, a row each; those of several tasks say in a first column which is theirs."""
    batches = {part.batch.task.name: part.batch.rows for part in parts}
    frames = {task: training.corpus[task].train.iloc[rows] for task, rows in batches.items()}
    if len(frames) == 1:
        return next(iter(frames.values())).reset_index(drop=True)
    frames = {task: frame.astype({"label": object}).assign(task=task) for task, frame in frames.items()}
    whole = pd.concat(frames.values(), ignore_index=True).fillna({"text_b": ""})
    return whole[[name for name in ("task", "id", "text_a", "text_b", "label") if name in whole]]


class _Heard:
    """A penalty whose weighted term, of a joint step the sum over its parts, is noted by its kind."""

    def __init__(self, penalty: Penalty, training: Training, terms: dict[str, float]):
        self.penalty, self.training, self.terms, self.weight = penalty, training, terms, penalty.weight

    def __call__(self, step: Step) -> torch.Tensor:
        term = self.penalty(step)
        self.terms[self.penalty.kind] += self.training.part.weight * self.weight * term.item()
        return term


def _norms(model: MultitaskModel) -> dict[str, float]:
    """Norm of the gradient of each layer, embeddings and head, and of all; a head that has none is left out."""
    squares: dict[str, float] = defaultdict(float)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            squares[layer_of(name)] += parameter.grad.double().square().sum().item()
    norms = {name: math.sqrt(square) for name, square in squares.items()}
    return norms | {"total": math.sqrt(sum(squares.values()))}
