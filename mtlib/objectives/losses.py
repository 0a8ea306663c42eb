"""Task losses by label kind, and others that an experiment may choose; in float32, float64 stays float64."""

from typing import ClassVar

import torch
import torch.nn.functional as F

from mtlib.kinds import Kinded
from mtlib.numbers import Share


def wide(output: torch.Tensor) -> torch.Tensor:
    """An output in float32, or as it is where it is float64."""
    return output if output.dtype == torch.float64 else output.float()


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of `logits` [batch, classes] against class numbers [batch]."""
    return F.cross_entropy(wide(logits), labels.long())


def binary_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean binary cross-entropy of one logit an example, [batch, 1], against labels 0 or 1, [batch]."""
    logits = wide(logits).squeeze(-1)
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def mean_squared_error(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean squared error of one output an example, [batch, 1], on the scale of the labels, [batch]."""
    outputs = wide(outputs).squeeze(-1)
    return F.mse_loss(outputs, labels.to(outputs.dtype))


LOSSES = {
    "classification": cross_entropy,
    "binary": binary_cross_entropy,
    "regression": mean_squared_error,
}


class Loss(Kinded):
    """Base of the losses that an experiment may give a task in place of its kind's own: frozen, strict values.

    share: the loss is (1 - share) times the kind's own plus share times `term`; 0 is the own one, bit for bit.
    label_kind: the kind of task that it is for. by_example: whether it is a mean over examples; one that is not
    compares the examples of a batch with each other, and needs them in one process.
    """

    label_kind: ClassVar[str]
    by_example: ClassVar[bool] = True

    share: Share = 1.0

    @property
    def label(self) -> str:
        """Kind, and a share that is not all, for the names of runs."""
        return self.kind if self.share == 1 else f"{self.kind}-{self.share:g}"

    @property
    def compares(self) -> bool:
        """Whether it needs two examples in a batch: one that is not `by_example`, and has a share."""
        return not self.by_example and self.share > 0

    def term(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss by itself, a scalar, of `logits` [batch, outputs] against `labels` [batch]."""
        raise TypeError(f"{type(self).__name__} does not define term")

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The task loss of `logits` [batch, outputs] against `labels` [batch], a scalar."""
        if self.share == 1:
            return self.term(logits, labels)
        own = LOSSES[self.label_kind](logits, labels)
        return own if self.share == 0 else (1 - self.share) * own + self.share * self.term(logits, labels)
