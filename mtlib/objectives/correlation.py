"""A loss for tasks that are scored by correlation: 1 - Pearson's r over the batch."""

from typing import ClassVar, Literal

import torch

from mtlib.objectives.losses import Loss, wide

EPSILON = 1e-4
"""Added to both variances (labels on a scale of 0 to 5): nearly equal outputs have no exploding gradient."""


class Correlation(Loss):
    """1 - r, r Pearson's correlation of outputs and labels over the batch: what the score rewards, and nothing else.

    r does not see the outputs' scale, so alone it leaves predictions in units of their own: a share below 1 keeps
    squared error beside it. A batch estimates r with a bias that shrinks with its size; one of a single example has
    r = 0 and no gradient, so a batch size, or a task's part of joint steps, of 1 is refused. It compares examples, so
    several processes cannot share its batches.
    Source: the definition; used for speech and emotion since Trigeorgis et al. 2016 (as the concordance coefficient).

    >>> round(Correlation()(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([2.0, 4.0, 8.0])).item(), 3)
    0.0
    """

    label_kind: ClassVar[str] = "regression"
    by_example: ClassVar[bool] = False

    kind: Literal["correlation"] = "correlation"

    def term(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """1 - r of outputs [batch, 1] and labels [batch]."""
        x = wide(logits).squeeze(-1)
        x, y = x - x.mean(), labels.to(x.dtype) - labels.to(x.dtype).mean()
        return 1 - (x * y).mean() / ((x.square().mean() + EPSILON) * (y.square().mean() + EPSILON)).sqrt()
