"""Checks, before training starts, that a corpus can be trained on and its epochs compared."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from mtlib.data.corpus import TEXTS, Corpus
from mtlib.data.tsv import Fault, raise_faults, unfit_id
from mtlib.tasks import Task
from mtlib.training.evaluation import in_choosing_half, limited


def require_trainable(corpus: Corpus, tasks: Sequence[str], dev_limit: int | None = None) -> None:
    """Raise one DataError with every reason why `tasks` cannot be trained on `corpus`; a sound corpus passes.

    Each task is present, under a title of its own, for two of one title are one in tables; each of its splits has the
    columns, texts, labels and ids that the reader would accept, since a corpus may also be built in Python; train has
    an example; and the examples of dev that choose the epoch, at most `dev_limit` of them, give a score: one example
    for classes, two with different labels for regression.
    """
    faults = [
        Fault(f"corpus {corpus.name}", None, None, f"the task {name!r}", ", ".join(corpus) or "no task")
        for name in tasks
        if name not in corpus
    ]
    titles: dict[str, str] = {}
    for task in corpus.tasks:
        if task.name in tasks:
            if (other := titles.setdefault(title := task.title or task.name, task.name)) != task.name:
                found = f"{title!r} of {other} and {task.name}"
                faults.append(Fault(f"corpus {corpus.name}", None, None, "a title of its own for each task", found))
            damage = list(_faults(corpus, task))
            faults += damage or list(_choosing(task, limited(corpus[task.name].dev, dev_limit, task.name)))
    raise_faults(faults)


def _faults(corpus: Corpus, task: Task) -> Iterator[Fault]:
    for split, frame in corpus[task.name].items():
        place = f"{task.name} {split}"
        needed = ["id", *TEXTS[: len(task.columns)], *(["label"] if split != "test" else [])]
        if missing := [name for name in needed if name not in frame]:
            yield Fault(place, None, None, f"the columns {', '.join(needed)}", f"none called {', '.join(missing)}")
            continue
        if len(frame) == 0:
            yield Fault(place, None, None, "one example or more", "none")
        for column in needed[: 1 + len(task.columns)]:
            if strange := [value for value in frame[column] if not isinstance(value, str)]:
                yield Fault(place, None, column, "text", repr(strange[0])[:60])
        yield from _ids(place, frame)
        if "label" in frame:
            yield from _labels(place, task, frame["label"])


def _ids(place: str, frame: pd.DataFrame) -> Iterator[Fault]:
    ids = [name for name in frame["id"] if isinstance(name, str)]
    if repeated := [name for name, count in pd.Series(ids).value_counts().items() if count > 1]:
        yield Fault(place, None, "id", "an id of its own for each example", f"{repeated[0]!r} twice or more"[:120])
    for name in ids:
        if expected := unfit_id(name):
            yield Fault(place, None, "id", expected, repr(name)[:60])
            return


def _labels(place: str, task: Task, labels: pd.Series) -> Iterator[Fault]:
    numbers = pd.to_numeric(labels, errors="coerce").to_numpy(float)
    if task.kind == "regression":
        good, expected = (numbers >= task.low) & (numbers <= task.high), f"a number from {task.low:g} to {task.high:g}"
    else:
        classes = task.classes if task.kind == "classification" else 2
        good, expected = np.isin(numbers, range(classes)), f"an integer from 0 to {classes - 1}"
    if not good.all():
        yield Fault(place, None, "label", expected, repr(labels.tolist()[int(np.argmin(good))])[:60])


def _choosing(task: Task, dev: pd.DataFrame) -> Iterator[Fault]:
    labels = dev["label"][in_choosing_half(dev["id"].tolist())]
    needed = 2 if task.kind == "regression" else 1
    scored = f"{len(labels)} of the {len(dev)} that are scored after an epoch"
    if len(dev) < 2 or len(labels) < needed:
        yield Fault(
            f"{task.name} dev", None, None, f"{needed} or more examples in the half that chooses the epoch", scored
        )
    elif task.kind == "regression" and labels.nunique() < 2:
        expected = "different labels in the half that chooses the epoch (a correlation needs them)"
        yield Fault(f"{task.name} dev", None, "label", expected, f"{labels.iloc[0]!r} in {scored}")
