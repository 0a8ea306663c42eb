"""A loss for classes that have an order: the ranked probability score (Epstein 1969)."""

from typing import ClassVar, Literal

import torch

from mtlib.objectives.losses import Loss, wide


class Ordinal(Loss):
    """Mean over examples of sum_k (P(class <= k) - [y <= k])^2: to be wrong by two classes costs more than by one.

    A proper scoring rule, as cross-entropy is, that knows the classes' order; the head stays one logit a class, and so
    do predictions. Also known as the squared earth mover's distance (Hou, Yu and Samaras 2016). Its gradient vanishes
    where a model is sure and wrong, so a share of it beside cross-entropy learns faster than it alone.
    Of two classes it is the Brier score's half, (p - y)^2. Source: Epstein 1969, equation 6, not normalised by K - 1.

    >>> Ordinal(share=0.0)(torch.zeros(1, 5), torch.tensor([2]))
    tensor(1.6094)
    """

    label_kind: ClassVar[str] = "classification"

    kind: Literal["ordinal"] = "ordinal"

    def term(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The score of `logits` [batch, classes] against class numbers [batch]."""
        below = wide(logits).softmax(-1).cumsum(-1)[:, :-1]  # P(class <= k), [batch, classes - 1]
        places = torch.arange(below.shape[1], device=labels.device)
        return (below - (labels[:, None] <= places).to(below.dtype)).square().sum(-1).mean()
