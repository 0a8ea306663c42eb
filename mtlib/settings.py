"""What `mtlib.experiment` and its like take, spelt out, so that editors, Jupyter and `help` can complete it."""

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature, signature
from typing import Any, Literal, TypedDict, TypeVar, get_args

from mtlib.averages import Average
from mtlib.device import Precision
from mtlib.experiments import Experiment, Optimisation, Pooling, Schedule
from mtlib.objectives.aggregation import Aggregation
from mtlib.objectives.losses import Loss
from mtlib.objectives.penalty import Penalty
from mtlib.samplers import Sampler
from mtlib.tasks import Task

F = TypeVar("F", bound=Callable)


class Settings(TypedDict, total=False):
    """Fields of every `Optimisation`, whose docstring says what they mean."""

    name: str
    encoder: str
    encoder_revision: str | None
    start_from: Optimisation | None
    pooling: Pooling
    epochs: int
    steps_per_epoch: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    betas: tuple[float, float]
    layer_decay: float
    warmup: float
    schedule: Schedule
    clip: float
    precision: Precision
    max_tokens: int
    head_dropout: float
    seed: int


class ExperimentSettings(Settings, total=False):
    """Fields of an `Experiment`."""

    tasks: Sequence[str | Task]
    step: Literal["single", "joint"]
    sampler: Sampler | str | Mapping[str, Any]
    conflicts: int | None
    head_rate: float
    phrases: float
    teachers: Sequence[Experiment]
    soft_share: float
    temperature: float
    aggregate: Aggregation | str | Mapping[str, Any]
    losses: Mapping[str, Loss | Mapping[str, Any]]
    averages: Sequence[Average | Mapping[str, Any]]
    stored: str
    penalties: Sequence[Penalty | Mapping[str, Any]]
    dev_limit: int | None


class PretrainingSettings(Settings, total=False):
    """Fields of a `Pretraining`."""

    task: str
    scale: float
    false_negatives: str


def spelt_out(function: F) -> F:
    """The function with its `**changes: Unpack[SomeSettings]` as keyword arguments in its signature, for `help`."""
    shown = signature(function)
    (changes,) = [each for each in shown.parameters.values() if each.kind is Parameter.VAR_KEYWORD]
    (settings,) = get_args(changes.annotation)
    known = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=..., annotation=kind)
        for name, kind in settings.__annotations__.items()
    ]
    before = [each for each in shown.parameters.values() if each is not changes]
    given = Signature([*before, *known], return_annotation=shown.return_annotation)
    function.__signature__ = given  # type: ignore[attr-defined]
    return function
