"""The conflict log: inner products of the tasks' gradients by layer at chosen steps, in the run's conflicts.csv."""

from collections.abc import Hashable, Mapping, Sequence

import pandas as pd
import torch

from mtlib.errors import CheckpointError
from mtlib.training.runs import Run

NAME = "conflicts.csv"
WHOLE = "all"
"""The layer that stands for all shared parameters."""

COLUMNS: dict[Hashable, type] = {"step": int, "layer": str, "a": str, "b": str, "product": float}


class ConflictLog:
    """Rows of conflicts.csv: step (from 1), layer, two tasks, the inner product of their gradients.

    A task's gradient is that of p_i L_i, penalties included, on the parameters that the tasks share. Logged are the
    first step and every `every`-th from there. The file is written before each checkpoint and at each epoch's end; on
    resume, what lies behind the checkpoint is taken out and comes again.
    """

    def __init__(self, every: int, tasks: Sequence[str]):
        self.every, self.tasks = every, tuple(tasks)
        self.rows: list[dict] = []

    def due(self, number: int) -> bool:
        """Whether optimizer step `number` (from 0) is logged."""
        return number % self.every == 0

    def add(self, number: int, gramians: Mapping[str, torch.Tensor]) -> None:
        """Log a step's Gram matrices by layer, [tasks, tasks] each, and their sum."""
        whole = torch.stack(list(gramians.values())).sum(0)
        for layer, products in {**gramians, WHOLE: whole}.items():
            for i, a in enumerate(self.tasks):
                for j, b in enumerate(self.tasks[i:], i):
                    product = products[i, j].item()
                    self.rows.append({"step": number + 1, "layer": layer, "a": a, "b": b, "product": product})

    def write(self, run: Run) -> None:
        """Write the file, where there is something to write."""
        if self.rows:
            run.write_frame(NAME, pd.DataFrame(self.rows))

    def restore(self, run: Run, done: int) -> None:
        """The rows as they were after `done` steps; raises CheckpointError where the file lacks one of them."""
        if not done:
            return
        frame = read(run)
        self.rows = frame[frame["step"] <= done].to_dict("records")
        steps = list(dict.fromkeys(row["step"] for row in self.rows))
        if steps != list(range(1, done + 1, self.every)):
            raise CheckpointError(
                f"{run.path / NAME}: expected every {self.every}th step from 1 to {done}, found {len(steps)} steps"
            )
        places = [(row["layer"], row["a"], row["b"]) for row in self.rows]
        of_step = places[: len(places) // len(steps)]
        if places != of_step * len(steps) or of_step[-1] != (WHOLE, self.tasks[-1], self.tasks[-1]):
            raise CheckpointError(f"{run.path / NAME}: expected the same layers and tasks at every step")
        self.write(run)


def read(run: Run) -> pd.DataFrame:
    """A run's conflict log, to the bit; raises CheckpointError where it has none or a damaged one."""
    frame = run.read_frame(NAME, dtype=COLUMNS)
    if list(frame) != list(COLUMNS):
        raise CheckpointError(f"{run.path / NAME}: expected the columns {', '.join(COLUMNS)}, found {', '.join(frame)}")
    return frame
