"""Where the gradients of a step are: kept from step to step, for making and zeroing them takes time."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

if TYPE_CHECKING:
    from mtlib.fast import FastEncoder
    from mtlib.model import MultitaskModel


class Place:
    """Where the gradient of joined parameters is kept, and whether it is there yet."""

    def __init__(self, parameters: Sequence[Tensor], total: Tensor):
        """total: as many entries as the parameters have, their values of before being nothing."""
        self.parameters = parameters
        rows = [len(parameter) for parameter in parameters]
        self.total = total.view(sum(rows), *parameters[0].shape[1:])
        self.parts = self.total.split(rows)

    @property
    def empty(self) -> bool:
        """Whether none of the parameters has a gradient yet."""
        return all(parameter.grad is None for parameter in self.parameters)

    @property
    def filled(self) -> bool:
        """Whether the gradients of all parameters are here."""
        return all(parameter.grad is part for parameter, part in zip(self.parameters, self.parts, strict=True))

    def fill(self) -> None:
        """Say that the gradients are here."""
        for parameter, part in zip(self.parameters, self.parts, strict=True):
            parameter.grad = part

    def add(self, gradient: Tensor) -> None:
        """Add to the gradient, or be it."""
        if self.empty:
            self.total.copy_(gradient)
            self.fill()
        elif self.filled:
            self.total.add_(gradient)
        else:
            for parameter, part, own in zip(
                self.parameters, self.parts, gradient.split([len(part) for part in self.parts]), strict=True
            ):
                parameter.grad = part.copy_(own) if parameter.grad is None else parameter.grad.add_(own)

    def settle(self) -> None:
        """Bring here what was put elsewhere; a parameter that got no gradient has one of zeros."""
        for parameter, part in zip(self.parameters, self.parts, strict=True):
            if parameter.grad is None:
                part.zero_()
            elif parameter.grad is not part:
                part.copy_(parameter.grad)
            parameter.grad = part


class Rows:
    """Where the gradient of the word embeddings is kept: zeros but for the rows of a step's tokens.

    A dense gradient of its own would be 30,522 rows for the few hundred of a batch; so only these are added to, summed
    up, scaled and zeroed. Whether anybody else has written to it, its version tells.
    """

    def __init__(self, table: nn.Parameter):
        self.table, self.total = table, torch.zeros_like(table)
        self.ids: list[Tensor] = []
        self.version = self.total._version

    def add(self, ids: Tensor, gradient: Tensor) -> None:
        """Add the gradients [tokens, hidden] of the rows `ids` [tokens]."""
        if self.table.grad is None:
            self.table.grad = self.total
        self.table.grad.index_add_(0, ids, gradient)
        self.ids.append(ids)
        self.version += self.table.grad is self.total

    def settle(self) -> None:
        """Bring here what was put elsewhere."""
        if self.table.grad is None:
            self.table.grad = self.total
        elif self.table.grad is not self.total:
            self.total.copy_(self.table.grad)
            self.table.grad = self.total

    @property
    def written(self) -> Tensor | None:
        """The rows that are not zero, or none where that is not known."""
        if self.total._version != self.version:
            return None
        return torch.cat(self.ids).unique() if self.ids else torch.zeros(0, dtype=torch.int64)

    def norm(self) -> float:
        """The gradient's norm."""
        rows = self.written
        return (self.total if rows is None else self.total[rows]).norm().item()

    def scale(self, factor: float) -> None:
        """Multiply the gradient."""
        rows = self.written
        if rows is None:
            self.total.mul_(factor)
        else:
            self.total[rows] = self.total[rows] * factor
            self.version = self.total._version

    def clear(self) -> None:
        """Zero the gradient."""
        rows = self.written
        if rows is None:
            self.total.zero_()
        else:
            self.total.index_fill_(0, rows, 0)
        self.ids, self.version = [], self.total._version


class Gradients:
    """Gradients of a model's parameters, kept from step to step where an encoder on the fast path has them.

    What is kept is neither made nor zeroed at every step: the first pass of a step writes it, further ones add to it.
    """

    def __init__(self, model: "MultitaskModel"):
        self.model, self.fast = model, model.fast
        self.places: list[list[Place | None]] = []
        self.rows: Rows | None = None
        self.parameters = list(model.parameters())
        self.buffer = torch.zeros(0, device=model.device)
        if self.fast:
            self._build(self.fast)
        kept = [parameter for place in self._all() for parameter in place.parameters]
        ids = {id(parameter) for parameter in [*kept, *([self.rows.table] if self.rows else [])]}
        self.others = [parameter for parameter in self.parameters if id(parameter) not in ids]

    def _build(self, fast: "FastEncoder") -> None:
        layers, table = fast.parameters(), fast.table_of_words
        groups = [group for layer in layers for group in layer if all(each.requires_grad for each in group)]
        sizes = [sum(parameter.numel() for parameter in group) for group in groups]
        self.buffer = torch.zeros(sum(sizes), dtype=table.dtype, device=table.device)
        placed = {id(g[0]): Place(g, part) for g, part in zip(groups, self.buffer.split(sizes), strict=True)}
        self.places = [[placed.get(id(group[0])) for group in layer] for layer in layers]
        self.rows = Rows(table) if table.requires_grad and table.device.type == "cpu" else None

    def _all(self) -> list[Place]:
        return [place for layer in self.places for place in layer if place]

    def clear(self) -> None:
        """No parameter has a gradient."""
        for parameter in self.parameters:
            parameter.grad = None
        if self.rows:
            self.rows.clear()

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Within this context the gradients of one step are computed; it begins without any.

        Afterwards every kept parameter has one, zeros where none was computed; a head has none where no batch was its.
        """
        self.clear()
        if self.fast:
            self.fast.places, self.fast.rows = dict(enumerate(self.places)), self.rows
        try:
            yield
        finally:
            if self.fast:
                self.fast.places, self.fast.rows = {}, None
        self._settle()

    def _settle(self) -> None:
        for place in self._all():
            place.settle()
        if self.rows:
            self.rows.settle()

    def clip(self, largest: float) -> float:
        """Scale all gradients so that their norm is at most `largest`; their norm before."""
        self._settle()
        others = [parameter.grad for parameter in self.others if parameter.grad is not None]
        parts = self.buffer.dot(self.buffer).sqrt().item(), self.rows.norm() if self.rows else 0.0
        norm = math.hypot(*parts, get_total_norm(others).item())
        if norm > largest:
            factor = largest / (norm + 1e-6)
            torch._foreach_mul_([self.buffer, *others], factor)
            if self.rows:
                self.rows.scale(factor)
        return norm
