"""`fit` trains an experiment or a pretraining, or loads the finished identical run; `resume` continues one."""

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from mtlib.data.corpus import Corpus, load_corpus
from mtlib.errors import CheckpointError, ConfigurationError, StorageError
from mtlib.experiments import Optimisation, Pretraining
from mtlib.training.bundles import has_weights
from mtlib.training.distributed import Ranks
from mtlib.training.loop import Training
from mtlib.training.pretraining import Ranking
from mtlib.training.progress import in_notebook, kind, say, tracker_asked_for
from mtlib.training.runs import CARD, Run, RunStore
from mtlib.training.signals import Interruption, Stopped
from mtlib.training.start import Start, elsewhere
from mtlib.training.trainable import require_trainable


def fit(
    experiment: Optimisation,
    corpus: Corpus,
    results: Path | str | RunStore = "results",
    *,
    progress: str = "auto",
    minutes: float = 10.0,
    allow_inexact: bool = False,
) -> Run:
    """Train `experiment` on `corpus` and return its run, with a model card; a finished identical run is returned as is.

    The run it starts from and its teachers are trained first if they are not finished. An interrupted identical run
    continues from its newest checkpoint, to the bits it would have had.
    progress: "auto", "bar", "lines" or "none". minutes: a checkpoint at least this often, beside those at
    the ends of epochs (of short epochs some are left out, so that saving stays under 2 % of the time).
    The bits are promised for the same versions, kind of device, precision and number of threads; elsewhere continuing
    raises CheckpointError with the difference, unless `allow_inexact`, which the run records. Processes of one launch
    that would not train the same thing on the same corpus all raise CheckpointError.
    Raises ConfigurationError for an unknown tracker, DataError for a corpus that cannot be trained on
    (`require_trainable`), DivergenceError for a loss, gradient or weight that is not finite, LockedError while another
    process trains the same run, and SystemExit(143 or 130) after SIGTERM or SIGINT, once the step is finished and
    saved; in a notebook, an interrupt ends the cell with a line that says at which step.
    """
    tracker_asked_for()
    require_trainable(corpus, experiment.task_names, getattr(experiment, "dev_limit", None))
    store = results if isinstance(results, RunStore) else RunStore(results)
    start = Start(experiment, corpus, store)
    run = start.run()
    if run.complete:
        run.forget_checkpoints()
        with suppress(StorageError):  # of a folder that may only be read
            _write_card(run)
        if kind(progress) != "none" and (difference := elsewhere(run, experiment.precision)):
            say(f"{run.id}: loaded, computed with {difference}")
        return run
    options: dict[str, Any] = {"progress": progress, "minutes": minutes, "allow_inexact": allow_inexact}
    for parent in experiment.parents:
        fit(parent, corpus, store, **options)
    training = Ranking if isinstance(experiment, Pretraining) else Training
    ranks = Ranks()
    ranks.agree(f"{experiment.label}: SHA-256 of what is trained", start.identity)
    run = start.begin() if ranks.first else run
    with run.lock() if ranks.first else nullcontext():
        if not ranks.any(run.complete):
            _guarded(training(start, run, progress, minutes, allow_inexact, ranks))
            if ranks.first:
                _write_card(run)
        ranks.wait()
    return run


def resume(run: Run, source: str | Path | None = None, **options: Any) -> Run:
    """Continue `run` from its newest checkpoint, with the settings it stored, or return it if it is finished.

    source: where its corpus is, if it has moved. options: those of `fit`.
    Raises CheckpointError where corpus or start weights are not those the run began with and for a copy of a run,
    ConfigurationError without a needed source, and what `fit` raises.
    """
    start = start_of(run, source)
    if (place := start.run().path).resolve() != run.path.resolve():
        raise CheckpointError(f"{run.path}: its folder was renamed or copied: expected it at {place}")
    return fit(start.experiment, start.given, run.store, **options)


def start_of(run: Run, source: str | Path | Corpus | None = None) -> Start:
    """What `run` started from, on the corpus it was trained on, which `source` is, or says if it has moved.

    Of the corpus are read the run's tasks and those of the runs that it needs: a teacher may have more.
    Raises CheckpointError where corpus or start weights are not those the run began with, ConfigurationError without a
    needed source, DataError for a corpus that lacks a task.
    """
    own = run.corpus.get("tasks")
    needed = [name for each in run.experiment.needs() for name in each.task_names]
    corpus = corpus_of(run, source, own and list(dict.fromkeys([*own, *needed])))
    found = corpus.only(own or list(corpus)).fingerprint
    if found != run.corpus["fingerprint"]:
        raise CheckpointError(
            f"{run.path}: the corpus changed since the run began: expected SHA-256 {run.corpus['fingerprint']}, "
            f"found {found} in {corpus.name}"
        )
    start = Start(run.experiment, corpus, run.store)
    if start.identity != run.identity:
        raise CheckpointError(f"{run.path}: its start weights or its config.json changed since it began")
    return start


def corpus_of(run: Run, source: str | Path | Corpus | None = None, tasks: Sequence[str] | None = None) -> Corpus:
    """The corpus that the run was trained on: generated, downloaded or read from its folder again; or `source`.

    tasks: those that are read; by default the run's own. Classes may be rare in it, for a run may have been allowed it.
    Raises ConfigurationError where it was built in Python and no source is given. The caller has to check that its
    content is the same: compare `corpus.fingerprint` with `run.corpus["fingerprint"]`.
    """
    about = run.corpus
    tasks = tasks or about.get("tasks")
    if isinstance(source, Corpus):
        return source.only(tasks or list(source))
    own = about.get("source") if about.get("kind", "own") == "own" else about["kind"]
    if not (source or own):
        raise ConfigurationError(f"{run.path}: trained on {about['name']!r}, built in Python: expected its files")
    return load_corpus(source or str(own), tasks, allow_rare=True)


def _write_card(run: Run) -> None:
    """Write a finished run's model card, unless there is one or its weights were taken away."""
    if has_weights(run) and not (run.path / CARD).is_file():
        from mtlib.study.model_card import write_card  # what a run means is not needed to train it

        write_card(run)


def _guarded(training: Training) -> None:
    """Prepare, train and finish; if an exception ends a run that has begun, its status records it."""
    run = training.run
    try:
        training.prepare()
        with Interruption() as interruption:
            training.train(interruption)
        training.finish()
    except BaseException as error:
        status = "interrupted" if isinstance(error, SystemExit | KeyboardInterrupt) else "failed"
        with suppress(StorageError):
            if training.begun:
                run.set_status(status, step=training.done, error=f"{type(error).__name__}: {error}"[:2000])
        if type(error) is KeyboardInterrupt and in_notebook():
            raise Stopped("Stopped. Run the cell again to continue from what was saved last.") from None
        raise
