"""Pretraining the encoder by multiple negatives ranking, as a run that later runs start from."""

import numpy as np
import torch

from mtlib.data.batches import Batch, TokenizedSplit
from mtlib.errors import ConfigurationError
from mtlib.objectives.ranking import class_distinct_batch, multiple_negatives_ranking_loss
from mtlib.randomness import seeded
from mtlib.training.loop import Training

DEV_BATCHES = 40


class Ranking(Training):
    """The state of one pretraining run while it trains.

    The run stores the last epoch's model, its head untouched. Its history has the training loss and the ranking loss
    on fixed dev batches. Raises ConfigurationError where there is nothing to rank.
    """

    def _build(self) -> None:
        e = self.experiment
        if self.ranks.size > 1:
            raise ConfigurationError(
                f"pretraining compares all pairs of a batch: expected one process, found {self.ranks.size}"
            )
        self.split = {"train": self.data.train[e.task], "dev": self.data.dev[e.task]}
        self.texts = {name: getattr(self.corpus[e.task], name)["text_a"].tolist() for name in self.split}
        self._rows("train", e.seed, 0)
        self._rows("dev", 0, 0)
        self.model.train()

    def _rows(self, split: str, seed: int, number: int) -> np.ndarray:
        """Rows of a batch's pairs, [2 batch]: all a, then all b."""
        data: TokenizedSplit = self.split[split]
        return np.concatenate(
            class_distinct_batch(data.labels, seed, number, self.experiment.batch_size, self.texts[split])
        )

    def _batch(self, number: int) -> Batch:
        return self.split["train"].batch(self._rows("train", self.experiment.seed, number))

    def _objective(self, batch: Batch, number: int) -> tuple[torch.Tensor, dict[str, float]]:
        with seeded(self.experiment.seed, "dropout", number):
            return self._loss(batch), {}

    def _loss(self, batch: Batch) -> torch.Tensor:
        e, pairs = self.experiment, len(batch.rows) // 2
        vectors = self.model.encode(batch.inputs)
        return multiple_negatives_ranking_loss(
            vectors[:pairs], vectors[pairs:], e.scale, batch.labels[:pairs], e.false_negatives
        )

    def _score(self) -> tuple[dict[str, float], float]:
        """Ranking loss on dev; the last epoch is the one that is stored."""
        self.model.eval()
        with torch.inference_mode():
            batches = (self.split["dev"].batch(self._rows("dev", 0, number)) for number in range(DEV_BATCHES))
            losses = [self._loss(batch.to(self.device.device)).item() for batch in batches]
        self.model.train()
        return {"dev_loss": float(np.mean(losses))}, float(self.done)

    def finish(self) -> None:
        """Call the run complete; there are no predictions, for the heads are as they were drawn."""
        scores = {"dev_loss": self.history[-1]["dev_loss"]}
        about = {"epoch": self.best["epoch"], "chosen": scores, "last": scores, "seconds": self.seconds}
        self.run.write_json("scores.json", about)
        self.run.set_complete(self.done, self.best["seal"])
        self.progress.end(scores, self.seconds)
