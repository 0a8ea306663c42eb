"""Settings of an experiment that cannot work together, refused with the reason."""

from typing import TYPE_CHECKING

from mtlib.averages import Ema
from mtlib.checking import nearest
from mtlib.tasks import TASKS

if TYPE_CHECKING:
    from mtlib.experiments import Experiment


def require_compatible(e: "Experiment") -> None:
    """Raise ValueError for the first combination of settings that cannot be trained."""
    _joint(e)
    _losses(e)
    for field in () if e.teachers else ("soft_share", "temperature"):
        if getattr(e, field) != type(e).model_fields[field].default:
            raise ValueError(f"{field}: {getattr(e, field):g} changes nothing without teachers")
    if taught := [each.label for each in e.teachers if not set(each.tasks) & set(e.tasks)]:
        raise ValueError(f"teachers: {taught[0]} shares no task with {', '.join(e.tasks)}")
    if e.head_dropout and e.dropout == "off":
        raise ValueError(
            f"head_dropout: {e.head_dropout:g} changes nothing beside penalties whose dropout is 'off': "
            "expected 0, or penalties with dropout 'independent' or 'shared'"
        )
    _averages(e)


def _averages(e: "Experiment") -> None:
    kept = ("own", *(average.kind for average in e.averages))
    if e.stored not in kept:
        raise ValueError(f"stored: expected one of {', '.join(kept)}, found {e.stored[:60]!r}")
    for average in e.averages:
        if isinstance(average, Ema) and average.kind == e.stored and average.every > e.steps:
            raise ValueError(
                "stored: an 'ema' that never moves is the weights it starts from: expected its `every` to be "
                f"at most the run's {e.steps} steps, found {average.every}"
            )


def _losses(e: "Experiment") -> None:
    for task, loss in e.losses.items():
        if task not in e.tasks:
            raise ValueError(f"losses: {task[:60]!r} is not trained{nearest(task, e.tasks)}")
        if TASKS[task].kind != loss.label_kind:
            raise ValueError(f"losses: {loss.kind!r} is for {loss.label_kind}, {task} is {TASKS[task].kind}")
        if loss.compares and e.batch_size == 1:
            raise ValueError(f"losses: {loss.kind!r} compares examples: expected a batch_size of at least 2, found 1")


def _joint(e: "Experiment") -> None:
    if e.conflicts and len(e.tasks) < 2:
        raise ValueError(f"conflicts: expected two or more tasks to compare, found {e.tasks[0]} alone")
    if e.step == "single" and e.aggregate.kind != "sum":
        raise ValueError(f"aggregate {e.aggregate.kind!r} needs joint steps, in which tasks meet: set step to 'joint'")
    if e.step == "joint" and e.phrases:
        raise ValueError("phrases: a joint step draws from the sentences alone: expected step 'single'")
    if (e.step == "joint" or e.conflicts) and e.batch_size < len(e.tasks):
        raise ValueError(
            "a joint step, or one whose conflicts are logged, has a part of its batch from every task: "
            f"expected a batch_size of at least {len(e.tasks)}, found {e.batch_size}"
        )
