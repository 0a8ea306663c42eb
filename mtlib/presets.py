"""Presets: one dial, the share of the report's steps that is trained, and each notebook's parameters at that size."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Unpack

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from mtlib.checking import Strict, checked, nearest
from mtlib.data.corpus import TITLES
from mtlib.errors import ConfigurationError
from mtlib.experiments import Experiment, Pretraining
from mtlib.extensions import import_modules
from mtlib.numbers import Positive, Seed
from mtlib.own_corpus import tasks_of
from mtlib.samplers import RoundRobin
from mtlib.settings import ExperimentSettings, PretrainingSettings, spelt_out
from mtlib.yaml_files import is_yaml, read_yaml

REPORT = {"epochs": 10, "steps_per_epoch": 2000, "batch_size": 16, "learning_rate": 1e-5}
"""The report's settings wherever a table does not vary them."""

REPORT_PRETRAINING = {"epochs": 10, "steps_per_epoch": 1000, "batch_size": 5, "learning_rate": 1e-5}
"""What ranking is taken to have been: the report gives its loss and its pairs, not its length."""

NOT_A_SIZE = ("name", "seed", "encoder", "encoder_revision", "start_from")
"""Fields of an experiment that a preset's `experiment` and `pretraining` do not set."""

SHORTEST = 45
"""Steps of the shortest epoch: where the dial would make epochs shorter, there are fewer of them."""

SHARED = ("pooling", "max_tokens", "precision", "warmup")
"""What of a preset's `experiment` holds for its pretraining too."""


class Preset(Strict):
    """A named size of the study.

    corpus: "sample", "hub", a folder, or a YAML file (`mtlib.own_corpus`), from the current folder or the project's,
        or else from the preset's own.
    encoder, encoder_revision: as in an experiment.
    dial: share of the report's optimizer steps that is trained; 1 is all of them.
    learning_rate: replaces the report's 1e-5; its other rates are scaled in proportion.
    seeds: for the notebooks that repeat runs.
    experiment, pretraining: fields that the report does not set, or that this size overrides.
    notebooks: values for the parameters cell of each notebook, by its name.
    only: names of the notebooks that are executed; empty, all of them.
    mtlib: `{import: [...]}`: modules with tasks, penalties or samplers of one's own, by name or as .py files from the
        preset's own folder.
    """

    corpus: Annotated[str, Field(min_length=1)]
    encoder: Annotated[str, Field(min_length=1)] = "minilm"
    encoder_revision: str | None = None
    dial: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    learning_rate: Positive = REPORT["learning_rate"]
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    experiment: dict[str, Any] = {}
    pretraining: dict[str, Any] = {}
    notebooks: dict[str, dict[str, Any]] = {}
    only: list[str] = []
    mtlib: dict[Literal["import"], list[str]] = {}

    @field_validator("seeds")
    @classmethod
    def _different(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is given twice")
        return seeds

    @field_validator("experiment", "pretraining")
    @classmethod
    def _not_said_elsewhere(cls, fields: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        elsewhere = [*NOT_A_SIZE, *(REPORT if info.field_name == "experiment" else ())]
        if taken := [key for key in fields if key in elsewhere]:
            raise ValueError(
                f"{taken[0]} is not set here: it follows from the dial and the keys beside it, or a notebook"
            )
        return fields

    @field_validator("notebooks", mode="before")
    @classmethod
    def _without_values(cls, value: Any) -> Any:
        return {name: values or {} for name, values in value.items()} if isinstance(value, dict) else value

    def fields(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The fields of an experiment whose `settings` are given in the report's terms."""
        whole = REPORT | settings
        return {**self._encoder(), **self.experiment, **settings, **self._dialled(whole)}

    def pretraining_fields(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The fields of a pretraining whose `settings` are given in the report's terms."""
        shared = {key: self.experiment[key] for key in SHARED if key in self.experiment}
        whole = REPORT_PRETRAINING | settings
        return {**self._encoder(), **shared, **settings, **self._dialled(whole), **self.pretraining}

    def _encoder(self) -> dict[str, Any]:
        return {"encoder": self.encoder, "encoder_revision": self.encoder_revision}

    def _dialled(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The four settings at this size; invalid values are passed on unchanged, for the experiment to refuse."""
        size = {key: settings[key] for key in REPORT}
        epochs, steps, rate = size["epochs"], size["steps_per_epoch"], size["learning_rate"]
        if all(_is_number(count, int) and 0 < count < 2**31 for count in (epochs, steps)):
            size["epochs"], size["steps_per_epoch"] = dialled(epochs, steps, self.dial)
        if _is_number(rate, int | float) and 0 < rate < 1e300:
            size["learning_rate"] = float(f"{rate * self.learning_rate / REPORT['learning_rate']:.6g}")
        return size


def _is_number(value: Any, kind: type | UnionType) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def dialled(epochs: int, steps: int, dial: float) -> tuple[int, int]:
    """Epochs, and steps of each, that make `dial` times the steps of `epochs` epochs of `steps`.

    There are as many epochs, unless they would be shorter than SHORTEST steps: then fewer, but two if there were two.
    """
    if dial == 1:
        return epochs, steps
    total = epochs * steps * dial
    epochs = min(epochs, max(2, round(total / SHORTEST)))
    return epochs, max(1, round(total / epochs))


def project_root() -> Path:
    """The folder that a study lies in: the nearest one, from the current folder up, with `notebooks` and `presets`.

    Without one, the checkout this module lies in, or else the current folder. Jupyter starts a kernel in the notebook's
    own folder; from the root it finds the runs that the pipeline trained.
    """
    here, checkout = Path.cwd(), Path(__file__).resolve().parents[1]
    for folder in (here, *here.parents, checkout):
        if (folder / "notebooks").is_dir() and (folder / "presets").is_dir():
            return folder
    return here


def presets_folder() -> Path:
    """Where the presets are: beside the package in a checkout, inside it in an installed wheel."""
    inside = Path(__file__).parent / "_presets"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "presets"


def preset_names() -> list[str]:
    """Names of the presets there are."""
    return sorted(file.stem for file in presets_folder().glob("*.yaml"))


def preset(name: str, corpus: str = "") -> Preset:
    """The preset `name` ("smoke", "tour", "afternoon", "gpu" ... "paper"), or that in a YAML file of that path.

    corpus: instead of its own. The modules that the preset names are imported; the tasks of a corpus in a YAML file
    are known from then on, and those of its experiments unless it says which.
    Raises ConfigurationError for an unknown name, an unknown key, a wrong type, or fields that are no experiment.
    """
    path = Path(name) if is_yaml(name) else presets_folder() / f"{name}.yaml"
    if len(name) > 4096 or "\0" in name or not os.path.isfile(path):
        raise ConfigurationError(f"unknown preset {name[:120]!r}{nearest(name, preset_names())}")
    chosen = checked(Preset, read_yaml(path), str(path))
    import_modules(chosen.mtlib.get("import", []), path.parent)
    chosen = _with_corpus(chosen, corpus or _found(chosen.corpus, path.parent))
    checked(Experiment, chosen.fields({}), f"{path}: experiment")
    checked(Pretraining, chosen.pretraining_fields({}), f"{path}: pretraining")
    return chosen


def _found(corpus: str, folder: Path) -> str:
    """A preset's own corpus: as it stands where that names one, else the one in the preset's folder, if it is there."""
    beside = os.path.abspath(folder / corpus)
    known = corpus in TITLES or os.path.exists(corpus) or os.path.exists(project_root() / corpus)
    return beside if not known and os.path.exists(beside) else corpus


def _with_corpus(chosen: Preset, corpus: str) -> Preset:
    from_root = project_root() / corpus
    here, there = os.path.exists(corpus), from_root.exists()
    if corpus not in TITLES and here and not (there and from_root.samefile(corpus)):
        corpus = os.path.abspath(corpus)  # a study looks from the project's folder
    elif corpus not in TITLES and there and not here:
        corpus = str(from_root)
    if not is_yaml(corpus) or not os.path.isfile(corpus):
        return chosen.model_copy(update={"corpus": corpus})
    tasks = {"tasks": tasks_of(corpus)}
    return chosen.model_copy(update={"corpus": corpus, "experiment": tasks | chosen.experiment})


@spelt_out
def experiment(start: str | Preset = "tour", /, **changes: Unpack[ExperimentSettings]) -> Experiment:
    """The experiment of a preset (its name, or the preset itself) with `changes` to its fields, as they are trained.

    >>> experiment("smoke", sampler="annealed", seed=1).label
    'annealed-seed-1'

    Raises ConfigurationError naming the key, what was expected and what was found.
    """
    chosen, where = _chosen(start)
    return checked(Experiment, {**chosen.fields({}), **changes}, f"experiment from {where}")


@spelt_out
def pretraining(start: str | Preset = "tour", /, **changes: Unpack[PretrainingSettings]) -> Pretraining:
    """The pretraining of a preset (its name, or the preset itself) with `changes` to its fields, as they are trained.

    Raises ConfigurationError naming the key, what was expected and what was found.
    """
    chosen, where = _chosen(start)
    return checked(Pretraining, {**chosen.pretraining_fields({}), **changes}, f"pretraining from {where}")


def dotted(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an experiment with `changes`, whose keys are fields, `sampler.FIELD`, or `KIND.FIELD` of a penalty.

    fields: as they are given, so that an option left out has the default of what is changed, such as SMART's mode.
    A penalty that is not there is added: `smart.weight` 5 alone is SMART as it is, at that weight.
    Raises ConfigurationError for a key that begins or ends with its full stop.

    >>> dotted({}, {"smart.weight": 5.0, "smart.mode": "ball"})
    {'penalties': [{'kind': 'smart', 'weight': 5.0, 'mode': 'ball'}]}
    """
    fields = {**fields, **{key: value for key, value in changes.items() if "." not in key}}
    for key, value in changes.items():
        first, dot, entry = key.partition(".")
        if dot and not (first and entry):
            raise ConfigurationError(f"{key!r}: expected a sampler's or a penalty's field, such as smart.weight")
        if entry and first == "sampler":
            fields[first] = _dumped(fields.get(first, RoundRobin())) | {entry: value}
        elif entry:
            listed = fields.get("penalties", ())
            penalties = [_dumped(each) for each in listed] if isinstance(listed, list | tuple) else []
            if first not in [each.get("kind") for each in penalties]:
                penalties.append({"kind": first})
            fields["penalties"] = [each | {entry: value} if each.get("kind") == first else each for each in penalties]
    return fields


def _dumped(value: Any) -> dict[str, Any]:
    """A sampler or penalty, given as itself, its fields or its kind, as its fields."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    return dict(value) if isinstance(value, Mapping) else {"kind": value}


def label(preset: str, corpus: str) -> str:
    """Folder name of one preset on one corpus, such as `tour-sample`; of a path only the last part counts."""
    parts = [Path(os.path.abspath(text)).name.removesuffix(".yaml") for text in (preset, corpus) if text]
    return re.sub(r"[^\w.-]+", "_", "-".join(parts))[:120] or "default"


def _chosen(start: str | Preset) -> tuple[Preset, str]:
    return (start, "a preset") if isinstance(start, Preset) else (preset(start), f"preset {start}")
