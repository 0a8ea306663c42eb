"""The run store: one folder per run, identified by what was trained."""

import os
import shutil
import time
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from mtlib.checking import shortened
from mtlib.data.cached import file_sha256
from mtlib.errors import CheckpointError, ConfigurationError, StorageError
from mtlib.experiments import FORMAT, Optimisation, read_experiment
from mtlib.tasks import Task, learn, meant
from mtlib.training.checkpoints import CheckpointStore
from mtlib.training.files import (
    LONGEST_ID,
    RunLock,
    inside,
    is_gone,
    make_folder,
    remove_all,
    safe_name,
    storage,
    sweep,
    sync_folder,
    sync_tree,
    this_process,
)
from mtlib.training.sealed import STATUS, SealedFiles

if TYPE_CHECKING:
    from mtlib.model import MultitaskModel
    from mtlib.training.replay import Replayed

CARD = "model/README.md"
STATUSES = ("running", "interrupted", "failed", "complete")
STORED_TASKS = TypeAdapter(list[Task])


class Run(SealedFiles):
    """One training run's folder. What it returns is read from the files each time."""

    def __repr__(self) -> str:
        return f"Run({self.path.name}, {self.status})"

    @property
    def id(self) -> str:
        """<name>-<hash8>, the folder's name."""
        return self.path.name

    @property
    def status(self) -> str:
        """ "new", "running", "interrupted", "failed" or "complete"; running in a dead process means interrupted.

        New is what lacks a status or a configuration, such as what is left of a run whose removal was killed.
        """
        if not (_is_run(self.path) and (self.path / STATUS).is_file()):
            return "new"
        about = self.read(STATUS)
        status = about.get("status")
        if status not in STATUSES or not isinstance(about.get("pid"), int):
            raise CheckpointError(f"{self.path / STATUS}: expected a status of {', '.join(STATUSES)} and a process id")
        return "interrupted" if status == "running" and is_gone(about) else status

    def expect_own(self) -> None:
        """Raise CheckpointError where the folder is no run's, such as an encoder's, whose config.json is another one.

        A run's configuration says what was trained; a damaged one is a run's where mtlib's status stands beside it.
        """
        try:
            content = self.read("config.json")
        except CheckpointError:
            if self.status == "new":
                raise
            return
        if not {"identity", "experiment"} <= content.keys():
            found = ", ".join(sorted(content)[:8]) or "none"
            expected = "expected a run, whose config.json has the keys identity and experiment"
            raise CheckpointError(f"{self.path}: {expected}, found {found}")

    @property
    def store(self) -> "RunStore":
        """The store that it lies in, whatever that folder is called."""
        store = RunStore()
        store.folder = self.path.parent
        return store

    @property
    def complete(self) -> bool:
        """Whether the run has finished."""
        return self.status == "complete"

    @property
    def identity(self) -> str:
        """SHA-256 of what was trained."""
        return self.entry("config.json", "identity", str)

    @property
    def experiment(self) -> Optimisation:
        """The experiment, or the pretraining, that was run.

        Raises CheckpointError for a run of another format, UnknownKindError for one whose penalty or sampler is not
        known here: import the module that defines it first. A task that is not known here is as the run says.
        """
        if (version := self.read("config.json").get("format", 1)) != FORMAT:
            raise CheckpointError(f"{self.path / 'config.json'}: expected format {FORMAT}, found {version!r}")
        with meant(self._tasks()):
            return read_experiment(self.entry("config.json", "experiment"), str(self.path / "config.json"))

    def _tasks(self) -> list[Task]:
        """The tasks as they were when it was trained."""
        try:
            return STORED_TASKS.validate_python(self.read("config.json").get("tasks", []))
        except (ValidationError, ConfigurationError) as error:
            raise CheckpointError(f"{self.path / 'config.json'}: tasks: {error}") from error

    @property
    def corpus(self) -> dict[str, str]:
        """Name, title and fingerprint of the corpus."""
        about = self.entry("config.json", "corpus", dict)
        if wrong := [key for key in ("name", "title", "fingerprint") if not isinstance(about.get(key), str)]:
            raise CheckpointError(f"{self.path / 'config.json'}: corpus: expected a text for {wrong[0]!r}")
        tasks = about.get("tasks", [])
        if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
            raise CheckpointError(f"{self.path / 'config.json'}: corpus: expected a list of tasks' names")
        return about

    @property
    def scores(self) -> dict[str, float]:
        """Scores on all of dev of the stored model, by task, with `mean` and `evenness`.

        The stored model is that of the epoch with the best mean on the choosing half of dev.
        """
        return self._scores("chosen")

    @property
    def last_scores(self) -> dict[str, float]:
        """Scores on all of dev after the last epoch."""
        return self._scores("last")

    def _scores(self, which: str) -> dict[str, float]:
        scores = self.entry("scores.json", which, dict)
        if not all(isinstance(score, int | float) for score in scores.values()):
            raise CheckpointError(f"{self.path / 'scores.json'}: {which}: expected numbers, found {shortened(scores)}")
        return scores

    @property
    def best_epoch(self) -> int:
        """The epoch (from 1) whose model is stored."""
        return self.entry("scores.json", "epoch", int)

    @property
    def history(self) -> pd.DataFrame:
        """One row an epoch: losses, learning rate, draws, dev scores, seconds, and what the penalties logged."""
        return self.read_frame("history.csv")

    @property
    def seconds(self) -> float:
        """Training time, evaluation included, over all sessions of the run."""
        return self.entry("scores.json", "seconds", (int, float))

    def predictions(self, split: str, task: str) -> pd.DataFrame:
        """Stored predictions: id, label where known, prediction, and p0, p1, ... for classes.

        split: "dev" or "test", of the chosen model. A run with a teacher also has the dev predictions after the last
        epoch, of the student as "last" and of the teacher as "teacher". From then on the task is scored as this run's.
        """
        for own in [each for each in self._tasks() if each.name == task]:
            learn(own)
        name = f"predictions/{split}-{task}.csv"
        if not (self.path / name).is_file():
            raise CheckpointError(f"{self.path / name}: this run has no such predictions")
        return self.read_frame(name, dtype={"id": str}, keep_default_na=False)

    def model(self, seal: str | None = None) -> "MultitaskModel":
        """The stored model, in evaluation mode; raises CheckpointError where a file of it is not as it was stored.

        seal: of an unfinished run, what `write_model` returned; of a finished one it is in status.json.
        """
        from mtlib.device import join
        from mtlib.model import MultitaskModel  # with transformers, which reading scores does without

        return MultitaskModel.from_pretrained(self.path / "model", seal or self.read(STATUS).get("seal")).to(join())

    def at(self, step: int, source: str | Path | None = None, **options: Any) -> "Replayed":
        """Optimizer step `step` (from 1) once more, with the model as it was: see `mtlib.training.replay.at`."""
        from mtlib.training.replay import at

        return at(self, step, source, **options)

    def plot(self) -> Any:
        """Dev scores by epoch, a line a task and one for the mean: a matplotlib figure."""
        from mtlib.study.plots import learning_curves

        return learning_curves(self)

    @property
    def checkpoints(self) -> CheckpointStore:
        """Checkpoints of an unfinished run."""
        return CheckpointStore(inside(self.path, self.path / "checkpoints"))

    def forget_checkpoints(self) -> None:
        """Remove the checkpoints of a finished run."""
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)

    def sweep(self) -> None:
        """Remove what a killed process left half done; a model that it was about to replace is put back.

        Without a configuration the folder is no run, and all that lies in it, but for the lock, is such a leftover.
        """
        if not _is_run(self.path):
            with storage("sweep", self.path):
                remove_all([path for path in self.path.iterdir() if not path.name.startswith("lock")])
        for folder in (self.path, inside(self.path, self.path / "predictions")):
            if folder == self.path and not (self.path / "model").exists():
                for old in self.path.glob(".tmp-*-model-old"):
                    old.rename(self.path / "model")
            if folder.is_dir():
                sweep(folder)

    def lock(self) -> RunLock:
        """The run's lock, a context manager; raises LockedError when another process holds it."""
        with storage("create", self.path):
            make_folder(self.path)
        return RunLock(self.path / "lock")

    def set_status(self, status: str, **details: Any) -> None:
        """Write status.json: the status, this process, and `details`."""
        self.write_json(STATUS, {"status": status, **this_process(), "time": time.time(), **details})

    def set_complete(self, step: int, seal: str) -> None:
        """Call the run complete, last of all, and forget its checkpoints; status.json seals the files it wrote.

        seal: what `write_model` returned for the model that stays.
        """
        paths = [self.path / name for name in ("config.json", "history.csv", "scores.json")]
        paths += sorted([*self.path.glob("conflicts.csv"), *self.path.glob("predictions/*.csv")])
        files = {str(path.relative_to(self.path)): file_sha256(path) for path in paths}
        self.set_status("complete", step=step, files=files, seal=seal)
        self.forget_checkpoints()

    def write_model(self, model: "MultitaskModel") -> str:
        """Replace the stored model; its seal. A crash leaves the old, the new, or for an instant none, never half."""
        new, old = self.path / f".tmp-{os.getpid()}-model", self.path / f".tmp-{os.getpid()}-model-old"
        with storage("write", self.path / "model"):
            shutil.rmtree(new, ignore_errors=True)
            seal = model.save_pretrained(new)
            sync_tree(new)
            if (self.path / "model").is_dir():
                (self.path / "model").rename(old)
            new.rename(self.path / "model")
            sync_folder(self.path)
            shutil.rmtree(old, ignore_errors=True)
        return seal


class RunStore:
    """All runs below `<results>/runs`."""

    def __init__(self, results: Path | str = "results"):
        self.folder = Path(results) / "runs"

    def open(self, name: str, identity: str) -> Run:
        """The run of this identity, first the one called `name`, then any; or the place for a new one of that name."""
        own = f"{name}-{identity[:8]}"
        with storage("read", self.folder):
            folders = sorted(self.folder.glob(f"[!.]*-{identity[:8]}"), key=lambda path: (path.name != own, path))
        run = self._run(folders[0]) if folders else Run(self.folder / f"{safe_name(name)}-{identity[:8]}")
        if (run.path / "config.json").is_file() and run.identity != identity:
            raise CheckpointError(f"{run.path}: holds another run with the same first 8 digits; move it away")
        return run

    def _run(self, path: Path) -> Run:
        """The run in a folder of the store, a link followed. Raises CheckpointError for a link out of the store."""
        return Run(inside(self.folder, path) if path.is_symlink() else path.absolute())

    def find(self, reference: str) -> Run:
        """The run with this id, name, or first digits of its hash, finished or not.

        Raises ConfigurationError when there is none or more than one.
        """
        safe_name(reference, LONGEST_ID)
        every = self.all()
        matches = [run for run in every if run.id == reference] or [run for run in every if _named(run, reference)]
        if len(matches) > 1:
            raise ConfigurationError(f"run {reference!r}: expected one of {', '.join(run.id for run in matches)}")
        if not matches:
            known = [run.id for run in every]
            alike = ", ".join([each for each in known if each.startswith(reference)] or known) or "none"
            raise ConfigurationError(f"run {reference!r}: none of that name in {self.folder}; there are: {alike}")
        return matches[0]

    def get(self, reference: str) -> Run:
        """The finished run that `find` finds; raises CheckpointError when it is not finished."""
        run = self.find(reference)
        if not run.complete:
            raise CheckpointError(f"{run.path}: expected a finished run, found status {run.status!r}")
        return run

    def all(self) -> list[Run]:
        """All runs, sorted by id; a link out of the store, or to another run of it, is left out with a warning."""
        with storage("read", self.folder):
            try:
                names = sorted(os.listdir(self.folder))
            except FileNotFoundError:
                names = []
        paths = [self.folder / name for name in names if not name.startswith(".") and _is_run(self.folder / name)]
        runs: dict[Path, Run] = {}
        for path in sorted(paths, key=os.path.islink):  # links last, for what they lead to may be there itself
            try:
                real = inside(self.folder, path)
                if real in runs:
                    raise CheckpointError(f"{path}: expected a run's own folder, found a link to {real}")
                runs[real] = self._run(path)
            except CheckpointError as error:
                warnings.warn(f"left out: {error}", stacklevel=2)
        return sorted(runs.values(), key=lambda run: run.id)

    def sweep(self) -> None:
        """Remove what is left of runs whose removal was killed, where that may be removed."""
        with suppress(StorageError):
            sweep(self.folder)

    def table(self, sort: str = "", where: Iterable[tuple[str, str]] = ()) -> pd.DataFrame:
        """One row a run, filtered and sorted: see `mtlib.training.listing.table`."""
        from mtlib.training.listing import table

        return table(self, sort, where)


def _is_run(folder: Path) -> bool:
    """Whether the folder holds a configuration, or may hold one that must not be looked at."""
    try:
        (folder / "config.json").stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass  # its row in a list says why
    return True


def _named(run: Run, reference: str) -> bool:
    name, _, digits = run.id.rpartition("-")
    return reference == name or (len(reference) >= 6 and digits.startswith(reference))
