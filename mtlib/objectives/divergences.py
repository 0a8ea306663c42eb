"""Symmetric divergences l_s(a, b) between two outputs of the same head: zero where they agree, never negative."""

from torch import Tensor

from mtlib.objectives.losses import wide


def symmetric_divergence(kind: str, a: Tensor, b: Tensor) -> Tensor:
    """Mean over the batch of l_s between two outputs of one head, each [batch, outputs]; a float32 scalar.

    kind "classification": symmetric KL over the classes, sum (p - q)(log p - log q). The usual pair of KL sums
        subtracts nearly equal numbers and loses its digits for close outputs; this form does not.
    kind "binary": the same quantity for one logit, (sigmoid a - sigmoid b)(a - b).
    kind "regression": (a - b)^2.
    Half precision is computed in float32, also under autocast; float64 stays float64. Gradient flows into both.
    Raises ValueError for unequal shapes (nothing is broadcast), for a softmax over one output (identically 0),
    and for an unknown kind. Source: Jiang et al. 2020 (SMART), section 2.1.
    """
    if a.shape != b.shape:
        raise ValueError(f"outputs of one head must have one shape, found {list(a.shape)} and {list(b.shape)}")
    a, b = wide(a), wide(b)
    if kind == "regression":
        return (a - b).square().mean()
    if kind == "binary":
        return ((a.sigmoid() - b.sigmoid()) * (a - b)).mean()
    if kind == "classification":
        if a.shape[-1] < 2:
            raise ValueError(f"classification needs at least 2 outputs, found shape {list(a.shape)}; use kind 'binary'")
        log_p, log_q = a.log_softmax(-1), b.log_softmax(-1)
        return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1).mean()
    raise ValueError(f"unknown kind {kind!r}: expected classification, binary or regression")
