"""Progress of a run: a bar in a terminal and in Jupyter, plain lines with an ETA in logs and under papermill."""

import os
import sys

from mtlib.experiments import Optimisation

PLAIN = "MTLIB_PROGRESS"
"""Environment variable that sets the kind of progress where `auto` is asked: "bar", "lines" or "none"."""


def kind(progress: str) -> str:
    """ "bar", "lines" or "none": "auto" is a bar where somebody watches, else lines."""
    if progress != "auto":
        return progress
    if chosen := os.environ.get(PLAIN):
        return chosen
    in_notebook = "ipykernel" in sys.modules
    return "bar" if in_notebook or sys.stderr.isatty() else "lines"


class Progress:
    """Shows steps as they are done, and one line an epoch."""

    def __init__(self, progress: str, experiment: Optimisation):
        self.kind = kind(progress)
        self.name, self.epochs = experiment.label, experiment.epochs
        self.total = experiment.steps
        self.begun: tuple[int, float] | None = None
        self.bar = None

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

    def epoch(self, row: dict) -> None:
        """After an epoch's scoring: its row of the history."""
        tasks = [name.removeprefix("draws_") for name in row if name.startswith("draws_")]
        scores = {name: row[name] for name in (*tasks, "mean", "dev_loss") if name in row}
        if self.bar is not None:
            self.bar.set_postfix({name: f"{value:.3f}" for name, value in scores.items()})
        if self.kind == "lines":
            shown = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
            print(
                f"{self.name}: epoch {row['epoch']}/{self.epochs}  loss {row['train_loss']:.4f}  {shown}  "
                f"{row['seconds']:.0f} s, {duration(self.left)} left",
                flush=True,
            )

    def end(self, scores: dict[str, float], seconds: float) -> None:
        """After the run, with the stored model's scores."""
        if self.bar is not None:
            self.bar.close()
        if self.kind == "lines":
            shown = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
            print(f"{self.name}: done in {duration(seconds)}, {shown}", flush=True)


def duration(seconds: float) -> str:
    """Seconds as "42 s", "3 min" or "2.1 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
