"""The study: experiments at a preset's size on one corpus, their runs, and where tables and figures are written."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack, cast

import pandas as pd
import torch
import transformers
from matplotlib.figure import Figure

from mtlib.checking import checked
from mtlib.data.batches import Batch, TokenizedSplit
from mtlib.data.corpus import TITLES, Corpus, Kind, load_corpus
from mtlib.device import Device
from mtlib.errors import ConfigurationError, MissingRunError, StorageError
from mtlib.experiments import Experiment, Optimisation, Pretraining
from mtlib.model import MultitaskModel
from mtlib.presets import label, preset, project_root
from mtlib.settings import ExperimentSettings, PretrainingSettings, spelt_out
from mtlib.study import plots, statistics, tables
from mtlib.study.cache import Cache
from mtlib.study.eval_splits import Dev, Part, ReportingHalf, System, task_scores
from mtlib.study.statistics import Systems
from mtlib.tasks import TASKS
from mtlib.training.fit import fit
from mtlib.training.runs import Run, RunStore
from mtlib.training.start import Start, find

RESULTS, FIGURES = "MTLIB_RESULTS", "MTLIB_FIGURES"
"""Environment variables: other folders than `results` and `figures`."""

NAMED = 6
"""Runs that a message about missing ones names."""


class Study:
    """A preset on a corpus: it makes experiments of the preset's size, trains them, and writes tables and figures.

    preset_name: a preset, or a YAML file. corpus: "sample", "hub" or a folder; "" is the preset's own.
    seed: of every experiment, unless it says otherwise. train: whether what is missing is trained; without it, it is a
    MissingRunError. called: another name than the preset's for the folders below.
    Paths are from the project's root. Tables are written to `results/tables/<preset>-<corpus>`, figures to
    `figures/<preset>-<corpus>`; runs are in `results/runs`.
    """

    def __init__(
        self, preset_name: str = "tour", corpus: str = "", *, seed: int = 0, train: bool = True, called: str = ""
    ):
        self.preset_name, self.preset, root = preset_name, preset(preset_name, corpus), project_root()
        self.source, self.seed, self.train = self.preset.corpus, seed, train
        self.name, self.root = label(called or preset_name, self.source), root
        self.results = root / os.environ.get(RESULTS, "results")
        self.tables = self.results / "tables" / self.name
        self.figures = root / os.environ.get(FIGURES, "figures") / self.name
        self.cache = Cache(self.results / "cache")
        self.saved: dict[str, list[Path]] = {}
        plots.use_style()

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus, read when it is first asked for."""
        source = self.source if self.source in TITLES else self.root / self.source
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what was left out is in the corpus' notes, which 00_data shows
            return load_corpus(source, self.experiment().tasks)

    def about(self) -> str:
        """Versions, device, precision, threads, preset, corpus and encoder, for the top of a notebook."""
        device, encoder = Device(), Path(self.preset.encoder).name
        return (
            f"torch {torch.__version__}, transformers {transformers.__version__}, pandas {pd.__version__}\n"
            f"{device.device}, {device.precision}, {torch.get_num_threads()} threads\n"
            f"preset {self.preset_name}: {self.preset.dial:g} of the report's steps; encoder {encoder}; "
            f"corpus {TITLES.get(cast(Kind, self.source), Path(self.source).name)}"
        )

    @spelt_out
    def experiment(self, **settings: Unpack[ExperimentSettings]) -> Experiment:
        """An experiment whose settings are the report's; the preset's dial says how much of it is trained.

        `epochs` (10), `steps_per_epoch` (2,000), `batch_size` (16) and `learning_rate` (1e-5) are as the report gives
        them; all other fields are taken as they are. To change what is really trained use `but`:
        `study.experiment(sampler="annealed").but(epochs=3)`.
        Raises ConfigurationError naming the key, what was expected and what was found.
        """
        fields = {"seed": self.seed, **self.preset.fields(dict(settings))}
        return checked(Experiment, fields, f"experiment of preset {self.preset_name}")

    @spelt_out
    def pretraining(self, **settings: Unpack[PretrainingSettings]) -> Pretraining:
        """Multiple negatives ranking with settings in the report's terms, as `experiment` has them."""
        fields = {"seed": self.seed, **self.preset.pretraining_fields(dict(settings))}
        return checked(Pretraining, fields, f"pretraining of preset {self.preset_name}")

    def fit(self, experiments: Mapping[str, Optimisation]) -> "Runs":
        """The run of every experiment, by the same names: loaded where it is finished, else trained, one by one.

        Raises MissingRunError, naming the first of them, for runs that are not finished where `train` is False;
        ConfigurationError for what is no dict of experiments.
        """
        if not isinstance(experiments, Mapping) or not all(isinstance(e, Optimisation) for e in experiments.values()):
            example = '{"baseline": study.experiment()}'
            raise ConfigurationError(f"fit: expected experiments by name, {example}, found {repr(experiments)[:120]}")
        if not self.train:
            runs = {name: find(each, self.corpus, self.results) for name, each in experiments.items()}
            if missing := [f"{name} ({run.id}, {run.status})" for name, run in runs.items() if not run.complete]:
                rest = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
                shown = f"{len(missing)} of {len(runs)}: {', '.join(missing[:NAMED])}{rest}"
                command = f"`make run PRESET={self.preset_name} CORPUS={self.source}`"
                how = f"{command} trains what the notebooks ask for at this preset, train=True trains these"
                raise MissingRunError(f"not finished: {shown}; {how}")
            return Runs(runs)
        return Runs({name: fit(each, self.corpus, self.results) for name, each in experiments.items()})

    def encoder(self) -> MultitaskModel:
        """The encoder as every experiment without `start_from` finds it, with heads as they are drawn."""
        return Start(self.experiment(), self.corpus, RunStore(self.results)).model().to(Device().device).eval()

    def batch(self, model: MultitaskModel, task: str, size: int = 16, split: str = "dev") -> Batch:
        """The first `size` examples of a task's split, tokenized for `model` and on its device."""
        frame = getattr(self.corpus[task], split).head(size).reset_index(drop=True)
        tokenized = TokenizedSplit(TASKS[task], frame, model.tokenizer, model.max_tokens)
        return tokenized.batch(range(len(frame))).to(model.device)

    def save(self, made: pd.DataFrame | Figure, name: str, *, caption: str = "", digits: int = 3) -> Any:
        """Write a table (CSV, Markdown, LaTeX) or a figure (PDF, PNG) called `name`; return it as it is to be shown.

        A table's rows that have names get them as the first column; its caption ends with the corpus.
        """
        if isinstance(made, Figure):
            self.saved[name] = plots.save(made, name, self.figures)
            return made
        caption = ", ".join(filter(None, [caption, self.corpus.title]))
        self.saved[name] = tables.write_table(made, name, self.tables, caption=caption, digits=digits)
        return tables.pretty(made, digits=digits)

    def outputs(self, *names: str) -> list[Path]:
        """The files written as `names`; raises StorageError unless each was written here, and is not empty."""
        for name in names:
            paths = self.saved.get(name)
            if not paths or not all(path.is_file() and path.stat().st_size for path in paths):
                raise StorageError(f"{name}: expected this notebook to have written it, found {list(self.saved)}")
        paths = [path for name in names for path in self.saved[name]]
        return [path.relative_to(self.root) if path.is_relative_to(self.root) else path for path in paths]


class Runs(Mapping[str, Run]):
    """Finished runs by the names that a notebook gave them."""

    def __init__(self, runs: Mapping[str, Run]):
        self._runs = dict(runs)

    def __getitem__(self, name: str) -> Run:
        if name not in self._runs:
            raise ConfigurationError(f"no run is called {name!r}; there are: {', '.join(self._runs)}")
        return self._runs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    def __contains__(self, name: object) -> bool:
        return name in self._runs

    def only(self, *names: str) -> "Runs":
        """The named runs, in this order."""
        return Runs({name: self[name] for name in names})

    def scores(self, on: Part | None = None) -> pd.DataFrame:
        """One row a run: scores by task, mean, evenness; what was trained, the chosen epoch, seconds, the run's id.

        on: the part of the stored predictions that is scored; all of dev, as the report does, unless given.
        """
        rows = {name: _scores(run, on or Dev()) for name, run in self.items()}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("run")

    def compare(self, *pairs: tuple[str, str] | str, on: Part | None = None, **options: Any) -> pd.DataFrame:
        """The second run of each pair against its first on the same examples, with what is resolved.

        pairs: `("baseline", "annealed"), ...`, or two names, which are one pair. on: the reporting half of dev unless
        given. options: those of `statistics.compare`. Raises ConfigurationError for what is neither.
        """
        if all(isinstance(name, str) for name in pairs):
            pairs = (cast(tuple[str, str], pairs),)
        return statistics.compare(self, cast(Sequence[tuple[str, str]], pairs), on or ReportingHalf(), **options)


def compare(
    a: System | Sequence[System] | Systems,
    b: System | Sequence[System] | Sequence[tuple[str, str]],
    on: Part | None = None,
    **options: Any,
) -> pd.DataFrame:
    """System `b` against `a` on the same examples: a row a task, the mean and the evenness, with what is resolved.

    a, b: finished runs or other systems, or lists of runs at several seeds, whose means are compared; or systems by
    name and the pairs of names, `("baseline", "annealed")`, each second one being compared with its first.
    on: the reporting half of dev, which chose nothing, unless given (`Test()`). options, and the columns of the table,
    are those of `mtlib.study.statistics.compare`: differences with the 95 % interval of the paired bootstrap, and
    Holm's correction over all rows. A run is called by its id, several by their label, which "first" and "second" tell
    apart where it is the same. Raises ConfigurationError for the same runs twice.

    >>> mtlib.compare(baseline, annealed)  # doctest: +SKIP
    """
    if isinstance(a, Mapping):
        return statistics.compare(a, cast(Sequence[tuple[str, str]], b), on or ReportingHalf(), **options)
    sides: list[list[Any]] = [list(side) if isinstance(side, Sequence) else [side] for side in (a, b)]
    pair = _called(sides[0], "first"), _called(sides[1], "second")
    if (ids := _ids(sides[0])) and ids == _ids(sides[1]):
        raise ConfigurationError(f"compare: expected two different runs, found {pair[0]} twice")
    if pair[0] == pair[1]:
        pair = f"{pair[0]}, first", f"{pair[1]}, second"
    return statistics.compare(dict(zip(pair, sides, strict=True)), [pair], on or ReportingHalf(), **options)


def _called(runs: Sequence[System], otherwise: str) -> str:
    """What a comparison calls one run, or the runs of one experiment at several seeds."""
    if len(runs) > 1 and isinstance(runs[0], Run):
        return f"{runs[0].experiment.at(0).label}, {len(runs)} seeds"
    return getattr(runs[0], "id", otherwise) if runs else otherwise


def _ids(systems: Sequence[System]) -> list[str]:
    """The ids of runs, sorted; none where one of the systems is no run."""
    ids = sorted(getattr(system, "id", "") for system in systems)
    return ids if all(ids) else []


def _scores(run: Run, on: Part) -> dict[str, Any]:
    return task_scores(run, on) | {
        "trained": tables.trained(**dict(run.experiment)),
        "epoch": run.best_epoch,
        "seconds": run.seconds,
        "id": run.id,
    }
