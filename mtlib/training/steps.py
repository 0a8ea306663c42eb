"""The gradients of one step: of its parts' losses together, or of each apart and then aggregated."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from mtlib.randomness import seeded
from mtlib.training.divergence import expect_number
from mtlib.training.joint import Part

if TYPE_CHECKING:
    from mtlib.training.loop import Training


def backward(training: "Training", parts: Sequence[Part], number: int) -> dict[str, float]:
    """Leave the gradients of step `number`, summed over the processes, and return what is to be recorded.

    Raises DivergenceError, before any weight is changed, for a loss or Gram matrix that is not finite.
    """
    aggregate = training.aggregate
    if aggregate.of == "gradients":
        return _aggregated(training, parts, number)
    if training.conflicts and training.conflicts.due(number):
        _apart(training, training.joint.parts(number), number)
        training.conflicts.add(number, training.shared.gramians())
    with training.device.autocast(), training.model.fixed():
        losses, logs = zip(*[_measured(training, part, number) for part in parts], strict=True)
    log = merged(parts, logs)
    if aggregate.of == "losses":
        weights = _weights(training, _losses(parts, log))
        losses = tuple(loss * weight for loss, weight in zip(losses, weights.tolist(), strict=True))
        log |= _noted(parts, weights)
    with training.gradients.collecting():
        sum(losses[1:], losses[0]).backward()
    training.ranks.sum_gradients(training.model)
    return log


def _aggregated(training: "Training", parts: Sequence[Part], number: int) -> dict[str, float]:
    """The same where the tasks' gradients on what they share are aggregated."""
    log = _apart(training, parts, number)
    gramians = training.shared.gramians()
    gramian = torch.stack(list(gramians.values())).sum(0)
    expect_number(training, "gradient norm", gramian.sum().item(), parts, number)
    if training.conflicts and training.conflicts.due(number):
        training.conflicts.add(number, gramians)
    with seeded(training.experiment.seed, "aggregate", number):
        weights = _weights(training, gramian)
    training.shared.write(weights)
    return log | _noted(parts, weights)


def _weights(training: "Training", measured: torch.Tensor) -> torch.Tensor:
    """The aggregation's weights, [tasks]; of a step that is looked at, and is not finite, 1 each."""
    if torch.isfinite(measured).all():
        return training.aggregate.weights(measured)
    return torch.ones(len(measured), dtype=torch.float64)


def _apart(training: "Training", parts: Sequence[Part], number: int) -> dict[str, float]:
    """Each part's gradient on what the tasks share to its row, by a backward pass each; the heads have their own."""
    shared, logs = training.shared, []
    with training.gradients.collecting():
        for place, part in enumerate(parts):
            with training.device.autocast(), training.model.fixed():
                loss, log = _measured(training, part, number)
            loss.backward()
            shared.take(place)
            logs.append(log)
    training.ranks.sum_rows(shared.rows)
    training.ranks.sum_gradients(training.model.heads)
    return merged(parts, logs)


def _measured(training: "Training", part: Part, number: int) -> tuple[torch.Tensor, dict[str, float]]:
    """One part's term of the step's loss, of this process's examples, and what all of them record."""
    batch, training.share = training.ranks.share(part.batch.to(training.device.device))
    training.part = part
    loss, log = training._objective(batch, number)
    log = training.ranks.mean(training.share.weight, {"train_loss": loss.item(), **log})
    expect_number(training, "loss", log["train_loss"], [part], number)
    return loss * (part.weight * training.share.weight), log


@torch.no_grad()
def losses_again(training: "Training", parts: Sequence[Part], number: int) -> torch.Tensor:
    """The tasks' losses, [tasks], on the same examples under the same masks, by the model as it is now."""
    log: dict[str, float] = {}
    with training.device.autocast(), training.model.fixed():
        for part in parts:
            batch, share = training.ranks.share(part.batch.to(training.device.device))
            _, logits = training._forward(batch, number, part.seed)
            loss = training.criteria(batch)(logits).item()
            log |= training.ranks.mean(share.weight, {f"train_loss_{batch.task.name}": loss})
    return _losses(parts, log)


def merged(parts: Sequence[Part], logs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What the parts of a step recorded, by name: means by their weights; of what only some recorded, over those."""
    means = {}
    for name in dict.fromkeys(name for log in logs for name in log):
        values = [(part.weight, log[name]) for part, log in zip(parts, logs, strict=True) if name in log]
        total = sum(weight for weight, _ in values)
        values = values if total else [(1.0, value) for _, value in values]
        means[name] = sum(weight * value for weight, value in values) / (total or len(values))
    return means


def _losses(parts: Sequence[Part], log: Mapping[str, float]) -> torch.Tensor:
    """The tasks' losses, [tasks], float64, as they are recorded."""
    return torch.tensor([log[f"train_loss_{part.batch.task.name}"] for part in parts], dtype=torch.float64)


def _noted(parts: Sequence[Part], weights: torch.Tensor) -> dict[str, float]:
    """The weights [tasks] of an aggregation, as they are recorded."""
    return {f"weight_{part.batch.task.name}": weight for part, weight in zip(parts, weights.tolist(), strict=True)}
