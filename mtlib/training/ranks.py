"""The processes of one run under `accelerate launch`: each computes its share of every batch, the first one writes.

Gradients are summed with the shares' sizes as weights, so a step is the single process's step on the whole batch, to
float rounding, however unevenly the batch divides. Every process holds the same model; nothing is sent but gradients
and records.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from torch import distributed

from mtlib.data.batches import Batch, TokenizedSplit
from mtlib.errors import CheckpointError, StorageError
from mtlib.model import MultitaskModel, predictions
from mtlib.training.runs import Run

PATIENCE = "MTLIB_RANK_TIMEOUT"
"""Environment variable: seconds that a process waits for the others before the run ends (600)."""


def join() -> torch.device:
    """The device of this process, joined to the others of its launch if there are any."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return PartialState().device
    patience = timedelta(seconds=float(os.environ.get(PATIENCE, "600")))
    return PartialState(cpu=not torch.cuda.is_available(), timeout=patience).device


class Ranks:
    """This process among those of its run; alone, it changes nothing. Every method is called by all, in one order.

    Raises StorageError where another process has ended or does not answer in time.
    """

    def __init__(self):
        join()
        together = distributed.is_available() and distributed.is_initialized()
        self.size = distributed.get_world_size() if together else 1
        self.rank = distributed.get_rank() if together else 0

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def run(self, run: Run) -> Run:
        """The run as this process may use it: the first writes it, the others read it."""
        return run if self.first else Reader(run.path)

    def share(self, batch: Batch) -> tuple[Batch, float]:
        """This process's examples of a batch, and their part of it; of none, one example that counts nothing."""
        if self.size == 1:
            return batch, 1.0
        rows = np.arange(len(batch.rows))[self.rank :: self.size]
        weight, rows = len(rows) / len(batch.rows), rows if len(rows) else np.arange(1)
        inputs = {name: tensor[rows] for name, tensor in batch.inputs.items()}
        labels = None if batch.labels is None else batch.labels[rows]
        return Batch(batch.task, inputs, labels, batch.rows[rows]), weight

    def mean(self, weight: float, values: Mapping[str, float]) -> dict[str, float]:
        """Means over the whole batch of what the shares recorded."""
        if self.size == 1:
            return dict(values)
        shares = [(part, found) for part, found in self.gathered((weight, dict(values))) if part]
        return {name: sum(part * found[name] for part, found in shares) for name in shares[0][1]}

    def sum_gradients(self, model: torch.nn.Module) -> None:
        """Replace every gradient by its sum over the processes."""
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        if self.size == 1 or not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        with self._answered():
            distributed.all_reduce(flat)
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, summed in zip(gradients, flat.split(sizes), strict=True):
            gradient.copy_(summed.view_as(gradient))

    def predictions(self, model: MultitaskModel, split: TokenizedSplit) -> pd.DataFrame:
        """Predictions of a whole split, in its order, each process computing a part.

        Parts have equal length, the first examples filling up; every id counts once.
        """
        if self.size == 1:
            return predictions(model, split)
        rows = np.arange(self.rank, -(-len(split) // self.size) * self.size, self.size) % len(split)
        parts = self.gathered((rows, predictions(model, split.part(rows))))
        frame = pd.concat([frame.set_axis(rows) for rows, frame in parts])
        return frame[~frame.index.duplicated()].sort_index()

    def any(self, flag: bool) -> bool:
        """Whether `flag` holds in any process."""
        return flag if self.size == 1 else any(self.gathered(flag))

    def agree(self, what: str, value: Any) -> None:
        """Raise CheckpointError, in every process, unless `value` is the same in all."""
        if self.size > 1 and len(set(found := self.gathered(value))) > 1:
            listed = "; ".join(f"process {rank} has {value}" for rank, value in enumerate(found))
            raise CheckpointError(f"{what}: expected the same in every process, found {listed}")

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first process does the block before the others do."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.size > 1:
            self.gathered(None)

    def gathered(self, value: Any) -> list:
        """The value of every process, by rank."""
        values = [None] * self.size
        with self._answered():
            distributed.all_gather_object(values, value)
        return values

    @contextmanager
    def _answered(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = (str(error).splitlines() or [""])[0]
            raise StorageError(f"another process of this run ended or did not answer in time: {reason}") from error


class Reader(Run):
    """A run that another process writes: what would change it does nothing."""

    def _nothing(self, *_, **__) -> None:
        pass

    write_json = write_frame = write_model = set_status = set_complete = forget_checkpoints = sweep = _nothing
    model_files = _nothing
