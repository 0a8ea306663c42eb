"""AdamW over a run: parameter groups, the learning rate at each step, and its state saved and restored."""

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from mtlib.averages import Average
from mtlib.errors import CheckpointError, ConfigurationError
from mtlib.experiments import Schedule
from mtlib.objectives.aggregation import Aggregation
from mtlib.objectives.penalty import Penalty
from mtlib.objectives.weighting import MOMENTS

LAYER = re.compile(r"\blayers?\.(\d+)\.")
PART = re.compile(r"(?:.*?\blayers?\.\d+|heads\.\w+|[^.]+(?:\.[^.]+)?)(?=\.)")
SHOWN = 6
"""How many misfits an error lists."""


def parameter_groups(
    model: torch.nn.Module, weight_decay: float, layer_decay: float = 1.0, head_rate: float = 1.0
) -> list[dict]:
    """AdamW groups: weight decay on matrices, none on biases and LayerNorm (all one-dimensional parameters).

    The `scale` of a group is its learning rate as a multiple of the run's: head_rate for the heads, for the rest
    layer_decay^d, d being 1 for the last layer, and one more than the first layer's for the embeddings (Clark et al.
    2020, ELECTRA; discriminative fine-tuning of Howard and Ruder 2018).
    Raises ConfigurationError for a layer_decay below 1 where not every layer has a number of its own (in ALBERT all
    layers are one; Funnel numbers blocks of them).
    """
    layers = _layers(model) if layer_decay < 1 else 0
    scales: dict[float, list[torch.nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            head = name.startswith("heads.")
            scales[head_rate if head else layer_decay ** _depth(name, layers)].append(parameter)
    groups = []
    for scale, trained in sorted(scales.items(), reverse=True):
        groups.append({"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay, "scale": scale})
        groups.append({"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0, "scale": scale})
    return groups


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group of `parameter_groups` its `scale` times `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def _layers(model: torch.nn.Module) -> int:
    """How many layers the encoder has, all of them numbered."""
    numbered = len({found[1] for name, _ in model.named_parameters() if (found := LAYER.search(name))})
    layers = getattr(getattr(model.encoder, "config", None), "num_hidden_layers", numbered)
    if not numbered or numbered != layers:
        what = f"{numbered} numbered of {layers}" if numbered else "one without any"
        raise ConfigurationError(f"layer_decay: expected an encoder whose layers are numbered, found {what}")
    return numbered


def _depth(name: str, layers: int) -> int:
    """How far below the heads a parameter of the encoder lies; what is no layer's lies with the embeddings."""
    found = LAYER.search(name)
    return layers - int(found[1]) if found else layers + 1


def layer_of(name: str) -> str:
    """The layer, the embeddings or the head that a parameter called `name` belongs to."""
    match = PART.match(name)
    return match[0] if match else name


def gathered(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, working: Sequence[Penalty | Average | Aggregation]
) -> dict[str, torch.Tensor]:
    """Weights, the optimizer's moments, and what penalties (teachers), averages and the aggregation keep, by name."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
    for each in working:
        tensors |= {f"{_family(each)}.{each.kind}.{name}": tensor for name, tensor in each.state().items()}
    return tensors


def _family(working: Penalty | Average | Aggregation) -> str:
    return "aggregate" if isinstance(working, Aggregation) else "penalty"


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of named tensors: names, types, shapes and bits."""
    result = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        value = tensor.detach().cpu().contiguous()
        result.update(f"{name} {value.dtype} {list(value.shape)} ".encode())
        result.update(value.flatten().view(torch.uint8).numpy())
    return result.hexdigest()


def restore(
    tensors: Mapping[str, torch.Tensor],
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    working: Sequence[Penalty | Average | Aggregation],
) -> None:
    """Put back what `gathered` returned.

    Raises CheckpointError, changing nothing, where a name is missing or unexpected or a shape or type differs.
    """
    _expect_fit(tensors, _expected(tensors, model, optimizer, working))
    model.load_state_dict(_under(tensors, "model"))
    moments: dict[int, dict[str, torch.Tensor]] = defaultdict(dict)
    for name, value in _under(tensors, "optimizer").items():
        index, _, key = name.partition(".")
        moments[int(index)][key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": dict(moments), "param_groups": groups})
    for each in working:
        each.load_state(_under(tensors, f"{_family(each)}.{each.kind}"))


def _expected(
    tensors: Mapping[str, torch.Tensor],
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    working: Sequence[Penalty | Average | Aggregation],
) -> dict[str, torch.Tensor]:
    """Tensors like those that fit; only a parameter that never had a gradient (a head not yet drawn) has no moments."""
    own = gathered(model, optimizer, working)
    expected = {name: tensor for name, tensor in own.items() if not name.startswith("optimizer.")}
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    begun = {name.split(".")[0] for name in _under(tensors, "optimizer")} or {"0"}
    for index, parameter in enumerate(trained):
        if str(index) in begun:
            expected |= {f"optimizer.{index}.{name}": parameter for name in MOMENTS}
            expected[f"optimizer.{index}.step"] = torch.tensor(0.0)
    return expected


def _expect_fit(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    faults = [f"missing {name}" for name in sorted(expected.keys() - tensors.keys())]
    faults += [f"unexpected {name}" for name in sorted(tensors.keys() - expected.keys())]
    for name in sorted(expected.keys() & tensors.keys()):
        fitting, stored = (f"{list(tensor.shape)} {tensor.dtype}" for tensor in (expected[name], tensors[name]))
        faults += [f"{name} expected {fitting}, found {stored}"] if fitting != stored else []
    if faults:
        more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise CheckpointError(f"the checkpoint does not fit this model: {'; '.join(faults[:SHOWN])}{more}")


def _under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + ".")}


def learning_rate_factor(
    schedule: Schedule, number: int, steps: int, warmup: int = 0, losses: Sequence[float] = ()
) -> float:
    """The factor on the learning rate at optimizer step `number` (from 0) of `steps`.

    schedule "constant": 1. "linear": falls to 0 at the end of the run. "halve": see `halving`, from `losses`, the
        total training loss of every finished epoch.
    warmup: over this many first steps the factor rises linearly, from 1/warmup at step 0.
    """
    if number < warmup:
        return (number + 1) / warmup * (halving(losses) if schedule == "halve" else 1)
    if schedule == "linear":
        return max(0.0, (steps - number) / max(1, steps - warmup))
    return halving(losses) if schedule == "halve" else 1.0


def halving(losses: Sequence[float], patience: int = 3, factor: float = 0.5) -> float:
    """factor^k, k the number of times that `losses` rose in `patience` consecutive epochs (the count then restarts).

    An epoch rises when its loss is above the epoch's before it; torch's ReduceLROnPlateau(patience=patience - 1)
    counts epochs above the best so far, which is the same as long as every fall reaches a new best. A loss that is
    not a finite number is passed over: it is neither a rise nor a fall.
    """
    finite = [loss for loss in losses if math.isfinite(loss)]
    result, rises = 1.0, 0
    for before, after in zip(finite, finite[1:], strict=False):
        rises = rises + 1 if after > before else 0
        if rises == patience:
            result, rises = result * factor, 0
    return result


def positions(schedule: np.ndarray) -> np.ndarray:
    """For every step, how many earlier steps had the same task: its batch's place in that task's sequence."""
    places = np.empty_like(schedule)
    for task in np.unique(schedule):
        steps = np.flatnonzero(schedule == task)
        places[steps] = np.arange(len(steps))
    return places
