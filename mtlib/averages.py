"""Averaged weights, kept beside those that are trained and without effect on them."""

import copy
from collections.abc import Mapping
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, PrivateAttr
from torch import nn

from mtlib.kinds import Kinded
from mtlib.numbers import Count, Fraction
from mtlib.objectives.bregman import move, put_back, tensors


class Average(Kinded):
    """Base of all averages: frozen, strict values, whose model lives in the working copy that `start` returns.

    A new one defines `after_step`, and `kept` where it needs more tensors than the averaged model's.
    """

    _model: nn.Module | None = PrivateAttr(None)
    _per_epoch: int = PrivateAttr(1)
    _count: torch.Tensor = PrivateAttr(default_factory=lambda: torch.zeros((), dtype=torch.int64))

    @property
    def label(self) -> str:
        """The kind, for the names of runs."""
        return self.kind

    def start(self, model: nn.Module, steps_per_epoch: int) -> Self:
        """A working copy for one run; its model is a float32 copy of `model`, in evaluation mode, without gradient."""
        working = self.model_copy()
        working._model = copy.deepcopy(model).float().eval().requires_grad_(False)
        working._per_epoch, working._count = steps_per_epoch, torch.zeros((), dtype=torch.int64)
        return working

    def after_step(self, model: nn.Module, number: int) -> None:
        """Called once after each optimizer step, with the updated model and the step's number, from 0."""
        raise TypeError(f"{type(self).__name__} does not define after_step")

    def model(self) -> nn.Module:
        """The averaged model; before the first update the one it started from."""
        if self._model is None:
            raise RuntimeError(
                f"{self.kind} has no model yet: use the value that start(model, steps_per_epoch) returns"
            )
        return self._model

    def kept(self) -> dict[str, torch.Tensor]:
        """The tensors themselves that its next update depends on."""
        return tensors(self.model()) | {"count": self._count}

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint must hold to continue exactly: `kept`, contiguous."""
        return {name: tensor.contiguous() for name, tensor in self.kept().items()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take back what `state` returned; raises CheckpointError, changing nothing, when names or shapes differ."""
        put_back(self.kept(), state, f"average {self.kind}")


class Ema(Average):
    """Exponential moving average: every `every` steps, average <- decay' average + (1 - decay') weights.

    decay' = min(decay, (1 + n) / (10 + n)) at update n, from 0, so that a short run is not left with the weights it
    started from. The average's memory is about every / (1 - decay) steps: 1,000 with the defaults.
    Source: Polyak and Juditsky 1992 in the exponential form of Tarvainen and Valpola 2017; the start is that of
    TensorFlow's ExponentialMovingAverage. Costs a copy of the model, and one pass over the weights an update.
    """

    kind: Literal["ema"] = "ema"
    decay: Fraction = 0.99
    every: Count = 10

    def decay_at(self, update: int) -> float:
        """decay' of an update, counted from 0."""
        return min(self.decay, (1 + update) / (10 + update))

    def after_step(self, model: nn.Module, number: int) -> None:
        """Move the average towards `model`; integer buffers are copied."""
        if (number + 1) % self.every:
            return
        move(self.model(), model, 1 - self.decay_at(int(self._count)))
        self._count += 1


class Lawa(Average):
    """Latest weight averaging: the mean of the weights at the ends of the last `window` epochs.

    While there were fewer epochs it is the mean of those. Costs `window` + 1 copies of the model, in memory and in
    checkpoints, and one pass over them an epoch. Source: Kaddour 2022, algorithm 1.
    """

    kind: Literal["lawa"] = "lawa"
    window: Annotated[int, Field(ge=2, le=100)] = 3

    _ring: torch.Tensor = PrivateAttr(default_factory=lambda: torch.zeros(0))

    def start(self, model: nn.Module, steps_per_epoch: int) -> Self:
        """As of every average, with room for the last epochs' weights, [window, weights]."""
        working = super().start(model, steps_per_epoch)
        working._ring = torch.zeros(self.window, _flat(working.model()).numel())
        return working

    def kept(self) -> dict[str, torch.Tensor]:
        """The averaged model, and the weights that it is the mean of."""
        return super().kept() | {"ring": self._ring}

    @torch.no_grad()
    def after_step(self, model: nn.Module, number: int) -> None:
        """At the end of an epoch, take its weights for the oldest; integer buffers are copied."""
        if (number + 1) % self._per_epoch:
            return
        self._ring[int(self._count) % self.window] = _flat(model).cpu()
        self._count += 1
        mean = self._ring[: min(int(self._count), self.window)].mean(0)
        own = [tensor for tensor in tensors(self.model()).values() if tensor.is_floating_point()]
        for tensor, part in zip(own, mean.split([tensor.numel() for tensor in own]), strict=True):
            tensor.copy_(part.view_as(tensor))
        for name, tensor in tensors(model).items():
            if not tensor.is_floating_point():
                tensors(self.model())[name].copy_(tensor)


def _flat(model: nn.Module) -> torch.Tensor:
    floating = [tensor for tensor in tensors(model).values() if tensor.is_floating_point()]
    return torch.cat([tensor.float().flatten() for tensor in floating])
