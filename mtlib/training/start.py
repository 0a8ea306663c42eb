"""The weights a run starts from, and so which run it is."""

from pathlib import Path

from mtlib.config import Optimisation
from mtlib.encoders import find_encoder
from mtlib.model import MultitaskModel
from mtlib.tasks import TASKS
from mtlib.training.runs import Run, RunStore


class Start:
    """The weights a run starts from: an encoder as it is found, or a finished run's."""

    def __init__(self, experiment: Optimisation, store: RunStore):
        self.experiment, self.store = experiment, store
        self.run = store.get(experiment.start_from) if experiment.start_from else None
        if self.run:
            self.fingerprint = self.run.identity
        else:
            self.encoder = find_encoder(experiment.encoder, experiment.encoder_revision, experiment.seed)
            self.fingerprint = self.encoder.fingerprint

    def run_on(self, corpus) -> Run:
        """The experiment's run on `corpus`, finished, begun or new."""
        return self.store.open(self.experiment.name, self.experiment.identity(corpus.fingerprint, self.fingerprint))

    def model(self) -> MultitaskModel:
        """A new model; heads of tasks that the starting run has are its heads, others are drawn from the seed."""
        stored = self.run.model() if self.run else None
        encoder, tokenizer = (stored.encoder, stored.tokenizer) if stored else self.encoder.load()
        model = MultitaskModel(
            encoder,
            tokenizer,
            [TASKS[name] for name in self.experiment.task_names],
            pooling=self.experiment.pooling,
            head_dropout=self.experiment.head_dropout,
            max_tokens=self.experiment.max_tokens,
            seed=self.experiment.seed,
        )
        for task in stored.tasks if stored else ():
            if task in model.tasks:
                model.heads[task.name].load_state_dict(stored.heads[task.name].state_dict())
        return model


def find(experiment: Optimisation, corpus, results: Path | str = "results") -> Run:
    """The run of `experiment` (or of a pretraining) on `corpus`, trained or not: its status says. Trains nothing."""
    return Start(experiment, RunStore(results)).run_on(corpus)
