"""Several runs as one: averaged predictions, gated by score, and averaged weights."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mtlib.config import Pretraining
from mtlib.data.batches import TokenizedSplit
from mtlib.data.corpus import Corpus
from mtlib.errors import CheckpointError, ConfigurationError, DataError, MissingRunError
from mtlib.model import MultitaskModel, predictions
from mtlib.study.calibration import probabilities
from mtlib.study.paper import ENSEMBLE_THRESHOLDS
from mtlib.study.parts import THREE, ChoosingHalf, Stored, System, require_choosing, task_scores
from mtlib.tasks import TASKS
from mtlib.training.device import Device
from mtlib.training.files import storage, write_atomic
from mtlib.training.runs import Run, RunStore


@dataclass(frozen=True)
class Ensemble:
    """The members of each task, by name, and a sentence a task on how they were chosen.

    It has `predictions(split, task)` like a run, so it is scored and compared like one.
    """

    members: Mapping[str, Mapping[str, System]]
    notes: Mapping[str, str]

    def predictions(self, split: str, task: str) -> pd.DataFrame:
        """The members' averaged predictions; raises DataError when their ids or labels differ."""
        return average([member.predictions(split, task) for member in self.members[task].values()], task)


def choose(
    candidates: Mapping[str, System],
    half: ChoosingHalf,
    thresholds: Mapping[str, float] = ENSEMBLE_THRESHOLDS,
    tasks: Sequence[str] = THREE,
) -> Ensemble:
    """An ensemble whose members reach the task's threshold on the choosing half of dev, task by task.

    Where no candidate does, the best one stands alone and the note says so. Raises ConfigurationError when there is no
    candidate, when a task has no threshold, or when `half` is anything but the choosing half.
    """
    require_choosing(half)
    if not candidates:
        raise ConfigurationError("an ensemble needs at least one candidate, found none")
    if missing := [task for task in tasks if task not in thresholds]:
        raise ConfigurationError(f"no threshold for {missing}: found {dict(thresholds)}")
    scores = score_table(candidates, half, tasks)
    members, notes = {}, {}
    for task in tasks:
        passed = [name for name in candidates if scores.loc[name, task] >= thresholds[task]]
        rule = f"{TASKS[task].title or task}, threshold {thresholds[task]:g}: "
        if passed:
            notes[task] = f"{rule}{len(passed)} of {len(candidates)} candidates pass"
        else:
            passed = [best(scores, task)]
            notes[task] = f"{rule}no candidate passes, {passed[0]} with {scores.loc[passed[0], task]:.3f} is used alone"
        members[task] = {name: candidates[name] for name in passed}
    return Ensemble(members, notes)


def score_table(candidates: Mapping[str, System], half: ChoosingHalf, tasks: Sequence[str] = THREE) -> pd.DataFrame:
    """Scores on the choosing half of dev, one row a candidate, a column a task and one for the mean."""
    require_choosing(half)
    return pd.DataFrame({name: task_scores(system, half, tasks) for name, system in candidates.items()}).T


def best(scores: pd.DataFrame, task: str = "mean") -> str:
    """The first of the candidates with the highest score; raises ConfigurationError when every score is undefined."""
    if scores[task].isna().all():
        raise ConfigurationError(f"{task}: the score of every candidate is undefined")
    return str(scores[task].idxmax())


def average(frames: Sequence[pd.DataFrame], task: str) -> pd.DataFrame:
    """Averaged class probabilities, or averaged predictions of a regression, aligned by id in the first's order.

    The prediction is the most probable class. One frame alone is returned as it is. Raises DataError when the frames'
    ids or labels differ, or an id is repeated.
    """
    if len(frames) == 1:
        return frames[0].reset_index(drop=True)
    first = frames[0].reset_index(drop=True)
    others = [first, *(_in_order(frame, first, task) for frame in frames[1:])]
    if TASKS[task].kind == "regression":
        return first.assign(prediction=np.mean([frame["prediction"].to_numpy(float) for frame in others], axis=0))
    table = np.mean([probabilities(frame) for frame in others], axis=0)  # [n, classes]
    columns = {f"p{index}": table[:, index] for index in range(table.shape[1])}
    return first.assign(prediction=table.argmax(axis=1), **columns)


def _in_order(frame: pd.DataFrame, first: pd.DataFrame, task: str) -> pd.DataFrame:
    if frame["id"].duplicated().any() or first["id"].duplicated().any():
        raise DataError(f"ensemble of {task}: an id occurs twice among a member's predictions")
    strangers = set(frame["id"]) ^ set(first["id"])
    if strangers:
        raise DataError(f"ensemble of {task}: {len(strangers)} ids are not in every member, such as {min(strangers)!r}")
    frame = frame.set_index("id").loc[first["id"]].reset_index()
    if "label" in first and not np.array_equal(frame["label"].to_numpy(), first["label"].to_numpy()):
        raise DataError(f"ensemble of {task}: members disagree about the labels")
    return frame


def average_states(states: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Entry by entry mean of state dicts, in float64 and back to the entry's own type; integers have to be equal.

    A "soup" (Wortsman et al., 2022): it makes sense for runs that share an ancestor. Raises CheckpointError when keys,
    shapes or integers differ.
    """
    if not states:
        raise CheckpointError("averaged weights: expected at least one model, found none")
    averaged = {}
    for index, state in enumerate(states[1:], start=1):
        if strangers := sorted(set(state) ^ set(states[0])):
            raise CheckpointError(f"averaged weights: models 0 and {index} differ in the entries {strangers[:3]}")
    for name, tensor in states[0].items():
        tensors = [state[name] for state in states]
        shapes = {tuple(each.shape) for each in tensors}
        if len(shapes) > 1:
            raise CheckpointError(f"averaged weights: {name} has the shapes {sorted(shapes)}")
        if tensor.is_floating_point():
            averaged[name] = torch.stack([each.double() for each in tensors]).mean(dim=0).to(tensor.dtype)
        elif all(torch.equal(tensor, each) for each in tensors):
            averaged[name] = tensor.clone()
        else:
            raise CheckpointError(f"averaged weights: the integers of {name} differ and have no mean")
    return averaged


def average_weights(paths: Sequence[Path | str]) -> MultitaskModel:
    """One model with the mean weights of the stored models `paths` (model or run folders).

    It costs what one model costs, and makes sense for runs that share an ancestor. Raises CheckpointError when the
    models' tasks, settings or weights do not fit together.
    """
    models = [MultitaskModel.from_pretrained(path) for path in paths]
    averaged = average_states([model.state_dict() for model in models])
    for path, model in zip(paths, models, strict=True):
        if (model.tasks, model.pooling) != (models[0].tasks, models[0].pooling):
            raise CheckpointError(f"{path}: its tasks or its pooling differ from those of {paths[0]}")
    models[0].load_state_dict(averaged)
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


def ancestry(run: Run) -> list[Run]:
    """The run, the run it started from, and so on to the first."""
    line, store = [run], RunStore(run.path.parents[1])
    while line[-1].experiment.start_from:
        line.append(store.get(line[-1].experiment.start_from))
    return line


def families(runs: Mapping[str, Run]) -> dict[str, dict[str, Run]]:
    """Runs by the ancestor they share, a pretraining run's name or the encoder's; an only child is left out."""
    grouped: dict[str, dict[str, Run]] = {}
    for name, run in runs.items():
        first = ancestry(run)[-1].experiment
        ancestor = first.name if isinstance(first, Pretraining) else Path(first.encoder).name
        grouped.setdefault(ancestor, {})[name] = run
    return {ancestor: children for ancestor, children in grouped.items() if len(children) > 1}


@dataclass(frozen=True)
class Soup(Stored):
    """Stored predictions of the averaged weights of `members`."""

    members: tuple[Run, ...] = ()


def soup(
    runs: Sequence[Run], corpus: Corpus, cache: Path | str = "results/cache/soups", *, compute: bool = True
) -> Soup:
    """Predictions of the runs' averaged weights on dev and, where it is labelled, on test.

    They are kept in the folder `cache` under the members' identities and the corpus. compute: whether they are made
    where they are not there; without it, that is a MissingRunError.
    """
    runs = sorted(runs, key=lambda run: run.identity)
    key = hashlib.sha256(" ".join([*(run.identity for run in runs), corpus.fingerprint]).encode()).hexdigest()[:16]
    experiment = runs[0].experiment
    splits = ("dev", "test") if is_labelled(corpus, "test", experiment.tasks) else ("dev",)
    paths = {(split, task): Path(cache) / f"{key}-{split}-{task}.csv" for split in splits for task in experiment.tasks}
    if not all(path.is_file() for path in paths.values()):
        if not compute:
            raise MissingRunError(f"{cache}: no averaged weights of {', '.join(run.id for run in runs)} yet")
        with Device(experiment.precision).autocast():
            frames = predicted(average_weights([run.path for run in runs]), corpus, splits).frames
        with storage("create", Path(cache)):
            Path(cache).mkdir(parents=True, exist_ok=True)
        for place, path in paths.items():
            write_atomic(path, frames[place].to_csv(index=False, lineterminator="\n").encode())
    stored = {place: pd.read_csv(path, dtype={"id": str}, keep_default_na=False) for place, path in paths.items()}
    return Soup(stored, tuple(runs))


def is_labelled(corpus: Corpus, split: str, tasks: Sequence[str] = THREE) -> bool:
    """Whether the corpus has that split of every task, with labels."""
    frames = [getattr(corpus[task], split) for task in tasks]
    return all(frame is not None and "label" in frame for frame in frames)
