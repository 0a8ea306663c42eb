"""Experiments as strict values: everything that a run depends on except its corpus."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializeAsAny, ValidationInfo, field_serializer, field_validator, model_validator

from mtlib.averages import Average
from mtlib.checking import Strict, checked, listed, nearest
from mtlib.combinations import require_compatible
from mtlib.device import Precision
from mtlib.errors import UnknownKindError
from mtlib.identity import said, sha256
from mtlib.kinds import UnknownKind
from mtlib.numbers import Count, Fraction, NonNegative, Positive, Seed, Share
from mtlib.objectives import bregman, correlation, freelb, ordinal, rdrop, smart, weighting  # noqa: F401 (known by kind)
from mtlib.objectives.aggregation import Aggregation, Sum
from mtlib.objectives.losses import Loss
from mtlib.objectives.penalty import Penalty
from mtlib.samplers import RoundRobin, Sampler
from mtlib.tasks import SCALE, TASKS, Task

FORMAT = 3
"""Version of what an experiment means; a change that alters results must raise it, and so must another default."""

NAMING = ("name", "encoder", "encoder_revision", "start_from")
"""Fields that say what a run and its start weights are called: no part of what is trained."""

LONGEST = 10**8
"""Optimizer steps of the longest training: which task trains at which step is drawn, and kept, before the first."""

Pooling = Literal["cls", "mean"]
Schedule = Literal["constant", "linear", "halve"]


class Optimisation(Strict):
    """Settings that every kind of training shares.

    name: what the run's folder is called; empty, it is `label`. It does not change what is trained.
    encoder: "minilm", "mpnet", "tiny", a folder or a Hub id; encoder_revision: the commit of a Hub id.
    start_from: another experiment, or a pretraining, whose finished weights the run starts from. Its encoder is then
        this one's too.
    epochs: of `steps_per_epoch` optimizer steps each, whatever the sampler. batch_size: examples (or pairs) a step.
    learning_rate, weight_decay (none on biases and LayerNorm), betas: AdamW's.
    layer_decay: below 1, each layer's learning rate is that of the layer above it times this; the heads have all of it.
    warmup: share of all steps over which the learning rate rises linearly to its value.
    schedule: "constant"; "linear", by equal steps down to 0, which it would be after the last step; or "halve", times
        0.5 after three consecutive epochs of rising total loss.
    clip: largest gradient norm.
    precision: "auto" is bfloat16 where the device multiplies faster in it, else float32.
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
    weight_decay: NonNegative = 1e-4
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    layer_decay: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    warmup: Share = 0.0
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
    def _betas(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.steps > LONGEST:
            asked = f"epochs times steps_per_epoch, found {self.steps:,}"
            raise ValueError(f"expected at most {LONGEST:,} optimizer steps, {asked}")
        return self

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

    def but(self, **changes: Any) -> Self:
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
    def parents(self) -> "tuple[Optimisation, ...]":
        """The experiments whose runs have to be finished before this one can begin."""
        return (self.start_from,) if self.start_from else ()

    def needs(self) -> "Iterator[Optimisation]":
        """Its parents, and what they need in turn."""
        for parent in self.parents:
            yield parent
            yield from parent.needs()

    @property
    def label(self) -> str:
        """`name`, or a folder's name made of what sets it apart: "annealed-smart-15", "mnrl-5"."""
        words = [*self._words(), *([f"seed-{self.seed}"] if self.seed else [])]
        return self.name or safe_label("-".join(words))

    def _words(self) -> list[str]:
        layers = [f"layers-{self.layer_decay:g}"] if self.layer_decay < 1 else []
        return [*([f"from-{self.start_from.label}"] if self.start_from else []), *layers]

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def digest(self) -> str:
        """SHA-256 of all settings but the names: equal for what is trained alike on one corpus from one encoder."""
        return sha256([FORMAT, said(self, but=("name",)), self._tasks_said()])

    def identity(self, corpus: str, weights: str) -> str:
        """SHA-256 of what is trained: all but the naming settings, the fingerprints of corpus and start weights."""
        return sha256([FORMAT, said(self, but=NAMING), self._tasks_said(), corpus, weights])

    def _tasks_said(self) -> list:
        tasks = [TASKS[name] for name in self.task_names]
        said = [[task.name, task.kind, task.is_pair, task.classes, task.low, task.high] for task in tasks]
        return [[*each, SCALE] if task.unit != 1 else each for task, each in zip(tasks, said, strict=True)]


class Experiment(Optimisation):
    """Everything that one multitask training run depends on except its corpus.

    tasks: names of registered tasks. sampler: which task trains at which step.
    step: "single", a batch of one task a step; or "joint", a part of each batch from every task, `batch_size` examples
        in all, in shares that are the sampler's probabilities (`apportioned`).
    aggregate: what a joint step makes of its tasks' gradients or losses: "sum", or one of TorchJD's methods.
    penalties: terms added to the loss. head_dropout: dropout before the heads.
    head_rate: the heads' learning rate as a multiple of `learning_rate`: they start anew, and the encoder does not.
    phrases: share of the batches of a task with phrases (`<files>-phrases.csv` in the corpus' folder) that holds them.
    losses: by task, another loss than its kind's own: `Ordinal`, `Correlation`.
    teachers: experiments whose finished runs teach this one: their mean prediction is a second target of each training
        example, whose loss (at `temperature` for classes) counts `soft_share` and the label's own the rest.
    averages: averaged weights that are scored beside the run's own, `Ema`, `Lawa`: no part of the training.
    stored: which weights the run stores and is chosen by: "own", or the kind of one of its averages.
    conflicts: at every so many steps the tasks' gradients are compared layer by layer (`training.conflicts`); in single
        steps on a joint batch beside the step's own. It changes nothing of the training.
    dev_limit: at most this many dev examples a task are scored after each epoch; the chosen and the last
        epoch are always scored on all of dev.
    The other fields are those of `Optimisation`.
    """

    tasks: tuple[str, ...] = ("sst", "qqp", "sts")
    sampler: SerializeAsAny[Sampler] = RoundRobin()
    step: Literal["single", "joint"] = "single"
    aggregate: SerializeAsAny[Aggregation] = Sum()
    penalties: tuple[SerializeAsAny[Penalty], ...] = ()
    head_rate: Positive = 1.0
    phrases: Fraction = 0.0
    losses: dict[str, SerializeAsAny[Loss]] = {}
    teachers: tuple["Experiment", ...] = ()
    soft_share: Share = 0.5
    temperature: Positive = 2.0
    averages: tuple[SerializeAsAny[Average], ...] = ()
    stored: str = "own"
    conflicts: Count | None = None
    dev_limit: Count | None = None

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks that are trained."""
        return self.tasks

    @field_validator("tasks", mode="before")
    @classmethod
    def _tasks(cls, value: Any) -> tuple[str, ...]:
        names = tuple(task.name if isinstance(task, Task) else task for task in listed(value, "names of tasks"))
        for name in names:
            if not isinstance(name, str) or name not in TASKS:
                raise UnknownKind(f"unknown task {str(name)[:100]!r}{nearest(str(name), TASKS)}")
        if len(set(names)) < len(names):
            raise ValueError(f"a task is named twice: {', '.join(names)}")
        if not names:
            raise ValueError("expected at least one task")
        return names

    @field_validator("sampler", "aggregate", mode="before")
    @classmethod
    def _kinded(cls, value: Any, info: ValidationInfo) -> Any:
        return (Sampler if info.field_name == "sampler" else Aggregation).read(value)

    @field_validator("penalties", mode="before")
    @classmethod
    def _penalties(cls, value: Any) -> tuple[Penalty, ...]:
        penalties = tuple(Penalty.read(entry) for entry in listed(value, "penalties"))
        if len({penalty.kind for penalty in penalties}) < len(penalties):
            raise ValueError("a kind of penalty is given twice")
        if len({penalty.dropout for penalty in penalties}) > 1:
            raise ValueError("penalties of one run share its clean pass: their dropout policies must be equal")
        again = any(penalty.runs_student_again and penalty.weight for penalty in penalties)
        if penalties and penalties[0].dropout == "shared" and not again:
            kinds = " and ".join(penalty.kind for penalty in penalties)
            raise ValueError(f"{kinds} makes no second pass to share a mask with: use dropout 'independent', or 'off'")
        return penalties

    @field_validator("teachers", mode="before")
    @classmethod
    def _teachers(cls, value: Any) -> Any:
        return tuple(
            each if isinstance(each, Experiment) else cls.model_validate(each) for each in listed(value, "experiments")
        )

    @property
    def parents(self) -> tuple[Optimisation, ...]:
        """What it starts from, and its teachers."""
        return (*super().parents, *self.teachers)

    @field_validator("losses", mode="before")
    @classmethod
    def _losses(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError("expected a loss by the name of a task")
        return {str(task): Loss.read(entry) for task, entry in sorted(value.items(), key=str)}

    @field_validator("averages", mode="before")
    @classmethod
    def _averages(cls, value: Any) -> Any:
        averages = tuple(Average.read(entry) for entry in listed(value, "averages"))
        if len({average.kind for average in averages}) < len(averages):
            raise ValueError("a kind of average is given twice")
        return averages

    @model_validator(mode="after")
    def _combined(self) -> Self:
        require_compatible(self)
        return self

    @property
    def dropout(self) -> str | None:
        """The penalties' common dropout policy; None without penalties: plain training, with dropout.

        A penalty of weight 0 costs nothing and still sets the policy: the control for what dropout alone does.
        """
        return next((penalty.dropout for penalty in self.penalties), None)

    def _words(self) -> list[str]:
        joint = ["joint"] if self.step == "joint" else [f"phrases-{self.phrases:g}"] if self.phrases else []
        joint += [self.aggregate.label] if self.aggregate.kind != "sum" else []
        chosen = [f"{task}-{loss.label}" for task, loss in self.losses.items()]
        chosen += [f"taught-by-{len(self.teachers)}-{self.soft_share:g}"] if self.teachers else []
        added = [*(each.label for each in self.penalties), *(each.label for each in self.averages)]
        heads = [f"heads-{self.head_rate:g}"] if self.head_rate != 1 else []
        return [*super()._words(), *heads, self.sampler.kind, *joint, *chosen, *added]


class Pretraining(Optimisation):
    """Multiple negatives ranking of one task's sentences: trains the encoder alone, before multitask fine-tuning.

    task: a classification task of single sentences. batch_size: pairs a step; up to the number of classes they are
    all of different classes. scale: C, the factor on the cosines.
    false_negatives: "mask" takes a row's own class out of its negatives; with repeated classes it is needed.
    head_dropout: 0, for no head is trained. The other fields are those of `Optimisation`.
    """

    batch_size: Annotated[int, Field(ge=2, le=10**6)] = 5
    task: str = "sst"
    scale: Positive = 20.0
    false_negatives: Literal["keep", "mask"] = "keep"
    head_dropout: Annotated[float, Field(ge=0, le=0)] = 0.0

    @field_validator("task")
    @classmethod
    def _task(cls, value: str) -> str:
        if value not in TASKS:
            raise UnknownKind(f"unknown task {value[:100]!r}{nearest(value, TASKS)}")
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


def safe_label(words: str) -> str:
    """Words as a name that a folder can have: letters, digits, dots and hyphens, at most 80."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", words).strip("-.")[:80].strip("-.") or "run"


def read_experiment(fields: Any, where: str) -> Optimisation:
    """The Experiment, or the Pretraining (it has a `task`), of stored fields.

    Raises ConfigurationError saying `where`; UnknownKindError where the module of a task, sampler or penalty has to be
    imported first.
    """
    kind = Pretraining if isinstance(fields, dict) and "task" in fields else Experiment
    try:
        return checked(kind, fields, where)
    except UnknownKindError as error:
        raise UnknownKindError(f"{error}; name the module that defines it with --import MODULE") from None
