"""Loss weighting: what a joint step makes of its tasks' losses. TorchJD's methods, of which the weights are taken.

A step minimises sum w_i p_i L_i, encoder and heads alike: w is the derivative of the method's scalar by the losses L, p
the tasks' shares. The weights are multiplied with a constant, so that they begin as the plain sum's where losses are
equal. A penalty is weighted as the loss of its task is. See docs/joint.md for formulas and sources.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import PrivateAttr
from torch import Tensor

from mtlib.numbers import NonNegative, Positive
from mtlib.objectives.aggregation import Aggregation

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What torch calls the moments that an Adam keeps of each parameter."""


class LossWeighting(Aggregation):
    """Base of the methods that weigh losses."""

    of: ClassVar = "losses"

    def _weights(self, measured: Tensor) -> Tensor:
        losses = measured.detach().clone().requires_grad_()
        self._method(losses).backward()
        assert losses.grad is not None
        return losses.grad


class Uncertainty(LossWeighting):
    """Uncertainty weighting (Kendall et al. 2018): sum exp(-s_i) L_i + s_i, with the log-variances s learnt beside.

    learning_rate: of the log-variances, by an Adam of their own; the network's would leave them where they are.
    """

    kind: Literal["uncertainty"] = "uncertainty"
    learning_rate: NonNegative = 0.01

    _adam: Any = PrivateAttr(None)

    def _made(self, tasks: int) -> Any:
        from torchjd.scalarization import UW

        return UW(tasks).double()

    def start(self, tasks: int) -> "Uncertainty":
        """The working copy for one run."""
        working = super().start(tasks)
        working._adam = torch.optim.Adam([working._method.log_var], lr=self.learning_rate)
        return working

    def _scale(self) -> float:
        return 2.0

    def learn(self, losses: Tensor | None) -> None:
        """One step of the log-variances."""
        self._adam.step()
        self._adam.zero_grad()

    def state(self) -> dict[str, Tensor]:
        """The log-variances and their optimizer's moments, [tasks] each."""
        return {"log_variances": self._method.log_var.detach(), **_moments(self._adam, self._method.log_var)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back log-variances and moments."""
        with torch.no_grad():
            self._method.log_var.copy_(state["log_variances"])
        _load_moments(self._adam, state)


class DWA(LossWeighting):
    """Dynamic weight average (Liu et al. 2019): w = m softmax(r / temperature), 1 in the first two epochs.

    r_i: a task's mean loss over the last epoch divided by that over the one before.
    """

    kind: Literal["dwa"] = "dwa"
    temperature: Positive = 2.0

    def _made(self, tasks: int) -> Any:
        from torchjd.scalarization import DWA as Method

        return Method(self.temperature)

    def end_epoch(self) -> None:
        """The epoch's mean losses are complete."""
        self._method.step()

    def state(self) -> dict[str, Tensor]:
        """Sums of the epoch's losses, [tasks], its steps, up to two earlier epochs' means, [2, tasks], their number."""
        method, none = self._method, torch.zeros(self._tasks, dtype=torch.float64)
        means = [*method._previous_averages, none, none][:2]
        return {
            "sums": none if method._loss_sum is None else method._loss_sum,
            "steps": torch.tensor([method._n_batches]),
            "means": torch.stack(means),
            "epochs": torch.tensor([len(method._previous_averages)]),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back sums and means."""
        steps, epochs = int(state["steps"]), int(state["epochs"])
        self._method._n_batches = steps
        self._method._loss_sum = state["sums"].clone() if steps else None
        self._method._previous_averages = [mean.clone() for mean in state["means"][:epochs]]


class FAMO(LossWeighting):
    """Fast adaptive multitask optimisation (Liu et al. 2023): w_i = m c z_i / L_i with z = softmax(logits), sum w = m.

    After each step the logits move, by an Adam of their own, against tasks whose loss fell more than the others': for
    that the losses are computed again on the same examples, under the same dropout masks.
    """

    again: ClassVar[bool] = True
    kind: Literal["famo"] = "famo"
    learning_rate: NonNegative = 0.025
    weight_decay: NonNegative = 1e-3

    def _made(self, tasks: int) -> Any:
        from torchjd.scalarization import FAMO as Method

        return Method(tasks, lr=self.learning_rate, weight_decay=self.weight_decay).double()

    def _scale(self) -> float:
        return self._tasks

    def learn(self, losses: Tensor | None) -> None:
        """One step of the logits; losses [tasks] are those after the update."""
        assert losses is not None
        if self._tasks > 1:
            self._method.update(losses.double())

    def state(self) -> dict[str, Tensor]:
        """The logits and their optimizer's moments, [tasks] each."""
        return {"logits": self._method._w.detach(), **_moments(self._method._optimizer, self._method._w)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back logits and moments."""
        method = self._method
        with torch.no_grad():
            method._w.copy_(state["logits"])
        method._optimizer = torch.optim.Adam([method._w], lr=method.lr, weight_decay=method.weight_decay)
        _load_moments(method._optimizer, state)


def _moments(adam: torch.optim.Adam | None, parameter: Tensor) -> dict[str, Tensor]:
    """An Adam's moments of one parameter and its number of steps; zeros before the first."""
    own = adam.state.get(parameter, {}) if adam else {}
    zeros = torch.zeros_like(parameter).detach()
    return {name: own.get(name, zeros) for name in MOMENTS} | {"steps": own.get("step", torch.tensor(0.0))}


def _load_moments(adam: torch.optim.Adam, state: Mapping[str, Tensor]) -> None:
    if state["steps"]:
        moments = {name: state[name].clone() for name in MOMENTS} | {"step": state["steps"].clone()}
        adam.load_state_dict({"state": {0: moments}, "param_groups": adam.state_dict()["param_groups"]})
