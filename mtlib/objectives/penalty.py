"""The penalty protocol: a term added to the loss of one optimizer step.

A penalty is a frozen value (its fields are the configuration that identifies a run) with one method to
write, `__call__`. A penalty with state of its own (a teacher) makes it in `start` and keeps it up in
`after_step`. See docs/penalties.md for a complete penalty in one file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

import torch
from torch import nn

from mtlib.errors import ConfigurationError
from mtlib.kinds import Kinded
from mtlib.numbers import NonNegative
from mtlib.objectives.losses import LOSSES
from mtlib.randomness import torch_generator

Dropout = Literal["off", "shared", "independent"]


def alone(value: torch.Tensor, how: Literal["sum", "max"]) -> torch.Tensor:
    """The value itself: what a process that shares its batch with no other hears of the others."""
    return value


@dataclass(frozen=True)
class Share:
    """The part of a batch that this process computes, and how it asks the others; the default is all of it, alone.

    rows: places of its examples in the whole batch, [share]; None for every place in order.
    examples: how many the whole batch has; None for those that are here.
    weight: its part of the whole batch's examples; 0 for an example that fills up and counts nothing.
    reduce: sum or largest entry over the processes of a float tensor; all of them call it, in one order.
    """

    rows: torch.Tensor | None = None
    examples: int | None = None
    weight: float = 1.0
    reduce: Callable[[torch.Tensor, Literal["sum", "max"]], torch.Tensor] = alone


@dataclass
class Step:
    """What a penalty may see and do in one optimizer step.

    number: global step, from 0.
    seed: the run's seed; draw with `mtlib.randomness` from (seed, a stream name of your own, number).
    kind: the task's kind: "classification", "binary" or "regression".
    mask: 1 on tokens, 0 on padding, [batch, tokens].
    embeddings: output x of the encoder's embedding block, [batch, tokens, hidden], part of the graph.
    logits: clean output f(x), [batch, outputs], part of the graph.
    labels: gold labels, [batch].
    forward: logits [batch, outputs] of the same model on the same batch from given embeddings
        [batch, tokens, hidden], under the run's dropout policy.
    run: logits [batch, outputs] of another model of the same class (a teacher) on the same batch.
    log: numbers to record for this step, by name; of several processes their mean by weight is recorded.
    share: the part of the whole batch that all of the above is. A penalty that is a mean over examples needs none of
        it; one that draws or looks at other examples asks `randn`, `total`, `largest` and `everywhere`, so that
        several processes come to what one would.
    criterion: the task loss of logits [batch, outputs], where it is not that of the kind: ask `loss`.
    """

    number: int
    seed: int
    kind: str
    mask: torch.Tensor
    embeddings: torch.Tensor
    logits: torch.Tensor
    labels: torch.Tensor
    forward: Callable[[torch.Tensor], torch.Tensor]
    run: Callable[[nn.Module], torch.Tensor] | None = None
    log: dict[str, float | torch.Tensor] = field(default_factory=dict)
    share: Share = Share()
    criterion: Callable[[torch.Tensor], torch.Tensor] | None = None

    def loss(self, logits: torch.Tensor) -> torch.Tensor:
        """The task loss, without penalties, that the batch would have with these logits; a float32 scalar."""
        return self.criterion(logits) if self.criterion else LOSSES[self.kind](logits, self.labels)

    def randn(self, stream: str) -> torch.Tensor:
        """Standard normal numbers of the embeddings' shape, type and device, from the named stream of this step.

        They are drawn for the whole batch, and these are its examples' rows of them.
        """
        x, rows = self.embeddings, self.share.rows
        shape = (self.share.examples or len(x), *x.shape[1:])
        generator = torch_generator(self.seed, stream, self.number, device=x.device)
        drawn = torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device)
        return drawn if rows is None else drawn[rows.to(x.device)]

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """Sum over the processes of what each found in its examples."""
        return self.share.reduce(value if self.share.weight else torch.zeros_like(value), "sum")

    def largest(self, value: torch.Tensor) -> torch.Tensor:
        """Largest over the processes, entry by entry, of what each found in its examples."""
        return self.share.reduce(value if self.share.weight else torch.full_like(value, -torch.inf), "max")

    def everywhere(self, flag: torch.Tensor) -> bool:
        """Whether the flag, a boolean scalar, holds in every process."""
        return not self.share.reduce((~flag).float(), "max")


class Penalty(Kinded):
    """Base of all penalties: frozen, strict values.

    weight: what the returned term is multiplied with before it is added to the loss.
    dropout: "off" runs the whole step, clean pass included, without dropout; "shared" gives every further
        pass the clean pass's dropout masks; "independent" gives it masks of its own.
    runs_student_again: whether `__call__` makes further passes of the model (`step.forward`). Where no penalty of a
        run does, "shared" and "independent" are the same training.
    """

    runs_student_again: ClassVar[bool] = True

    weight: NonNegative
    dropout: Dropout = "off"

    @property
    def label(self) -> str:
        """Kind and weight in a word or two, for the names of runs."""
        return f"{self.kind}-{self.weight:g}" if self.weight else f"dropout-{self.dropout}"

    def start(self, model: nn.Module, steps: int) -> Self:
        """The working copy for one run of `steps` optimizer steps of `model`; itself where there is no state."""
        return self

    def __call__(self, step: Step) -> torch.Tensor:
        """The unweighted term of this step, a float32 scalar."""
        raise TypeError(f"{type(self).__name__} does not define __call__")

    def after_step(self, model: nn.Module, number: int) -> None:
        """Called once after each optimizer step, with the updated model and the step's number."""

    def teacher(self) -> nn.Module | None:
        """A second model to evaluate beside the student, if the penalty keeps one."""
        return None

    def state(self) -> dict[str, torch.Tensor]:
        """Tensors that a checkpoint must hold to continue exactly."""
        return {}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take back what `state` returned."""


def require_dropout(model: nn.Module, label: str) -> None:
    """Raise ConfigurationError where nothing in `model` drops, for the penalty `label`, which compares two masks."""
    if not any(isinstance(module, nn.Dropout) and module.p for module in model.modules()):
        raise ConfigurationError(
            f"penalty {label} compares two dropout masks, and nothing in this encoder drops: the penalty would always "
            "be 0; expected an encoder with dropout, or head_dropout above 0"
        )
