"""Experiment trackers on request: every epoch's row of the history to TensorBoard, Trackio or Weights & Biases.

They only watch. What a run was and scored is in its own folder, whatever a tracker does, and no tracker is part of a
run's identity. Asked for by the environment variable MTLIB_TRACKER; needs the extra `trackers`.
"""

import math
import os
import warnings
from typing import Any

from mtlib.errors import ConfigurationError
from mtlib.training.runs import Run

TRACKER = "MTLIB_TRACKER"
"""Environment variable that names the tracker; unset is none."""

KINDS = ("tensorboard", "trackio", "wandb")
"""Trackers that there are; TensorBoard's event files lie in the run's folder, in `tensorboard`."""

_open: dict[str, Any] = {}
"""The tracker of each run that trains in this process, by the run's id; None where it failed."""


def log_epoch(run: Run, row: dict[str, float]) -> None:
    """Hand one row of the history to the tracker that is asked for, if any; close it after the last epoch.

    A tracker that fails is reported once for a run and left alone: training goes on.
    Raises ConfigurationError for an unknown name.
    """
    if not (name := os.environ.get(TRACKER)):
        return
    if name not in KINDS:
        raise ConfigurationError(f"{TRACKER}={name}: expected one of {', '.join(KINDS)}")
    last = row["epoch"] == run.experiment.epochs
    try:
        if run.id not in _open:
            _open[run.id] = _opened(name, run)
        if tracker := _open[run.id]:
            values = {key: value for key, value in row.items() if key not in ("epoch", "step") and math.isfinite(value)}
            tracker.log(values, step=int(row["step"]))
            if last:
                tracker.finish()
    except Exception as error:
        _open[run.id] = None
        warnings.warn(f"{run.id}: {name} failed and is left out: {type(error).__name__}: {error}", stacklevel=2)
    if last:
        del _open[run.id]


def _opened(name: str, run: Run) -> Any:
    """The tracker of accelerate called `name`, begun for `run`."""
    from accelerate import PartialState, tracking

    PartialState()
    if name == "tensorboard":
        tracker = tracking.TensorBoardTracker("tensorboard", logging_dir=str(run.path))
    elif name == "trackio":
        tracker = tracking.TrackioTracker("mtlib", name=run.id)
    else:
        tracker = tracking.WandBTracker("mtlib", name=run.id, id=run.id, resume="allow", dir=str(run.path))
    tracker.start()
    return tracker
