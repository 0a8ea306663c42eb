"""The loss of a student against what its teachers say: softened targets (Hinton, Vinyals and Dean 2015)."""

import torch
import torch.nn.functional as F

from mtlib.objectives.losses import mean_squared_error, wide


def softened(kind: str, outputs: torch.Tensor, temperature: float) -> torch.Tensor:
    """Teachers' outputs [teachers, batch, outputs] as one target [batch, outputs]: their mean at the temperature.

    kind "classification": the mean of softmax(z / T). "binary": of sigmoid(z / T). "regression": of z.
    """
    if kind == "regression":
        return wide(outputs).mean(0)
    scaled = wide(outputs) / temperature
    return (scaled.softmax(-1) if kind == "classification" else scaled.sigmoid()).mean(0)


def soft_loss(kind: str, logits: torch.Tensor, targets: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean loss of `logits` [batch, outputs] against targets of `softened`, a float32 scalar; 0 where they agree.

    For classes T^2 KL(target, student at T): cross-entropy less the target's own entropy, which moves no gradient; T^2
    keeps the gradient's size as T grows. For regressions squared error, without a temperature.
    Source: Hinton, Vinyals and Dean 2015, section 2.
    """
    if kind == "regression":
        return mean_squared_error(logits, targets.squeeze(-1))
    scaled, targets = wide(logits) / temperature, targets.to(wide(logits).dtype)
    if kind == "classification":
        return temperature**2 * F.kl_div(scaled.log_softmax(-1), targets, reduction="batchmean")
    both = torch.cat([F.logsigmoid(scaled), F.logsigmoid(-scaled)], -1)  # log-probabilities of 1 and 0, [batch, 2]
    return temperature**2 * F.kl_div(both, torch.cat([targets, 1 - targets], -1), reduction="batchmean")
