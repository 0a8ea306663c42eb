"""Numbers that are not finite: what is raised, and what of the step is kept to look at."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from mtlib.errors import DivergenceError
from mtlib.training.joint import Part

if TYPE_CHECKING:
    from mtlib.training.loop import Training


def expect_number(training: "Training", what: str, value: float, parts: Sequence[Part], number: int) -> None:
    """Raise DivergenceError where a loss or gradient of step `number` (from 0) is no finite number.

    The run's divergence.json then holds the examples' ids. Of a step that is only looked at, nothing is refused.
    """
    if np.isfinite(value) or training.looked_at:
        return
    task = " and ".join(part.batch.task.name for part in parts)
    splits, run = training.data.train, training.run
    ids = [str(splits[part.batch.task.name].ids[row]) for part in parts for row in part.batch.rows]
    dump = {"step": number, "task": task, "what": what, "value": repr(value), "ids": ids}
    run.write_json("divergence.json", {**dump, "history": training.history[-3:]})
    raise DivergenceError(
        f"{what} at step {number + 1} is {value}: expected a finite number (task {task}, "
        f"examples {', '.join(ids[:4])}, ...; all in {run.path / 'divergence.json'}). "
        "Nothing was updated by this step; a smaller learning rate is the usual cure"
    )


def expect_finite(model: torch.nn.Module, done: int) -> None:
    """Raise DivergenceError where `done` updates have left weights that are not finite numbers: none is ever stored."""
    broken = [name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()]
    if broken:
        raise DivergenceError(
            f"after step {done} the weights are not finite numbers: {', '.join(broken[:3])}, ... "
            f"({len(broken)} tensors). A smaller learning rate is the usual cure"
        )
