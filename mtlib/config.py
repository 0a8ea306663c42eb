"""Experiments as strict values, and the presets they start from."""

import difflib
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, field_validator

from mtlib.errors import ConfigurationError
from mtlib.model import Pooling
from mtlib.objectives.bregman import Bregman
from mtlib.objectives.penalty import Penalty
from mtlib.objectives.smart import Smart
from mtlib.precision import Precision
from mtlib.samplers import SAMPLERS, RoundRobin, Sampler
from mtlib.tasks import TASKS, Task

__all__ = ["Bregman", "Experiment", "Pretraining", "Smart", "experiment", "preset", "pretraining"]

FORMAT = 1
"""Version of what a configuration means; a change that alters results must raise it."""

NAMING = ("name", "encoder", "encoder_revision", "start_from")
"""Fields that say what a run and its start weights are called: no part of what is trained."""

SHARED = ("encoder", "encoder_revision", "pooling", "max_tokens", "precision")
"""What a preset's pretraining takes from its experiment."""

Schedule = Literal["constant", "linear", "halve"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    """Frozen values; unknown keys and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Optimisation(Strict):
    """What every kind of training has.

    name: what tables call the run; it does not change what is trained.
    encoder: "minilm", "tiny", a folder or a Hub id; encoder_revision: the commit of a Hub id.
    start_from: name or id of a finished run (pretraining or training) whose weights the run starts from.
    epochs, steps: epochs of `steps` optimizer steps each, whatever the sampler. batch_size: examples (or pairs) a step.
    learning_rate, weight_decay (none on biases and LayerNorm), betas: AdamW's.
    warmup: share of all steps over which the learning rate rises linearly to its value.
    schedule: "constant"; "linear", down to 0 at the last step; or "halve", times 0.5 after three
        consecutive epochs of rising total loss.
    clip: largest gradient norm.
    precision: "auto" is bfloat16 autocast where the device computes in it, else float32.
    max_tokens: longer inputs are cut.
    """

    name: str = "run"
    encoder: str = "minilm"
    encoder_revision: str | None = None
    start_from: str | None = None
    pooling: Pooling = "mean"
    epochs: Count = 10
    steps: Count = 300
    batch_size: Count = 16
    learning_rate: Positive = 1e-5
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-4
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    warmup: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    schedule: Schedule = "constant"
    clip: Positive = 1.0
    precision: Precision = "auto"
    max_tokens: Annotated[int, Field(ge=4)] = 128
    head_dropout: Fraction = 0.0
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("betas", mode="before")
    @classmethod
    def _betas(cls, value):
        return tuple(value) if isinstance(value, list) else value

    @property
    def task_names(self) -> tuple[str, ...]:
        """Tasks whose examples it trains on."""
        raise TypeError(f"{type(self).__name__} does not define task_names")

    def identity(self, corpus: str, weights: str) -> str:
        """SHA-256 of what is trained: all fields but the name, and the fingerprints of corpus and start weights."""
        fields = self.model_dump(mode="json", exclude=set(NAMING))
        tasks = [repr(TASKS[name]) for name in self.task_names]
        text = json.dumps([FORMAT, type(self).__name__, fields, tasks, corpus, weights], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class Experiment(Optimisation):
    """Everything that one multitask training run depends on, its corpus apart.

    tasks: names of registered tasks. sampler: which task trains at which step.
    penalties: terms added to the loss. head_dropout: dropout before the heads.
    dev_limit: at most this many dev examples a task are scored after each epoch; the chosen and the last
        epoch are always scored on all of dev.
    The other fields are those of `Optimisation`.
    """

    tasks: tuple[str, ...] = ("sst", "qqp", "sts")
    sampler: Sampler = RoundRobin()
    penalties: tuple[Penalty, ...] = ()
    dev_limit: Count | None = None

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks that are trained."""
        return self.tasks

    @field_validator("tasks", mode="before")
    @classmethod
    def _tasks(cls, value):
        names = tuple(task.name if isinstance(task, Task) else task for task in _listed(value, "names of tasks"))
        for name in names:
            if not isinstance(name, str) or name not in TASKS:
                raise ValueError(f"unknown task {name!r}{nearest(str(name), TASKS)}")
        if len(set(names)) < len(names):
            raise ValueError(f"a task is named twice: {', '.join(names)}")
        if not names:
            raise ValueError("expected at least one task")
        return names

    @field_validator("sampler", mode="before")
    @classmethod
    def _sampler(cls, value):
        if isinstance(value, Sampler):
            return value
        fields = {"kind": value} if isinstance(value, str) else value
        kind = fields.get("kind") if isinstance(fields, dict) else fields
        if not isinstance(kind, str) or kind not in SAMPLERS:
            raise ValueError(f"unknown sampler {kind!r}{nearest(str(kind), SAMPLERS)}")
        return SAMPLERS[kind].model_validate(fields)

    @field_validator("penalties", mode="before")
    @classmethod
    def _penalties(cls, value):
        kinds = {kind.model_fields["kind"].default: kind for kind in Penalty.__subclasses__()}
        penalties = []
        for entry in _listed(value, "penalties"):
            if not isinstance(entry, Penalty):
                kind = entry.get("kind") if isinstance(entry, dict) else entry
                if not isinstance(kind, str) or not isinstance(entry, dict) or kind not in kinds:
                    raise ValueError(f"unknown penalty {kind!r}{nearest(str(kind), kinds)}")
                entry = kinds[kind].model_validate(entry)
            penalties.append(entry)
        if len({penalty.kind for penalty in penalties}) < len(penalties):
            raise ValueError("a kind of penalty is given twice")
        if len({penalty.dropout for penalty in penalties}) > 1:
            raise ValueError("penalties of one run share its clean pass: their dropout policies must be equal")
        return tuple(penalties)

    @field_serializer("sampler")
    def _dump_sampler(self, sampler: Sampler) -> dict:
        return sampler.model_dump()

    @field_serializer("penalties")
    def _dump_penalties(self, penalties: tuple[Penalty, ...]) -> list[dict]:
        return [penalty.model_dump(mode="json") for penalty in penalties]

    @property
    def dropout(self) -> str | None:
        """The penalties' common dropout policy; None without penalties: plain training, with dropout.

        A penalty of weight 0 costs nothing and still sets the policy: the control for what dropout alone does.
        """
        return next((penalty.dropout for penalty in self.penalties), None)


class Pretraining(Optimisation):
    """Multiple negatives ranking of one task's sentences: trains the encoder alone, before multitask fine-tuning.

    task: a classification task of single sentences. batch_size: pairs a step; up to the number of classes they are
    all of different classes. scale: C, what the cosines are multiplied with.
    false_negatives: "mask" takes a row's own class out of its negatives; with repeated classes it is needed.
    The other fields are those of `Optimisation`.
    """

    batch_size: Annotated[int, Field(ge=2)] = 5
    task: str = "sst"
    scale: Positive = 20.0
    false_negatives: Literal["keep", "mask"] = "keep"

    @field_validator("task")
    @classmethod
    def _task(cls, value):
        if value not in TASKS:
            raise ValueError(f"unknown task {value!r}{nearest(value, TASKS)}")
        if TASKS[value].kind != "classification" or TASKS[value].is_pair:
            raise ValueError(f"ranking needs a task of classified single sentences, {value!r} is not one")
        return value

    @property
    def task_names(self) -> tuple[str, ...]:
        """The one task whose sentences are ranked."""
        return (self.task,)


class Preset(Strict):
    """A named size of the study: what every notebook starts from.

    corpus: the corpus it is meant for. experiment: fields that differ from the defaults. pretraining: likewise.
    seeds: the seeds of runs that are repeated.
    grids: rows of each table that are run, by table. A row has the published settings; its entry `use` holds the
        experiment fields that stand for them at this size, where they differ.
    choices: single values that notebooks use, such as the radii of the adversary.
    """

    corpus: str
    experiment: dict[str, Any]
    pretraining: dict[str, Any] = {}
    seeds: list[int] = [0]
    grids: dict[str, list[dict[str, Any]]] = {}
    choices: dict[str, Any] = {}


def nearest(word: str, known) -> str:
    """ " (did you mean ...?)" for a word that resembles a known one, else the known ones."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(map(str, known))})"


def presets_folder() -> Path:
    """Where the presets are: beside the package in a checkout, inside it in an installed wheel."""
    inside = Path(__file__).parent / "presets"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "presets"


def preset(name: str) -> Preset:
    """The preset `name` ("smoke", "tour", "third", "laptop", "paper"), or the one in a YAML file of that path.

    Raises ConfigurationError for an unknown name, an unknown key or a wrong type.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else presets_folder() / f"{name}.yaml"
    if not os.path.isfile(path):
        known = sorted(file.stem for file in presets_folder().glob("*.yaml"))
        raise ConfigurationError(f"unknown preset {name[:120]!r}{nearest(name[:120], known)}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise ConfigurationError(f"{path}: not YAML: {error}") from error
    return checked(Preset, content, str(path))


def _listed(value: Any, what: str) -> list | tuple:
    if not isinstance(value, list | tuple):
        raise ValueError(f"expected a list of {what}")
    return value


def label(preset: str | None, corpus: str | None) -> str:
    """Folder name of one preset on one corpus, such as `tour-sample`; of a corpus folder only its name counts."""
    parts = [Path(os.path.abspath(text)).name for text in (preset, corpus) if text]
    return re.sub(r"[^\w.-]+", "_", "-".join(parts)) or "default"


def experiment(start: str | Preset = "tour", /, **changes) -> Experiment:
    """The experiment of a preset (its name, or the preset itself) with `changes` to its fields.

    Raises ConfigurationError naming the key, what was expected and what was found.
    """
    chosen, where = _chosen(start)
    return checked(Experiment, {**chosen.experiment, **changes}, f"experiment from {where}")


def pretraining(start: str | Preset = "tour", /, **changes) -> Pretraining:
    """The pretraining of a preset (its name, or the preset itself) with `changes` to its fields.

    Encoder, pooling, longest input and precision are those of the preset's experiment.

    Raises ConfigurationError naming the key, what was expected and what was found.
    """
    chosen, where = _chosen(start)
    shared = {key: chosen.experiment[key] for key in SHARED if key in chosen.experiment}
    return checked(Pretraining, {**shared, **chosen.pretraining, **changes}, f"pretraining from {where}")


def _chosen(start: str | Preset) -> tuple[Preset, str]:
    return (start, "a preset") if isinstance(start, Preset) else (preset(start), f"preset {start}")


def checked(kind: type[BaseModel], content, where: str):
    """`content` as a value of `kind`; every fault in one ConfigurationError that says `where`."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError("\n".join(_fault(kind, fault, where) for fault in error.errors())) from error


def _fault(kind: type[BaseModel], fault: dict, where: str) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{where}: unknown key {key!r}{nearest(key, kind.model_fields)}"
    found = repr(fault["input"])
    hint = ""
    if isinstance(fault["input"], str) and fault["type"].endswith("_type"):
        hint = " (YAML reads 1e-5 as text: write 1.0e-5)" if "e" in fault["input"].lower() else ""
    return f"{where}: {key}: {fault['msg'].removeprefix('Value error, ')}, found {found[:200]}{hint}"
