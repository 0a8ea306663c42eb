"""Learning rate and data position as pure functions of the step, so that a resumed run needs no state of them."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

Schedule = Literal["constant", "linear", "halve"]


def learning_rate_factor(
    schedule: Schedule, number: int, steps: int, warmup: int = 0, losses: Sequence[float] = ()
) -> float:
    """What the learning rate of optimizer step `number` (from 0) of `steps` is multiplied with.

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
