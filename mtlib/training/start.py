"""The weights a run starts from, which are part of its identity, and when a continued run is bit-identical."""

from dataclasses import asdict
from pathlib import Path

import torch
from filelock import FileLock

from mtlib.checking import shortened
from mtlib.data.corpus import Corpus
from mtlib.data.phrases import with_phrases
from mtlib.device import Device, Precision
from mtlib.encoders import find_encoder
from mtlib.errors import CheckpointError, MissingRunError
from mtlib.experiments import FORMAT, NAMING, Optimisation
from mtlib.identity import said, sha256
from mtlib.model import MultitaskModel
from mtlib.storage import stored_seal
from mtlib.tasks import TASKS, learn
from mtlib.training.files import make_folder, storage
from mtlib.training.runs import Run, RunStore

SCOPE = ("torch", "transformers", "tokenizers", "numpy", "device", "precision", "fast", "threads", "world_size")
"""Entries of environment.json that have to be the same for a run to continue bit by bit."""

NO_EPOCH = {"epoch": 0, "quality": float("-inf")}
"""The best epoch where none is stored."""


class Start:
    """The weights that `experiment` starts from on `corpus`: an encoder as it is found, or another run's.

    Of the corpus it sees only the tasks that it and its ancestors train on: a run is the same whatever lies beside
    them. Phrases belong to it where the experiment draws them. The other run is that of `experiment.start_from` on the
    same corpus; it need not be finished before `model` is called. given: the whole corpus, for those that it needs.
    The tasks are the corpus's own, known from then on (`learn`). Raises DataError for a corpus without one of them,
    ConfigurationError where code registered another task under a name of theirs.
    """

    def __init__(self, experiment: Optimisation, corpus: Corpus, store: RunStore) -> None:
        self.experiment, self.given, self.store = experiment, corpus, store
        trained = [name for each in (experiment, *experiment.ancestors()) for name in each.task_names]
        self.plain = corpus.only(list(dict.fromkeys(trained)))
        for task in self.plain.tasks:
            learn(task)
        self.corpus = with_phrases(self.plain) if getattr(experiment, "phrases", 0) else self.plain
        self.parent: Start | None = None
        if experiment.start_from is not None:
            self.parent = Start(experiment.start_from, corpus, store)
            self.fingerprint = self.parent.identity
        else:
            self.encoder = find_encoder(experiment.encoder, experiment.encoder_revision, experiment.seed)
            self.fingerprint = self.encoder.fingerprint
        self.teachers = [Start(teacher, corpus, store) for teacher in getattr(experiment, "teachers", ())]
        if self.teachers:
            self.fingerprint = sha256([self.fingerprint, *(teacher.identity for teacher in self.teachers)])

    @property
    def identity(self) -> str:
        """SHA-256 of what is trained."""
        return self.experiment.identity(self.corpus.fingerprint, self.fingerprint)

    def run(self) -> Run:
        """The experiment's run, finished, begun or new.

        Raises CheckpointError, showing the difference, where its config.json was edited after it began.
        """
        run = self.store.open(self.experiment.label, self.identity)
        if (run.path / "config.json").is_file():
            _expect_same(run, self.experiment, self.fingerprint)
        return run

    def begin(self) -> Run:
        """The experiment's run with its folder made: processes that begin it at once, under two names, get the same."""
        with storage("create", self.store.folder):
            make_folder(self.store.folder)
            with FileLock(self.store.folder / ".lock"):
                self.store.sweep()
                run = self.run()
                make_folder(run.path)
        return run

    def described(self) -> dict:
        """What config.json holds of the run: format, identity, start weights, corpus, tasks and experiment."""
        corpus = self.corpus
        return {
            "format": FORMAT,
            "identity": self.identity,
            "weights": self.fingerprint,
            "corpus": {
                "name": corpus.name,
                "kind": corpus.kind,
                "source": corpus.source,
                "title": corpus.title,
                "tasks": list(corpus),
                "fingerprint": self.plain.fingerprint,
            },
            "tasks": [asdict(task) for task in corpus.tasks],
            "experiment": self.experiment.model_dump(mode="json"),
        }

    def model(self) -> MultitaskModel:
        """A new model; heads of tasks that the starting run has are its heads, others are drawn from the seed.

        Raises MissingRunError where the run that it starts from is not finished.
        """
        stored = self._parent_model() if self.parent is not None else None
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
            if stored and task.name in model.heads:
                model.heads[task.name].load_state_dict(stored.heads[task.name].state_dict())
        return model

    def _parent_model(self) -> MultitaskModel:
        assert self.parent is not None, "called for a run that starts from another"
        run = self.parent.run()
        if not run.complete:
            raise MissingRunError(f"{run.path}: expected a finished run to start from, found status {run.status!r}")
        return run.model()


def find(experiment: Optimisation, corpus: Corpus, results: Path | str = "results") -> Run:
    """The run of `experiment` (or of a pretraining) on `corpus`, finished or not (see its status). Trains nothing."""
    return Start(experiment, corpus, RunStore(results)).run()


def recorded(run: Run, here: dict[str, object], inexact: bool) -> dict[str, object]:
    """What environment.json records of a run in the environment `here`: begun in it, or `continued`.

    It is asked before anything of the run is touched, so that one that may not continue stays as it is to the byte.
    """
    begun = (run.path / "config.json").is_file() and not run.checkpoints.empty
    return continued(run, here, inexact) if begun else here


def continued(run: Run, here: dict[str, object], inexact: bool) -> dict[str, object]:
    """What environment.json records of a run that continues in the environment `here`.

    Raises CheckpointError with the differences where its bits cannot be promised, unless `inexact`.
    """
    before = run.read("environment.json")
    already = before.get("inexact", [])
    if not isinstance(already, list):
        raise CheckpointError(f"{run.path / 'environment.json'}: inexact: expected a list, found {shortened(already)}")
    changed = {key: [before.get(key), here[key]] for key in SCOPE if before.get(key) != here[key]}
    if changed and not inexact:
        listed = "; ".join(f"{key} was {old}, is {new}" for key, (old, new) in changed.items())
        raise CheckpointError(
            f"{run.path}: continuing would not give the bits of an uninterrupted run: {listed}. "
            "Restore these, or continue with allow_inexact (--allow-inexact)"
        )
    return {**here, "inexact": [*already, *([changed] if changed else [])]}


def still_stored(run: Run, best: dict) -> dict:
    """The best epoch that a checkpoint knows, if its model is there, else none.

    A killed process may have stored a later one's after the checkpoint; continued inexactly, that epoch may be no best.
    """
    try:
        return best if stored_seal(run.path / "model") == best.get("seal") else NO_EPOCH
    except CheckpointError:
        return NO_EPOCH


def elsewhere(run: Run, precision: Precision) -> str:
    """How a finished run was computed, where that is not how this process would; else nothing.

    Threads, precision and device are no part of what identifies a run, though they move its scores a little: so that
    runs can be read on another machine than the one that trained them.
    """
    device = Device(precision)
    here = {"device": device.device.type, "precision": device.precision, "threads": torch.get_num_threads()}
    there = run.read("environment.json")
    return ", ".join(f"{key} {there.get(key)} (here {value})" for key, value in here.items() if there.get(key) != value)


def _expect_same(run: Run, experiment: Optimisation, weights: str) -> None:
    """Raises CheckpointError where the run's config.json says something else than what identifies it."""
    both = [(experiment, weights), (run.experiment, run.read("config.json").get("weights"))]
    mine, theirs = ({**said(each, NAMING), "weights": start} for each, start in both)
    if keys := [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]:
        expected, found = ({**each.model_dump(mode="json"), "weights": start} for each, start in both)
        listed = "; ".join(f"{key}: expected {expected.get(key)!r}, found {found.get(key)!r}" for key in keys)
        raise CheckpointError(
            f"{run.path / 'config.json'}: edited after the run began: {listed}. Undo the edit, or move the folder away"
        )
