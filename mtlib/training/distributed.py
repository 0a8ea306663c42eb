"""The processes of one run under `accelerate launch`: each computes its share of every batch, the first one writes.

Gradients are summed with the shares' sizes as weights, so a step is the single process's step on the whole batch, to
float rounding, however unevenly the batch divides. Every process holds the same model; what is sent are tensors, and
records as JSON text: nothing is unpickled.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import torch
from torch import distributed

from mtlib.data.batches import Batch, TokenizedSplit
from mtlib.device import join
from mtlib.errors import CheckpointError, StorageError
from mtlib.model import MultitaskModel
from mtlib.objectives.penalty import Share
from mtlib.prediction import predictions
from mtlib.training.runs import Run


class Ranks:
    """This process among those of its run; alone, it changes nothing. Every method is called by all, in one order.

    Raises StorageError where another process has ended or does not answer in time.
    """

    def __init__(self) -> None:
        self.device = join()
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

    def share(self, batch: Batch) -> tuple[Batch, Share]:
        """This process's examples of a batch, as wide as the batch, and which they are; of none, one without weight."""
        if self.size == 1:
            return batch, Share()
        rows = np.arange(len(batch.rows))[self.rank :: self.size]
        weight, rows = len(rows) / len(batch.rows), rows if len(rows) else np.arange(1)
        inputs = {name: tensor[rows] for name, tensor in batch.inputs.items()}
        labels = None if batch.labels is None else batch.labels[rows]
        share = Share(torch.from_numpy(rows), len(batch.rows), weight, self.reduce)
        return Batch(batch.task, inputs, labels, batch.rows[rows]), share

    def reduce(self, value: torch.Tensor, how: Literal["sum", "max"]) -> torch.Tensor:
        """Sum, or largest entry, of a tensor over the processes."""
        reduced = value.detach().clone()
        with self._answered():
            distributed.all_reduce(reduced, distributed.ReduceOp.SUM if how == "sum" else distributed.ReduceOp.MAX)
        return reduced

    def mean(self, weight: float, values: Mapping[str, float]) -> dict[str, float]:
        """Means of the recorded values over the whole batch; of a value that only some shares recorded, over those."""
        if self.size == 1:
            return dict(values)
        shares = [(part, recorded) for part, recorded in self.gathered((weight, dict(values))) if part]
        means = {}
        for name in dict.fromkeys(name for _, recorded in shares for name in recorded):
            parts = [(part, recorded[name]) for part, recorded in shares if name in recorded]
            means[name] = sum(part * value for part, value in parts) / sum(part for part, _ in parts)
        return means

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

    def sum_rows(self, rows: torch.Tensor) -> None:
        """Replace a tensor by its sum over the processes."""
        if self.size > 1:
            with self._answered():
                distributed.all_reduce(rows)

    def predictions(self, model: MultitaskModel, split: TokenizedSplit) -> pd.DataFrame:
        """Predictions of a whole split, in its order, each process computing a part.

        Parts have equal length, the first examples filling up; every id counts once.
        """
        if self.size == 1:
            return predictions(model, split)
        rows = np.arange(self.rank, -(-len(split) // self.size) * self.size, self.size) % len(split)
        own = predictions(model, split.part(rows.tolist()))
        parts = self.gathered((rows.tolist(), own.to_dict("list")))
        frame = pd.concat([pd.DataFrame(columns, index=rows).astype(own.dtypes) for rows, columns in parts])
        return frame[~frame.index.duplicated()].sort_index()

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process."""
        return flag if self.size == 1 else any(self.gathered(flag))

    def agree(self, what: str, value: Any) -> None:
        """Raise CheckpointError, in every process, unless `value` is the same in all."""
        values = self.gathered(value) if self.size > 1 else []
        if any(other != values[0] for other in values):
            listed = "; ".join(f"process {rank} has {value}" for rank, value in enumerate(values))
            raise CheckpointError(f"{what}: expected the same in every process, found {listed}")

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Run the block in the first process before the others."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def wait(self) -> None:
        """Block until every process has reached this call."""
        if self.size > 1:
            self.gathered(None)

    def gathered(self, value: Any) -> list:
        """The value of every process, by rank; it is what JSON can hold, and tuples come back as lists."""
        own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(self.device)
        lengths = self._gathered(torch.tensor([len(own)], device=self.device))
        longest = max(int(length) for length in lengths)
        texts = self._gathered(torch.nn.functional.pad(own, (0, longest - len(own))))
        return [json.loads(bytes(text[: int(n)].tolist())) for text, n in zip(texts, lengths, strict=True)]

    def _gathered(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        tensors = [torch.empty_like(tensor) for _ in range(self.size)]
        with self._answered():
            distributed.all_gather(tensors, tensor)
        return tensors

    @contextmanager
    def _answered(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = (str(error).splitlines() or [""])[0]
            raise StorageError(f"another process of this run ended or did not answer in time: {reason}") from error


class Reader(Run):
    """A run that another process writes: methods that would change it do nothing."""

    def _nothing(self, *_: Any, **__: Any) -> None:
        pass

    write_json = write_frame = write_model = set_status = set_complete = forget_checkpoints = sweep = cast(
        Any, _nothing
    )
