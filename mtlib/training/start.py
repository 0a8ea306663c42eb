"""The weights a run starts from, and so which run it is."""

from pathlib import Path

from mtlib.config import NAMING, Optimisation
from mtlib.encoders import find_encoder
from mtlib.errors import CheckpointError
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
        """The experiment's run on `corpus`, finished, begun or new.

        Raises CheckpointError, showing the difference, where its config.json was edited after it began.
        """
        about = self.described(corpus)
        run = self.store.open(self.experiment.name, about["identity"])
        if (run.path / "config.json").is_file():
            _expect_same(run, about)
        return run

    def described(self, corpus) -> dict:
        """What config.json holds of the run on `corpus`: its identity, start weights, corpus and experiment."""
        return {
            "identity": self.experiment.identity(corpus.fingerprint, self.fingerprint),
            "weights": self.fingerprint,
            "corpus": {
                "name": corpus.name,
                "kind": corpus.kind,
                "title": corpus.title,
                "tasks": list(corpus),
                "fingerprint": corpus.fingerprint,
            },
            "experiment": self.experiment.model_dump(mode="json"),
        }

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


def _expect_same(run: Run, about: dict) -> None:
    before = run.read("config.json")
    expected, found = ({**config.get("experiment", {}), "weights": config.get("weights")} for config in (about, before))
    keys = [key for key in {**expected, **found} if key not in NAMING and expected.get(key) != found.get(key)]
    if keys:
        listed = "; ".join(f"{key}: expected {expected.get(key)!r}, found {found.get(key)!r}" for key in keys)
        raise CheckpointError(
            f"{run.path / 'config.json'}: edited after the run began: {listed}. Undo the edit, or move the folder away"
        )


def find(experiment: Optimisation, corpus, results: Path | str = "results") -> Run:
    """The run of `experiment` (or of a pretraining) on `corpus`, trained or not: its status says. Trains nothing."""
    return Start(experiment, RunStore(results)).run_on(corpus)
