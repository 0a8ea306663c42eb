"""What a run shows while it trains: a bar and a growing curve in Jupyter, a bar in a terminal, plain lines in logs.

On request, every epoch's row of the history also goes to TensorBoard, Trackio or Weights & Biases. Trackers only
watch: the record of a run is in its own folder, and no tracker is part of a run's identity. They are requested with
the environment variable MTLIB_TRACKER and need the extra `trackers`.
"""

import io
import math
import os
import re
import signal
import sys
import warnings
from contextlib import suppress
from typing import Any

from mtlib.checking import nearest
from mtlib.errors import ConfigurationError
from mtlib.experiments import Optimisation
from mtlib.tasks import in_order
from mtlib.training.runs import Run
from mtlib.training.signals import Interruption, Stopped

PLAIN = "MTLIB_PROGRESS"
"""Environment variable that sets the kind of progress where `auto` is asked: one of SHOWN."""

SHOWN = ("bar", "lines", "none")
"""Kinds of progress that there are."""

EPOCH = re.compile(r"(?P<name>[^ :]+): epoch (?P<done>\d+)/(?P<of>\d+) ")
"""The line that `Progress` prints after an epoch."""


def kind(progress: str) -> str:
    """ "bar", "lines" or "none"; "auto": MTLIB_PROGRESS or, if unset, a bar in a terminal or notebook, else lines.

    Raises ConfigurationError for any other word.
    """
    if progress != "auto":
        return _shown(progress, "progress", ("auto", *SHOWN))
    if chosen := os.environ.get(PLAIN):
        return _shown(chosen, PLAIN, SHOWN)
    return "bar" if in_notebook() or sys.stderr.isatty() else "lines"


def _shown(word: str, where: str, known: tuple[str, ...]) -> str:
    if word not in known:
        raise ConfigurationError(f"{where}={word[:80]}: unknown kind of progress{nearest(word, known)}")
    return word


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel."""
    return "ipykernel.kernelapp" in sys.modules


class Progress:
    """Shows steps as they are done, and one line an epoch."""

    def __init__(self, progress: str, experiment: Optimisation):
        self.kind = kind(progress)
        self.name, self.epochs = experiment.label, experiment.epochs
        self.total = experiment.steps
        self.begun: tuple[int, float] | None = None
        self.bar: Any = None
        self.curve: Any = None

    def continued(self, done: int) -> None:
        """Before the first step: from which one an interrupted run goes on."""
        if done and self.kind != "none":
            say(f"{self.name}: continues from step {done} of {self.total}")

    def stopped(self, done: int, interruption: Interruption) -> BaseException:
        """After the checkpoint that a signal asked for: what is to be raised."""
        if self.bar is not None:
            self.bar.close()
        where = f"topped at step {done} of {self.total}, saved"
        if in_notebook() and interruption.signal == signal.SIGINT:
            return Stopped(f"S{where}. Run the cell again to continue.")
        if self.kind != "none":
            say(f"{self.name}: s{where}; the same command or call continues it")
        return SystemExit(interruption.exit_code or 143)

    def step(self, done: int, seconds: float) -> None:
        """After a step: `done` of all steps, `seconds` of training so far."""
        self.begun = self.begun or (done - 1, seconds)
        self.left = (seconds - self.begun[1]) / max(1, done - self.begun[0] - 1) * (self.total - done)
        if self.kind != "bar":
            return
        if self.bar is None:
            from tqdm.auto import tqdm

            self.bar = tqdm(total=self.total, initial=done - 1, desc=self.name, unit="step", mininterval=0.5)
        self.bar.update(1)

    def epoch(self, history: list[dict]) -> None:
        """After an epoch's scoring: all rows of the history so far."""
        row = history[-1]
        tasks = in_order(name.removeprefix("draws_") for name in row if name.startswith("draws_"))
        scores = {name: row[name] for name in (*tasks, "mean", "dev_loss") if name in row}
        if self.bar is not None:
            self.bar.set_postfix({name: f"{value:.3f}" for name, value in scores.items()})
            if in_notebook():
                self._draw(history, list(scores))
        if self.kind == "lines":
            shown = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
            say(
                f"{self.name}: epoch {row['epoch']}/{self.epochs}  loss {row['train_loss']:.4f}  {shown}  "
                f"{row['seconds']:.0f} s, {duration(self.left)} left"
            )

    def _draw(self, history: list[dict], names: list[str]) -> None:
        """The curve of the scores so far, in the place of the one drawn before.

        As a picture: a figure is only text to a kernel in which nothing was plotted yet.
        """
        from IPython.display import Image, display
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5, 2.2), layout="constrained")
        axes = figure.add_subplot(xlabel="epoch", ylabel="dev", title=self.name, xlim=(0.8, self.epochs + 0.2))
        for name in names:
            values = [row.get(name, math.nan) for row in history]
            axes.plot([row["epoch"] for row in history], values, marker="o", label=name)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        figure.savefig(buffer := io.BytesIO(), format="png")
        picture = Image(buffer.getvalue())
        if self.curve is None:
            self.curve = display(picture, display_id=True)
        else:
            self.curve.update(picture)

    def end(self, scores: dict[str, float], seconds: float) -> None:
        """After the run, with the stored model's scores."""
        if self.bar is not None:
            self.bar.close()
        if self.kind == "lines":
            shown = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
            say(f"{self.name}: done in {duration(seconds)}, {shown}")


def say(line: str) -> None:
    """Print a line; a stdout that is closed, or on a full disk, ends no training."""
    with suppress(OSError, ValueError):
        print(line, flush=True)


def duration(seconds: float) -> str:
    """Seconds as "42 s", "3 min" or "2.1 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


TRACKER = "MTLIB_TRACKER"
"""Environment variable that names the tracker; unset is none."""

KINDS = ("tensorboard", "trackio", "wandb")
"""Trackers that there are; TensorBoard's event files lie in the run's folder, in `tensorboard`."""

_open: dict[str, Any] = {}
"""The tracker of each run that trains in this process, by the run's id; None where it failed."""


def tracker_asked_for() -> str | None:
    """The tracker that the environment names; raises ConfigurationError for an unknown name."""
    name = os.environ.get(TRACKER) or None
    if name is not None and name not in KINDS:
        raise ConfigurationError(f"{TRACKER}={name[:80]}: unknown tracker{nearest(name, KINDS)}")
    return name


def log_epoch(run: Run, row: dict[str, float]) -> None:
    """Hand one row of the history to the tracker that is asked for, if any; close it after the last epoch.

    A tracker that fails is reported once for a run and left alone: training goes on.
    """
    if (name := tracker_asked_for()) is None:
        return
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
