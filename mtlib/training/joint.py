"""The parts of a step: a batch of one task, or, in a joint step, a part of the batch from every task."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from mtlib.data.batches import POOL, Batch, TokenizedSplit
from mtlib.errors import ConfigurationError
from mtlib.experiments import Experiment
from mtlib.randomness import derive, generator
from mtlib.samplers import apportioned
from mtlib.training.optimization import layer_of


@dataclass(frozen=True)
class Part:
    """The examples of one task in one step.

    weight: p_i, what its loss counts in the step's. seed: of what is drawn for it, such as dropout.
    """

    batch: Batch
    weight: float
    seed: int


class JointBatches:
    """The parts of every joint step of a run, as a function of the step.

    Of the batch's B examples task i gives n_i = `apportioned`(p, B), p being the sampler's probabilities in the step's
    epoch, and the step's loss is sum p_i L_i with L_i the mean over its n_i examples: what steps of single tasks
    minimise in expectation.

    A task's examples are an endless sequence of shuffled passes, of which each epoch takes the next n_i times its
    steps. Within an epoch they are batched by length as in single steps: pools of POOL batches are sorted and cut, and
    the batches are shuffled.
    Raises ConfigurationError for a loss that compares examples where its task has one of them in a step.
    """

    def __init__(self, experiment: Experiment, splits: Mapping[str, TokenizedSplit]):
        e = self.experiment = experiment
        self.splits = [splits[name] for name in e.tasks]
        self.shares = e.sampler.shares([len(split) for split in self.splits], e.epochs)  # [epochs, tasks]
        self.counts = np.stack([apportioned(shares, e.batch_size) for shares in self.shares])  # [epochs, tasks]
        self._kept: tuple[int, list[np.ndarray]] = -1, []
        self._expect_company()

    def _expect_company(self) -> None:
        """A single example has nothing to be compared with: such a loss would be constant, and train nothing."""
        e = self.experiment
        for task, counts in zip(e.tasks, self.counts.T, strict=True):
            if task in e.losses and e.losses[task].compares and counts.min() < 2:
                epoch, loss = int(counts.argmin()) + 1, e.losses[task]
                step = "joint step" if e.step == "joint" else "step whose conflicts are logged"
                raise ConfigurationError(
                    f"losses: {loss.kind!r} compares examples of a batch: expected 2 or more of {task} in each {step}, "
                    f"found 1 of {e.batch_size} in epoch {epoch}: set a larger batch_size, or another sampler"
                )

    def parts(self, number: int) -> list[Part]:
        """The parts of optimizer step `number` (from 0), a task each, in the order of the tasks."""
        e = self.experiment
        epoch, step = divmod(number, e.steps_per_epoch)
        if self._kept[0] != epoch:
            self._kept = epoch, [self._rows(task, epoch) for task in range(len(self.splits))]
        parts = []
        for split, rows, weight in zip(self.splits, self._kept[1], self.shares[epoch], strict=True):
            parts.append(Part(split.batch(rows[step]), float(weight), derive(e.seed, f"joint/{split.task.name}")))
        return parts

    def _rows(self, task: int, epoch: int) -> np.ndarray:
        """Rows of a task's examples in every step of an epoch, [steps, n_i]."""
        e, split, count = self.experiment, self.splits[task], int(self.counts[epoch, task])
        first = int(self.counts[:epoch, task].sum()) * e.steps_per_epoch
        places = first + np.arange(count * e.steps_per_epoch)
        passes, name = places // len(split), split.task.name
        orders = [
            generator(e.seed, f"joint/order/{name}", number).permutation(len(split))
            for number in range(passes[0], passes[-1] + 1)
        ]
        rows = np.concatenate(orders)[places - passes[0] * len(split)]
        for start in range(0, len(rows), count * POOL):
            pool = slice(start, start + count * POOL)
            rows[pool] = rows[pool][np.lexsort((split.lengths[rows[pool]], passes[pool]))]
        return generator(e.seed, f"joint/batches/{name}", epoch).permutation(rows.reshape(-1, count))


class SharedGradients:
    """Gradients that several tasks have on the parameters they share, all but the heads', one flat row a task.

    Rows are float32 and are kept between steps. A task's is what a backward pass of its loss alone leaves.
    """

    def __init__(self, model: torch.nn.Module, tasks: int):
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad and not name.startswith("heads.")]
        self.parameters = [parameter for _, parameter in named]
        self.sizes = [parameter.numel() for parameter in self.parameters]
        self.layers = [layer_of(name) for name, _ in named]
        device = self.parameters[0].device
        self.rows = torch.zeros(tasks, sum(self.sizes), device=device)  # [tasks, parameters]

    def take(self, task: int) -> None:
        """Move the gradients that are there to the row of a task, and leave zeros."""
        for place, parameter in zip(self.rows[task].split(self.sizes), self.parameters, strict=True):
            if parameter.grad is None:
                place.zero_()
            else:
                place.copy_(parameter.grad.flatten())
                parameter.grad.zero_()

    def gramians(self) -> dict[str, torch.Tensor]:
        """Inner products of the rows by layer, [tasks, tasks] each, float64, on the CPU."""
        products: dict[str, torch.Tensor] = {}
        start = 0
        for layer in dict.fromkeys(self.layers):
            size = sum(size for size, own in zip(self.sizes, self.layers, strict=True) if own == layer)
            part = self.rows[:, start : start + size]
            products[layer], start = (part @ part.T).double().cpu(), start + size
        return products

    def write(self, weights: torch.Tensor) -> None:
        """Make sum w_i g_i the parameters' gradients; those that got none from any task keep none."""
        combined = torch.mv(self.rows.T, weights.to(self.rows))
        for part, parameter in zip(combined.split(self.sizes), self.parameters, strict=True):
            if parameter.grad is not None:
                parameter.grad.copy_(part.view_as(parameter.grad))
