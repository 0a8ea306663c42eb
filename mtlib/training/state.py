"""The tensors of a run in training: how they are grouped for AdamW, gathered for a checkpoint and put back."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch

from mtlib.objectives.penalty import Penalty


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """AdamW groups: weight decay on matrices, none on biases and LayerNorm (all one-dimensional parameters)."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def gathered(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, penalties: Sequence[Penalty]
) -> dict[str, torch.Tensor]:
    """Weights, the optimizer's moments, and the penalties' own tensors (teachers), by name."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
    for penalty in penalties:
        tensors |= {f"penalty.{penalty.kind}.{name}": tensor for name, tensor in penalty.state().items()}
    return tensors


def restore(
    tensors: Mapping[str, torch.Tensor],
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    penalties: Sequence[Penalty],
) -> None:
    """Put back what `gathered` returned."""
    model.load_state_dict(_under(tensors, "model"))
    moments: dict[int, dict[str, torch.Tensor]] = defaultdict(dict)
    for name, value in _under(tensors, "optimizer").items():
        index, _, key = name.partition(".")
        moments[int(index)][key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": dict(moments), "param_groups": groups})
    for penalty in penalties:
        penalty.load_state(_under(tensors, f"penalty.{penalty.kind}"))


def _under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + ".")}
