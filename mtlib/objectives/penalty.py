"""The penalty protocol: a term added to the loss of one optimizer step.

A penalty is a frozen value (its fields are the configuration that identifies a run) with one method to
write, `__call__`. A penalty with state of its own (a teacher) makes it in `start` and keeps it up in
`after_step`. See docs/penalties.md for a complete penalty in one file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

Dropout = Literal["off", "shared", "independent"]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


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
    log: numbers to record for this step, by name.
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
    log: dict[str, float] = field(default_factory=dict)


class Penalty(BaseModel):
    """Base of all penalties: frozen, strict values.

    weight: what the returned term is multiplied with before it is added to the loss.
    dropout: "off" runs the whole step, clean pass included, without dropout; "shared" gives every further
        pass the clean pass's dropout masks; "independent" gives it masks of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: str
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
