"""Task losses by label kind, always computed in float32."""

import torch
import torch.nn.functional as F


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of `logits` [batch, classes] against class numbers [batch]."""
    return F.cross_entropy(logits.float(), labels.long())


def binary_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean binary cross-entropy of one logit an example, [batch, 1], against labels 0 or 1, [batch]."""
    return F.binary_cross_entropy_with_logits(logits.float().squeeze(-1), labels.float())


def mean_squared_error(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean squared error of one output an example, [batch, 1], on the scale of the labels, [batch]."""
    return F.mse_loss(outputs.float().squeeze(-1), labels.float())


LOSSES = {
    "classification": cross_entropy,
    "binary": binary_cross_entropy,
    "regression": mean_squared_error,
}
