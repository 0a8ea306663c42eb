"""Experiments as strict values: everything that a run depends on except its corpus."""

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, field_validator, model_validator

from mtlib.device import Precision
from mtlib.errors import ConfigurationError
from mtlib.objectives.bregman import Bregman  # noqa: F401
from mtlib.objectives.penalty import Penalty
from mtlib.objectives.smart import Smart  # noqa: F401  (a penalty is known by its kind once it is imported)
from mtlib.samplers import RoundRobin, Sampler
from mtlib.tasks import TASKS, Task

FORMAT = 2
"""Version of what an experiment means; a change that alters results must raise it."""

NAMING = ("name", "encoder", "encoder_revision", "start_from")
"""Fields that say what a run and its start weights are called: no part of what is trained."""

Pooling = Literal["cls", "mean"]
Schedule = Literal["constant", "linear", "halve"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Strict(BaseModel):
    """Frozen values; unknown keys and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Optimisation(Strict):
    """Settings that every kind of training shares.

    name: what the run's folder is called; empty, it is `label`. It does not change what is trained.
    encoder: "minilm", "mpnet", "tiny", a folder or a Hub id; encoder_revision: the commit of a Hub id.
    start_from: another experiment, or a pretraining, whose finished weights the run starts from. Its encoder is then
        this one's too.
    epochs: of `steps_per_epoch` optimizer steps each, whatever the sampler. batch_size: examples (or pairs) a step.
    learning_rate, weight_decay (none on biases and LayerNorm), betas: AdamW's.
    warmup: share of all steps over which the learning rate rises linearly to its value.
    schedule: "constant"; "linear", down to 0 at the last step; or "halve", times 0.5 after three
        consecutive epochs of rising total loss.
    clip: largest gradient norm.
    precision: "auto" is bfloat16 where the device computes in it, else float32.
    max_tokens: longer inputs are cut.
    """

    name: Annotated[str, Field(max_length=100)] = ""
    encoder: Annotated[str, Field(max_length=4096)] = "minilm"
    encoder_revision: str | None = None
    start_from: "Optimisation | None" = None
    pooling: Pooling = "mean"
    epochs: Count = 10
    steps_per_epoch: Count = 300
    batch_size: Annotated[int, Field(ge=1, le=10**6)] = 16
    learning_rate: Positive = 1e-5
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-4
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    warmup: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    schedule: Schedule = "constant"
    clip: Positive = 1.0
    precision: Precision = "auto"
    max_tokens: Annotated[int, Field(ge=4, le=10**6)] = 128
    head_dropout: Fraction = 0.0
    seed: Seed = 0

    @model_validator(mode="before")
    @classmethod
    def _same_encoder(cls, data: Any) -> Any:
        """With `start_from`, an encoder that is not given is the ancestor's; a different one is refused."""
        if not isinstance(data, dict) or data.get("start_from") is None:
            return data
        start = data["start_from"]
        if isinstance(start, dict):
            kind = Pretraining if "task" in start else Experiment
            start = kind.model_validate(start)
        if not isinstance(start, Optimisation):
            raise ValueError(f"start_from: expected an experiment or a pretraining, found {type(start).__name__}")
        data = {**data, "start_from": start}
        for key in ("encoder", "encoder_revision"):
            if data.setdefault(key, getattr(start, key)) != getattr(start, key):
                raise ValueError(f"{key}: expected {getattr(start, key)!r}, that of start_from, found {data[key]!r}")
        return data

    @field_validator("betas", mode="before")
    @classmethod
    def _betas(cls, value):
        return tuple(value) if isinstance(value, list) else value

    @field_serializer("start_from")
    def _dump_start(self, start: "Optimisation | None") -> dict | None:
        return None if start is None else start.model_dump(mode="json")

    @property
    def task_names(self) -> tuple[str, ...]:
        """Tasks whose examples it trains on."""
        raise TypeError(f"{type(self).__name__} does not define task_names")

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    def but(self, **changes) -> Self:
        """The same with some fields changed; raises ConfigurationError as a new one would."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return checked(type(self), {**fields, **changes}, f"{self.label} but")

    def at(self, seed: int) -> Self:
        """The same at another seed, and so all that it starts from."""
        return self.but(seed=seed, start_from=self.start_from and self.start_from.at(seed))

    def ancestors(self) -> "Iterator[Optimisation]":
        """The experiment it starts from, the one that starts from, and so on."""
        if self.start_from is not None:
            yield self.start_from
            yield from self.start_from.ancestors()

    @property
    def label(self) -> str:
        """`name`, or a folder's name made of what sets it apart: "annealed-smart-15", "mnrl-5"."""
        words = [*self._words(), *([f"seed-{self.seed}"] if self.seed else [])]
        return self.name or re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(words)).strip("-.")[:80].strip("-.") or "run"

    def _words(self) -> list[str]:
        return [f"from-{self.start_from.label}"] if self.start_from else []

    @property
    def digest(self) -> str:
        """SHA-256 of all fields but the names: equal for what is trained alike on one corpus from one encoder."""
        fields = _unnamed(self.model_dump(mode="json"))
        text = json.dumps([FORMAT, type(self).__name__, fields, self._tasks_as_text()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def identity(self, corpus: str, weights: str) -> str:
        """SHA-256 of what is trained: all fields but the naming ones, the fingerprints of corpus and start weights."""
        fields = self.model_dump(mode="json", exclude=set(NAMING))
        parts = [FORMAT, type(self).__name__, fields, self._tasks_as_text(), corpus, weights]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _tasks_as_text(self) -> list[str]:
        return [repr(TASKS[name]) for name in self.task_names]


class Experiment(Optimisation):
    """Everything that one multitask training run depends on except its corpus.

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
                raise ValueError(f"unknown task {str(name)[:100]!r}{nearest(str(name), TASKS)}")
        if len(set(names)) < len(names):
            raise ValueError(f"a task is named twice: {', '.join(names)}")
        if not names:
            raise ValueError("expected at least one task")
        return names

    @field_validator("sampler", mode="before")
    @classmethod
    def _sampler(cls, value):
        return Sampler.read(value)

    @field_validator("penalties", mode="before")
    @classmethod
    def _penalties(cls, value):
        penalties = tuple(Penalty.read(entry) for entry in _listed(value, "penalties"))
        if len({penalty.kind for penalty in penalties}) < len(penalties):
            raise ValueError("a kind of penalty is given twice")
        if len({penalty.dropout for penalty in penalties}) > 1:
            raise ValueError("penalties of one run share its clean pass: their dropout policies must be equal")
        again = any(penalty.runs_student_again and penalty.weight for penalty in penalties)
        if penalties and penalties[0].dropout == "shared" and not again:
            kinds = " and ".join(penalty.kind for penalty in penalties)
            raise ValueError(f"{kinds} makes no second pass to share a mask with: use dropout 'independent', or 'off'")
        return penalties

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

    def _words(self) -> list[str]:
        return [*super()._words(), self.sampler.kind, *(penalty.label for penalty in self.penalties)]


class Pretraining(Optimisation):
    """Multiple negatives ranking of one task's sentences: trains the encoder alone, before multitask fine-tuning.

    task: a classification task of single sentences. batch_size: pairs a step; up to the number of classes they are
    all of different classes. scale: C, the factor on the cosines.
    false_negatives: "mask" takes a row's own class out of its negatives; with repeated classes it is needed.
    The other fields are those of `Optimisation`.
    """

    batch_size: Annotated[int, Field(ge=2, le=10**6)] = 5
    task: str = "sst"
    scale: Positive = 20.0
    false_negatives: Literal["keep", "mask"] = "keep"

    @field_validator("task")
    @classmethod
    def _task(cls, value):
        if value not in TASKS:
            raise ValueError(f"unknown task {value[:100]!r}{nearest(value, TASKS)}")
        if TASKS[value].kind != "classification" or TASKS[value].is_pair:
            raise ValueError(f"ranking needs a task of classified single sentences, {value!r} is not one")
        return value

    @property
    def task_names(self) -> tuple[str, ...]:
        """The one task whose sentences are ranked."""
        return (self.task,)

    def _words(self) -> list[str]:
        masked = ["masked"] if self.false_negatives == "mask" else []
        return [*super()._words(), f"mnrl-{self.batch_size}", *masked]


def read_experiment(fields: Any, where: str) -> Optimisation:
    """The Experiment, or the Pretraining (it has a `task`), of stored fields; ConfigurationError says `where`."""
    kind = Pretraining if isinstance(fields, dict) and "task" in fields else Experiment
    return checked(kind, fields, where)


def nearest(word: str, known) -> str:
    """ " (did you mean ...?)" for a word that resembles a known one, else the known ones."""
    close = difflib.get_close_matches(word[:100], list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(map(str, known))})"


def checked(kind: type[BaseModel], content: Any, where: str):
    """`content` as a value of `kind`; every fault in one ConfigurationError that says `where`."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError("\n".join(_fault(kind, fault, where) for fault in error.errors())) from error
    except RecursionError:
        raise ConfigurationError(f"{where}: nested too deeply") from None


def _fault(kind: type[BaseModel], fault: Mapping[str, Any], where: str) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{where}: unknown key {key[:120]!r}{nearest(key, kind.model_fields)}"
    actual = shortened(fault["input"])
    hint = ""
    if isinstance(fault["input"], str) and fault["type"].endswith("_type"):
        hint = " (YAML reads 1e-5 as text: write 1.0e-5)" if "e" in fault["input"].lower() else ""
    message = fault["msg"].removeprefix("Value error, ")
    return f"{where}: {key}: {message}, found {actual}{hint}" if key else f"{where}: {message}"


def shortened(value: Any, limit: int = 200) -> str:
    """`repr(value)`, cut at `limit` characters; of a container only its type and size, to keep messages short."""
    if isinstance(value, dict | list | tuple | set):
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, int) and abs(value) >= 10**limit:
        return "an integer of hundreds of digits"
    text = repr(value[: limit + 1]) if isinstance(value, str | bytes) else repr(value)
    return text if len(text) <= limit else text[:limit] + "..."


def _listed(value: Any, what: str) -> list | tuple:
    if not isinstance(value, list | tuple):
        raise ValueError(f"expected a list of {what}")
    return value


def _unnamed(fields: dict) -> dict:
    """Stored fields without the names, its own and its ancestors'."""
    start = fields["start_from"]
    return {**fields, "name": "", "start_from": start and _unnamed(start)}
