"""A run taken up again by its folder, with the settings that it stored."""

from pathlib import Path

from mtlib.config import Pretraining
from mtlib.data.corpus import Corpus, load_corpus
from mtlib.errors import CheckpointError, ConfigurationError
from mtlib.training.loop import fit
from mtlib.training.pretraining import pretrain
from mtlib.training.runs import Run
from mtlib.training.start import find


def resume(run: Run, source: str | Path | None = None, **options) -> Run:
    """Continue `run` from its newest checkpoint, or return it if it is finished.

    source: where its corpus is, needed only for a folder. options: those of `fit`.
    Raises CheckpointError where corpus or start weights are not those the run began with, ConfigurationError without a
    needed source, and what `fit` raises.
    """
    experiment, results = run.experiment, run.path.parent.parent
    corpus = _corpus(run, source)
    if find(experiment, corpus, results).path.resolve() != run.path.resolve():
        raise CheckpointError(f"{run.path}: its start weights changed since it began, or its folder was renamed")
    return (pretrain if isinstance(experiment, Pretraining) else fit)(experiment, corpus, results, **options)


def _corpus(run: Run, source: str | Path | None) -> Corpus:
    about = run.read("config.json")["corpus"]
    if source is None and about["kind"] == "own":
        raise ConfigurationError(f"{run.path}: trained on a folder called {about['name']!r}: expected --corpus with it")
    corpus = load_corpus(source or about["kind"], about.get("tasks"))
    if corpus.fingerprint != about["fingerprint"]:
        raise CheckpointError(
            f"{run.path}: the corpus changed since the run began: expected SHA-256 {about['fingerprint']}, "
            f"found {corpus.fingerprint} in {corpus.name}"
        )
    return corpus
