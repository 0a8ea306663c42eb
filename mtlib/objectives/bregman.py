"""Bregman proximal point with momentum (BPPO, Jiang et al. 2020): stay close to a slow copy of the model."""

import copy
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, PrivateAttr, model_validator
from torch import nn

from mtlib.errors import CheckpointError
from mtlib.numbers import Fraction
from mtlib.objectives.divergences import symmetric_divergence
from mtlib.objectives.penalty import Penalty, Step


class Bregman(Penalty):
    """Penalty l_s(f(x; theta), f(x; teacher)); after each optimizer step teacher <- (1 - beta) theta + beta teacher.

    weight: the report's mu.
    decay: beta. With `late_decay`, the updates from the fraction `switch_at` of the run on use that instead: the SMART
        paper's schedule is decay=0.99, late_decay=0.999, switch_at=0.1. Without `late_decay` a `switch_at` is refused.
    The teacher is a float32 copy of the model `start` was given, heads and buffers included, always in eval mode and
    without gradient; whatever `dropout` says, only the student drops. Without dropout the first penalty is exactly 0.
    One step costs 4 forward passes where plain training costs 3. Logs bregman/penalty.
    """

    runs_student_again: ClassVar[bool] = False

    kind: Literal["bregman"] = "bregman"
    decay: Fraction
    late_decay: Fraction | None = None
    switch_at: Annotated[float, Field(gt=0, lt=1)] = 0.1

    _teacher: nn.Module | None = PrivateAttr(None)
    _steps: int = PrivateAttr(0)

    @model_validator(mode="after")
    def _switched(self) -> Self:
        if self.late_decay is None and self.switch_at != type(self).model_fields["switch_at"].default:
            raise ValueError(f"switch_at: {self.switch_at:g} changes nothing without late_decay")
        return self

    @property
    def label(self) -> str:
        """Kind, weight and decay."""
        late = f"-{self.late_decay:g}" if self.late_decay is not None else ""
        return f"{super().label}-{self.decay:g}{late}" if self.weight else super().label

    def start(self, model: nn.Module, steps: int) -> Self:
        """A working copy for one run of `steps` optimizer steps whose teacher is `model` as it is now."""
        working = self.model_copy()
        working._teacher = copy.deepcopy(model).float().eval().requires_grad_(False)
        working._steps = steps
        return working

    def __call__(self, step: Step) -> torch.Tensor:
        """The penalty of this step; its gradient flows into the student alone."""
        if step.run is None:
            raise RuntimeError("Bregman needs a step that runs another model: Step(..., run=lambda model: ...)")
        with torch.no_grad():
            anchor = step.run(self._started())
        term = symmetric_divergence(step.kind, step.logits, anchor)
        step.log["bregman/penalty"] = term.detach()
        return term

    def decay_at(self, number: int) -> float:
        """beta of the update after optimizer step `number`, counted from 0."""
        if self.late_decay is not None and number >= self.switch_at * self._steps:
            return self.late_decay
        return self.decay

    def after_step(self, model: nn.Module, number: int) -> None:
        """Move the teacher towards `model`: parameters and buffers alike, integer buffers are copied."""
        move(self._started(), model, 1 - self.decay_at(number))

    def teacher(self) -> nn.Module | None:
        """The teacher, once started."""
        return self._teacher

    def state(self) -> dict[str, torch.Tensor]:
        """The teacher's parameters and buffers by name (not copies)."""
        return {name: tensor.contiguous() for name, tensor in tensors(self._started()).items()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Copy `state` into the teacher; raises CheckpointError, changing nothing, when names or shapes differ."""
        put_back(tensors(self._started()), state, "teacher")

    def _started(self) -> nn.Module:
        if self._teacher is None:
            raise RuntimeError("Bregman has no teacher yet: use the penalty that start(model, steps) returns")
        return self._teacher


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer once, by name."""
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


@torch.no_grad()
def move(slow: nn.Module, fast: nn.Module, weight: float) -> None:
    """slow <- (1 - weight) slow + weight fast, every parameter and buffer, in place; integer buffers are copied."""
    for own, other in zip(tensors(slow).values(), tensors(fast).values(), strict=True):
        if own.is_floating_point():
            own.lerp_(other.to(own.dtype), weight)
        else:
            own.copy_(other)


@torch.no_grad()
def put_back(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], what: str) -> None:
    """Copy `state` into the tensors `own`, in place.

    Raises CheckpointError that says `what`, changing nothing, when names, shapes or types differ.
    """
    if own.keys() != state.keys():
        missing, extra = sorted(own.keys() - state.keys())[:6], sorted(state.keys() - own.keys())[:6]
        raise CheckpointError(f"{what}: missing {missing or 'nothing'}, unexpected {extra or 'nothing'}")
    for name, tensor in own.items():
        if tensor.shape != state[name].shape or tensor.dtype != state[name].dtype:
            expected, actual = (f"{list(t.shape)} {t.dtype}" for t in (tensor, state[name]))
            raise CheckpointError(f"{what}: {name}: expected {expected}, found {actual}")
    for name, tensor in own.items():
        tensor.copy_(state[name])
