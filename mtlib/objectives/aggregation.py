"""Aggregation: what a joint step makes of the gradients that its tasks have on the shared encoder. TorchJD's methods.

A step's gradient on the encoder is sum w_i g_i, g_i that of p_i L_i and p the tasks' shares. A method finds the weights
w from the Gram matrix G_ij = g_i . g_j. It is given G divided by its trace, so that its constants do not depend on the
size of gradients, and its weights are multiplied with a constant, so that tasks with orthogonal gradients of one length
get 1 each, as in the plain sum. See docs/joint.md for formulas and sources.
"""

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import PrivateAttr
from torch import Tensor

from mtlib.errors import CheckpointError, ConfigurationError, DivergenceError
from mtlib.kinds import Kinded
from mtlib.numbers import Count, NonNegative, Share


class Aggregation(Kinded):
    """Base of all aggregations: frozen, strict values. One that keeps state has it in what `start` returns.

    of: what it weighs tasks by: their "gradients" on the shared encoder, of which a step then keeps one a task, their
        "losses", whose weights hold for encoder and heads, or "nothing".
    again: whether `learn` wants the losses that the updated model has on the same examples, a forward pass more.
    """

    of: ClassVar[Literal["gradients", "losses", "nothing"]] = "gradients"
    again: ClassVar[bool] = False

    _method: Any = PrivateAttr(None)
    _tasks: int = PrivateAttr(0)

    @property
    def label(self) -> str:
        """Kind, and what differs from its defaults."""
        fields = {name: field for name, field in type(self).model_fields.items() if name != "kind"}
        changed = [f"{getattr(self, name):g}" for name, field in fields.items() if getattr(self, name) != field.default]
        return "-".join([self.kind, *changed])

    def start(self, tasks: int) -> Self:
        """The working copy for one run of `tasks` tasks. Raises ConfigurationError where a package is not installed."""
        working = self.model_copy()
        try:
            working._method = self._made(tasks)
        except ImportError as error:
            raise ConfigurationError(
                f"aggregate {self.kind!r} needs packages that are not installed ({error}): pip install 'mtlib[beyond]'"
            ) from error
        working._tasks = tasks
        return working

    def weights(self, measured: Tensor) -> Tensor:
        """Weight of each task, [tasks], float64, from the gradients' Gram matrix [tasks, tasks] or the losses [tasks].

        A method that draws takes torch's global stream. Raises DivergenceError where a solver finds nothing.
        """
        size = measured.diagonal().sum() if measured.ndim == 2 else torch.ones(())
        if len(measured) == 1 or not size:
            return torch.ones(len(measured), dtype=torch.float64)
        try:
            weights = self._scale() * self._weights(measured.double() / size.double())
        except Exception as error:
            raise DivergenceError(f"aggregate {self.kind!r}: nothing found for {measured.tolist()}: {error}") from error
        if not torch.isfinite(weights).all():
            raise DivergenceError(f"aggregate {self.kind!r}: weights {weights.tolist()} for {measured.tolist()}")
        return weights.detach()

    def learn(self, losses: Tensor | None) -> None:
        """Called once after each optimizer step; losses [tasks], where it asks for them `again`."""

    def end_epoch(self) -> None:
        """Called after the last step of each epoch."""

    def state(self) -> dict[str, Tensor]:
        """Tensors that a checkpoint must hold to continue exactly, the same names and shapes at every step."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned."""
        if state:
            raise CheckpointError(f"aggregate {self.kind!r} keeps no state, found {', '.join(state)}")

    def _made(self, tasks: int) -> Any:
        raise TypeError(f"{type(self).__name__} does not define _made")

    def _scale(self) -> float:
        return 1.0

    def _weights(self, measured: Tensor) -> Tensor:
        return self._method(measured)


class Sum(Aggregation):
    """The plain sum: every weight is 1. The control for all others, and all that a step of one task can have."""

    of: ClassVar = "nothing"
    kind: Literal["sum"] = "sum"

    def _made(self, tasks: int) -> None:
        return None

    def _weights(self, measured: Tensor) -> Tensor:
        return torch.ones(len(measured), dtype=torch.float64)


class PCGrad(Aggregation):
    """Gradient surgery (Yu et al. 2020): of each g_i, what points against another g_j is taken out, in random order."""

    kind: Literal["pcgrad"] = "pcgrad"

    def _made(self, tasks: int) -> Any:
        from torchjd.aggregation import PCGradWeighting

        return PCGradWeighting()


class GradVac(Aggregation):
    """Gradient vaccine (Wang et al. 2021): each g_i is turned towards g_j until their cosine is its running mean.

    beta: weight of the newest cosine in the running mean, which is kept between steps.
    """

    kind: Literal["gradvac"] = "gradvac"
    beta: Share = 0.5

    def _made(self, tasks: int) -> Any:
        from torchjd.aggregation import GradVacWeighting

        method = GradVacWeighting(beta=self.beta)
        method._ensure_state(tasks, torch.float64)
        return method

    def state(self) -> dict[str, Tensor]:
        """The running mean of the cosines, [tasks, tasks]."""
        return {"cosines": self._method._phi_t}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back the running mean."""
        self._method._phi_t.copy_(state["cosines"])


class CAGrad(Aggregation):
    """Conflict-averse gradients (Liu et al. 2021): near the mean gradient, that which serves the worst task best.

    c: how far from the mean, as a share of its length. Where the gradients' shortest mean is next to nothing, since
    they cancel or since one of them is 1e-4 of the others, TorchJD's weights are zeros, which breaks that bound; here
    they are 1 each, the plain sum, which keeps it.
    """

    kind: Literal["cagrad"] = "cagrad"
    c: NonNegative = 0.4

    def _made(self, tasks: int) -> Any:
        from torchjd.aggregation import CAGradWeighting

        return CAGradWeighting(c=self.c)

    def _scale(self) -> float:
        return self._tasks / (1 + self.c)

    def _weights(self, measured: Tensor) -> Tensor:
        weights = self._method(measured)
        return weights if weights.any() else torch.full_like(weights, 1 / self._scale())


class MGDA(Aggregation):
    """Multiple-gradient descent (Desideri 2012; solved as in Sener and Koltun 2018): the shortest mean of gradients."""

    kind: Literal["mgda"] = "mgda"

    def _made(self, tasks: int) -> Any:
        from torchjd.aggregation import MGDAWeighting

        return MGDAWeighting()

    def _scale(self) -> float:
        return self._tasks


class NashMTL(Aggregation):
    """The Nash bargaining solution (Navon et al. 2022): weights with G w = 1 / w, every task gaining in proportion.

    every: the weights are solved for at every so many steps, and kept in between; so they are where the solver, which
        starts from the last ones, finds none.
    """

    kind: Literal["nash_mtl"] = "nash_mtl"
    every: Count = 1

    def _made(self, tasks: int) -> Any:
        from torchjd.aggregation import NashMTL as Method

        return Method(tasks, max_norm=0.0, update_weights_every=self.every).weighting

    def _scale(self) -> float:
        return self._tasks**-0.5

    def _weights(self, measured: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(measured)
        rows = vectors * values.clamp(min=0).sqrt()  # [tasks, tasks], with this Gram matrix
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that its problem is compiled anew at each step
            return self._method(rows)

    def state(self) -> dict[str, Tensor]:
        """The last weights, [tasks], from which the solver starts, and the number of steps."""
        weights, steps = torch.tensor(self._method.prvs_alpha), torch.tensor([self._method.step])
        return {"weights": weights.double(), "steps": steps.double()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back weights and number of steps."""
        self._method.prvs_alpha, self._method.step = state["weights"].numpy().copy(), state["steps"].item()
        self._method._init_optim_problem()


class AlignedMTL(Aggregation):
    """Independent component alignment (Senushkin et al. 2023): the gradients made orthogonal and equally long.

    To the length of the smallest principal component, as published.
    """

    kind: Literal["aligned_mtl"] = "aligned_mtl"

    def _made(self, tasks: int) -> Any:
        from torchjd.aggregation import AlignedMTLWeighting

        return AlignedMTLWeighting()

    def _scale(self) -> float:
        return self._tasks

    def _weights(self, measured: Tensor) -> Tensor:
        return self._method(measured.float()).double()  # components below float32's rounding count as none


class UPGrad(Aggregation):
    """Jacobian descent (Quinton and Rey 2024): each g_i projected onto the cone that conflicts with no task."""

    kind: Literal["upgrad"] = "upgrad"

    def _made(self, tasks: int) -> Any:
        from torchjd.aggregation import UPGradWeighting

        return UPGradWeighting()

    def _scale(self) -> float:
        return self._tasks
