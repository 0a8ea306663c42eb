"""What a batch's outputs are measured by: the task's loss or the one that the experiment gives it, and teachers."""

from collections.abc import Callable, Mapping, Sequence

import torch

from mtlib.data.batches import Batch
from mtlib.errors import ConfigurationError
from mtlib.experiments import Experiment
from mtlib.objectives.soft import soft_loss
from mtlib.tasks import Task


class Criteria:
    """The criterion of every batch of a run.

    targets: what teachers say of the training examples [examples, outputs], by task, where the experiment has teachers:
    then a task's loss is (1 - soft_share) times its own plus soft_share times the one against them.
    Raises ConfigurationError for a loss that compares the examples of a batch where several processes share it.
    """

    def __init__(
        self,
        experiment: Experiment,
        tasks: Sequence[Task],
        processes: int,
        targets: Mapping[str, torch.Tensor] | None = None,
    ):
        for loss in experiment.losses.values():
            if processes > 1 and not loss.by_example:
                raise ConfigurationError(
                    f"the loss {loss.kind!r} compares all examples of a batch: expected one process, found {processes}"
                )
        self.losses = {task.name: experiment.losses.get(task.name, task.loss) for task in tasks}
        self.targets = targets or {}
        self.share, self.temperature = experiment.soft_share, experiment.temperature

    def __call__(self, batch: Batch) -> Callable[[torch.Tensor], torch.Tensor]:
        """A function of the batch's logits [batch, outputs]: its task loss, a float32 scalar."""
        loss = self.losses[batch.task.name]
        if batch.task.name not in self.targets:
            return lambda logits: loss(logits, batch.labels)
        targets = self.targets[batch.task.name][batch.rows].to(batch.labels.device)

        def mixed(logits: torch.Tensor) -> torch.Tensor:
            soft = soft_loss(batch.task.kind, logits, targets, self.temperature)
            return (1 - self.share) * loss(logits, batch.labels) + self.share * soft

        return mixed
