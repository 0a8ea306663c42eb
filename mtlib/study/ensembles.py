"""Several runs as one: averaged predictions, gated by score, and averaged weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache as once
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mtlib.data.batches import TokenizedSplit
from mtlib.data.corpus import Corpus
from mtlib.errors import CheckpointError, ConfigurationError
from mtlib.model import MultitaskModel
from mtlib.prediction import predictions
from mtlib.study.cache import NO_CACHE, Cache, inference
from mtlib.study.eval_splits import (
    CHOOSING,
    ChoosingHalf,
    Stored,
    System,
    aligned,
    is_labelled,
    probabilities,
    require_choosing,
    score_table,
    tasks_of,
)
from mtlib.study.paper import ENSEMBLE_THRESHOLDS
from mtlib.tasks import TASKS, Task, in_order
from mtlib.training.runs import Run


@dataclass(frozen=True)
class Ensemble:
    """The members of each task, by name, and a sentence a task on how they were chosen.

    It has `predictions(split, task)` like a run, so it is scored and compared like one.
    """

    members: Mapping[str, Mapping[str, System]]
    notes: Mapping[str, str]

    @property
    def tasks(self) -> list[str]:
        """The tasks that have members."""
        return in_order(self.members)

    def predictions(self, split: str, task: str) -> pd.DataFrame:
        """The members' averaged predictions; raises DataError when their ids or labels differ."""
        return average([member.predictions(split, task) for member in self.members[task].values()], task)


def of_all(candidates: Mapping[str, System]) -> Ensemble:
    """The ensemble of every candidate, without a gate, for the tasks that all of them have."""
    tasks = tasks_of(*candidates.values())
    return Ensemble({task: candidates for task in tasks}, {task: "every candidate" for task in tasks})


def choose(
    candidates: Mapping[str, System],
    half: ChoosingHalf = CHOOSING,
    thresholds: Mapping[str, float] = ENSEMBLE_THRESHOLDS,
    tasks: Sequence[str] | None = None,
) -> Ensemble:
    """An ensemble whose members reach the task's threshold on the choosing half of dev, task by task.

    Where no candidate does, the best one stands alone, and a task without threshold has every candidate; the notes say
    so. Raises ConfigurationError when there is no candidate, for the threshold of a task that there is not, and when
    `half` is anything but the choosing half.
    """
    if not candidates:
        raise ConfigurationError("an ensemble needs at least one candidate, found none")
    tasks = tasks or tasks_of(*candidates.values())
    if unknown := [task for task in thresholds if task not in TASKS]:
        raise ConfigurationError(f"threshold of an unknown task {unknown[0]!r}: known are {', '.join(TASKS)}")
    scores = score_table(candidates, require_choosing(half), tasks)
    members, notes = {}, {}
    for task in tasks:
        if task not in thresholds:
            members[task], notes[task] = candidates, f"{TASKS[task].title or task}, no threshold: every candidate"
            continue
        passed = [name for name in candidates if scores.loc[name, task] >= thresholds[task]]
        rule = f"{TASKS[task].title or task}, threshold {thresholds[task]:g}: "
        if passed:
            notes[task] = f"{rule}{len(passed)} of {len(candidates)} candidates pass"
        else:
            passed = [_highest(scores[task])]
            notes[task] = f"{rule}no candidate passes, {passed[0]} with {scores.loc[passed[0], task]:.3f} is used alone"
        members[task] = {name: candidates[name] for name in passed}
    return Ensemble(members, notes)


def select(
    candidates: Mapping[str, System], half: ChoosingHalf = CHOOSING, tasks: Sequence[str] | None = None
) -> Ensemble:
    """An ensemble grown task by task on the choosing half of dev: forward selection (Caruana et al. 2004).

    The best candidate comes first; then the one joins whose prediction raises the average's score most, until none
    does. Unlike there, a candidate joins once, so members have equal weights. Of equal scores the first one counts.
    Raises ConfigurationError when there is no candidate, when every score of a task is undefined, or when `half` is
    anything but the choosing half; DataError where ids or labels differ.
    """
    if not candidates:
        raise ConfigurationError("an ensemble needs at least one candidate, found none")
    require_choosing(half)
    members, notes = {}, {}
    for task in tasks or tasks_of(*candidates.values()):
        frames = aligned([half.predictions(each, task) for each in candidates.values()], task)
        outputs = dict(zip(candidates, map(_output, frames), strict=True))
        chosen, score = _grown(outputs, partial(_score_of, TASKS[task], frames[0]["label"].to_numpy()))
        if not chosen:
            raise ConfigurationError(f"{task}: the score of every candidate is undefined")
        members[task] = {name: candidates[name] for name in chosen}
        notes[task] = f"{TASKS[task].title or task}: {len(chosen)} of {len(candidates)} candidates, {score:.3f}"
    return Ensemble(members, notes)


def _output(frame: pd.DataFrame) -> np.ndarray:
    """What an average is taken of, [n, classes], or [n, 1] for a regression."""
    return probabilities(frame) if "p0" in frame else frame[["prediction"]].to_numpy(float)


def _score_of(task: Task, labels: np.ndarray, output: np.ndarray) -> float:
    return task.score(labels, output[:, 0] if task.kind == "regression" else output.argmax(axis=1))


def _grown(outputs: Mapping[str, np.ndarray], score: Callable[[np.ndarray], float]) -> tuple[list[str], float]:
    """Names in the order in which they join, and the score of their average."""
    chosen: list[Any] = []
    total, reached = np.zeros(()), -np.inf
    while left := [name for name in outputs if name not in chosen]:
        scores = np.nan_to_num([score((total + outputs[name]) / (len(chosen) + 1)) for name in left], nan=-np.inf)
        if not scores.max() > reached:
            break
        name, reached = left[scores.argmax()], float(scores.max())
        chosen, total = [*chosen, name], total + outputs[name]
    return chosen, reached


def best(candidates: Mapping[str, System], half: ChoosingHalf = CHOOSING, task: str = "mean") -> str:
    """The first of the candidates with the highest score on the choosing half of dev; a lone candidate is not scored.

    Raises ConfigurationError when every score is undefined, or `half` is anything but the choosing half.
    """
    require_choosing(half)
    return next(iter(candidates)) if len(candidates) == 1 else _highest(score_table(candidates, half)[task])


def leaders(candidates: Mapping[str, System], half: ChoosingHalf = CHOOSING) -> dict[str, System]:
    """The "single" best by its mean and the "ensemble" that `select` grows, both chosen on the choosing half of dev.

    Of runs, those that have the most tasks compete. Raises ConfigurationError when there is no candidate.
    """
    if not candidates:
        raise ConfigurationError("expected at least one candidate, found none")
    most = max(len(tasks_of(each)) for each in candidates.values())
    full = {name: each for name, each in candidates.items() if len(tasks_of(each)) == most}
    return {"single": full[best(full, half)], "ensemble": select(full, half)}


def _highest(scores: pd.Series) -> str:
    if scores.isna().all():
        raise ConfigurationError(f"{scores.name}: the score of every candidate is undefined")
    return str(scores.idxmax())


def average(frames: Sequence[pd.DataFrame], task: str) -> pd.DataFrame:
    """Averaged class probabilities, or averaged predictions of a regression, aligned by id in the first's order.

    The prediction is the most probable class. One frame alone is returned as it is. Raises DataError when the frames'
    ids or labels differ, or an id is repeated.
    """
    first = frames[0].reset_index(drop=True)
    if len(frames) == 1:
        return first
    frames = aligned(frames, task, labelled="label" in first)
    if TASKS[task].kind == "regression":
        averaged = frames[0].assign(
            prediction=np.mean([frame["prediction"].to_numpy(float) for frame in frames], axis=0)
        )
    else:
        table = np.mean([probabilities(frame) for frame in frames], axis=0)  # [n, classes]
        columns = {f"p{index}": table[:, index] for index in range(table.shape[1])}
        averaged = frames[0].assign(prediction=table.argmax(axis=1), **columns)
    return averaged.set_index("id").loc[first["id"]].reset_index()[list(averaged.columns)]


def average_weights(stored: Sequence[Run | Path | str]) -> MultitaskModel:
    """One model with the mean weights of runs, or of stored models' folders, computed in float64.

    A "soup" (Wortsman et al., 2022): it costs what one model costs, and makes sense for runs that share an ancestor.
    Its probabilities are as they come: temperatures are the members' own, not the mean's.
    Raises CheckpointError when the models' tasks, settings or weights do not fit together, and where a run's model is
    not the one it stored.
    """
    models = [each.model() if isinstance(each, Run) else MultitaskModel.from_pretrained(each) for each in stored]
    paths = [each.path if isinstance(each, Run) else each for each in stored]
    states = [model.state_dict() for model in models]
    for path, model, state in zip(paths, models, states, strict=True):
        for setting in ("tasks", "pooling", "max_tokens"):
            if getattr(model, setting) != getattr(models[0], setting):
                raise CheckpointError(f"{path}: its {setting} differ from those of {paths[0]}")
        shapes, first = ({name: tensor.shape for name, tensor in each.items()} for each in (state, states[0]))
        if strangers := sorted(dict(shapes.items() ^ first.items())):
            raise CheckpointError(
                f"{path}: its weights {strangers[:3]} differ in name or shape from those of {paths[0]}"
            )
    means = {}
    for name, tensor in states[0].items():
        stacked = torch.stack([state[name].double() for state in states])
        means[name] = stacked.mean(dim=0).to(tensor.dtype) if tensor.is_floating_point() else tensor
    models[0].load_state_dict(means)
    models[0].temperatures = {}
    return models[0]


def predicted(model: MultitaskModel, corpus: Corpus, splits: Sequence[str] = ("dev", "test")) -> Stored:
    """The model's predictions on the splits that the corpus has, to be scored and compared like a run's."""
    frames = {}
    for task in model.tasks:
        for split in splits:
            examples = getattr(corpus[task.name], split)
            if examples is not None:
                tokenized = TokenizedSplit(task, examples, model.tokenizer, model.max_tokens)
                frames[split, task.name] = predictions(model, tokenized)
    return Stored(frames)


def cost(system: System, run_of: Callable[[Any], Run]) -> dict[str, str | float]:
    """Models that run for one prediction of each task, and seconds of training, with those of what the models needed.

    run_of: the finished run of an experiment.
    """
    members, seconds = _members(system), {}
    for run in _runs(members):
        for trained in (run, *map(run_of, run.experiment.needs())):
            seconds[trained.id] = trained.seconds
    return {"models": ", ".join(str(len(each)) for each in members), "seconds": sum(seconds.values())}


def encoders(system: System) -> str:
    """Names of the encoders that a system's runs were trained from, each once."""
    return ", ".join(dict.fromkeys(Path(run.experiment.encoder).name for run in _runs(_members(system))))


def _members(system: System) -> list[list[Any]]:
    """What answers each task: an ensemble's members, or the system itself."""
    if isinstance(system, Ensemble):
        return [list(system.members[task].values()) for task in system.tasks]
    return [[system]] * len(tasks_of(system))


def _runs(members: Sequence[Sequence[Any]]) -> Iterator[Any]:
    """The runs behind the members, a soup's among them."""
    for member in chain.from_iterable(members):
        yield from getattr(member, "members", (member,))


@dataclass(frozen=True)
class Soup(Stored):
    """Stored predictions of the averaged weights of `members`."""

    members: tuple[Run, ...] = ()


def soup(runs: Sequence[Run], corpus: Corpus, cache: Cache = NO_CACHE) -> Soup:
    """Predictions of the runs' averaged weights on dev and, where it is labelled, on test.

    They are kept in `cache` under the members' identities and the corpus.
    """
    runs = sorted(runs, key=lambda run: run.identity)
    experiment, on = runs[0].experiment, [[run.identity for run in runs], corpus.fingerprint]
    splits = ("dev", "test") if is_labelled(corpus, "test", experiment.task_names) else ("dev",)

    @once
    def computed() -> Mapping[tuple[str, str], pd.DataFrame]:
        with inference(average_weights(runs), experiment.precision) as model:
            return predicted(model, corpus, splits).frames

    def frame(split: str, task: str) -> pd.DataFrame:
        return computed()[split, task]

    places = [(split, task) for split in splits for task in experiment.task_names]
    frames = {place: cache.frame("-".join(["soup", *place]), on, partial(frame, *place)) for place in places}
    return Soup(frames, tuple(runs))
