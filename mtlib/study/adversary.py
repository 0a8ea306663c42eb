"""What a perturbation of the embeddings does to a model: is SMART's d an adversary, or only noise?"""

import copy
import math
from collections.abc import Callable, Sequence

import pandas as pd
import torch
import torch.nn.functional as F

from mtlib.data.batches import Batch
from mtlib.model import MultitaskModel
from mtlib.objectives.penalty import Dropout, Step
from mtlib.objectives.smart import Smart, inner_gradient, mean_size
from mtlib.randomness import seeded

RADII = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def clean_step(model: MultitaskModel, batch: Batch, number: int = 0, seed: int = 0, dropout: Dropout = "off") -> Step:
    """The step that a penalty sees of `batch`, outside training: its clean pass done, without gradient.

    dropout: "off" runs every pass in evaluation mode; "shared" gives all passes one mask, "independent" each its own.
    The model is left in the mode (train or eval) that this needs.
    """
    model.train(dropout != "off")
    passes = iter(range(1_000_000))

    def forward(embeddings: torch.Tensor) -> torch.Tensor:
        with seeded(seed, "adversary", number, 0 if dropout == "shared" else next(passes)):
            return model(batch.task.name, batch.inputs, embeddings)

    with torch.no_grad(), seeded(seed, "adversary/embeddings", number):
        x = model.embed_tokens(batch.inputs)
    with torch.no_grad():
        logits = forward(x)
    mask = batch.inputs["attention_mask"]
    return Step(number, seed, batch.task.kind, mask, x, logits, batch.labels, forward)


def penalty_by_radius(
    model: MultitaskModel,
    batches: Sequence[Batch],
    radii: Sequence[float] = RADII,
    directions: Sequence[str] = ("adversarial", "random"),
    dropout: Sequence[Dropout] = ("off", "independent"),
    seed: int = 0,
) -> pd.DataFrame:
    """SMART's penalty against the radius of d, in the l-inf ball, for an adversarial and a random d.

    radii: in units of mean|x|, the mean size of the embeddings.
    Returns one row for each dropout, direction, radius and batch: `dropout`, `direction`, `radius`, `batch`, `size`
    (|d|_inf) and `penalty`. Direction "none", radius 0, is added where dropout is "independent": what the two dropout
    masks alone make. The model is not changed.
    """
    rows = []
    for policy in dropout:
        cases = [(direction, radius) for direction in directions for radius in radii]
        penalties = [Smart(weight=1, mode="ball", radius=r, direction=d, dropout=policy) for d, r in cases]
        if policy == "independent":
            penalties.append(Smart(weight=1, direction="none", dropout=policy))
        rows += _each(model, batches, policy, seed, lambda step, p=penalties: [_measured(smart, step) for smart in p])
    return pd.DataFrame(rows)[["dropout", "direction", "radius", "batch", "size", "penalty"]]


def published_forms(model: MultitaskModel, batches: Sequence[Batch], seed: int = 0) -> pd.DataFrame:
    """How much of an adversary each mode of SMART is at its default values, the report's for the published modes.

    Computed in float64 on a copy, dropout off. Returns one row for each mode, direction and batch: `mode`,
    `direction`, `batch`, `radius` (|d|_inf / mean|x|) and `penalty`; for the adversarial d also `cosine`, of d with
    the inner gradient g, and in mode "rescaled" `share`, the gradient's part of d: |eta g| / |nu + eta g|.
    """
    smarts = [
        Smart(weight=1, mode=mode, direction=direction)
        for mode in ("rescaled", "projected", "ball")
        for direction in ("adversarial", "random")
    ]
    precise = copy.deepcopy(model).double()
    rows = _each(precise, batches, "off", seed, lambda step: [_form(smart, step) for smart in smarts])
    return pd.DataFrame(rows)[["mode", "direction", "batch", "radius", "penalty", "cosine", "share"]]


def _each(
    model: MultitaskModel,
    batches: Sequence[Batch],
    dropout: Dropout,
    seed: int,
    measure: Callable[[Step], list[dict]],
) -> list[dict]:
    """The rows that `measure` makes of every batch's clean step; the model's mode is restored."""
    was_training = model.training
    try:
        return [
            {"dropout": dropout, "batch": number, **row}
            for number, batch in enumerate(batches)
            for row in measure(clean_step(model, batch.to(model.device), number, seed, dropout))
        ]
    finally:
        model.train(was_training)


@torch.no_grad()
def _measured(smart: Smart, step: Step) -> dict:
    """One penalty's logged numbers; NaN where its inner gradient was not finite."""
    step.log.clear()
    smart(step)
    relative, penalty = (float(step.log.get(f"smart/{name}", math.nan)) for name in ("radius", "penalty"))
    case = {"direction": smart.direction, "radius": smart.radius or 0.0}
    return {**case, "size": relative * float(mean_size(step)), "relative": relative, "penalty": penalty}


@torch.no_grad()
def _form(smart: Smart, step: Step) -> dict:
    measured = _measured(smart, step)
    row = {"mode": smart.mode, "direction": smart.direction, "cosine": math.nan, "share": math.nan}
    if smart.direction == "adversarial":
        nu = smart.noise(step)
        g, d = inner_gradient(step, nu), smart.perturbation(step)
        row["cosine"] = float(F.cosine_similarity(d.flatten(), g.flatten(), dim=0, eps=0.0))
        if smart.mode == "rescaled":
            row["share"] = float((smart.eta * g).norm() / (nu + smart.eta * g).norm())
    return row | {"radius": measured["relative"], "penalty": measured["penalty"]}
