"""What teachers say of a student's training text, computed once and kept with the runs that said it."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import safetensors.numpy
import torch
from filelock import FileLock
from safetensors import SafetensorError

from mtlib.data.leakage import text_columns
from mtlib.errors import MissingRunError
from mtlib.identity import sha256
from mtlib.objectives.soft import softened
from mtlib.prediction import evaluated
from mtlib.tasks import TASKS
from mtlib.training.files import inside, make_folder, storage, write_atomic
from mtlib.training.runs import Run
from mtlib.training.start import Start

if TYPE_CHECKING:
    from mtlib.training.loop import Training

FOLDER = "targets"
"""Where a teacher's run keeps its outputs: `<task>-<SHA-256 of the texts>.safetensors`."""


def targets_of(training: "Training") -> dict[str, torch.Tensor]:
    """Soft targets [training examples, outputs] by task, of the examples that the run will see; NaN for the others.

    Those of the conflict log are asked for after those of the steps: an output's last bits depend on what is computed
    beside it, and the log changes nothing of the training.
    Tasks that no teacher has are left out. Raises MissingRunError for a teacher that is not finished.
    """
    e, start = training.experiment, training.start
    if not (e.teachers and e.soft_share):
        return {}
    asked = [_drawn(training), *([_drawn(training, logged=True)] if training.conflicts else [])]
    targets = {}
    for name in e.tasks:
        runs = [_finished(teacher) for teacher in start.teachers if name in teacher.experiment.task_names]
        if runs:
            frame = training.corpus[name].train
            for rows in asked:
                outputs = np.stack([teacher_outputs(run, name, frame, rows[name]) for run in runs])
            targets[name] = softened(TASKS[name].kind, torch.from_numpy(outputs), e.temperature)
    return targets


def _drawn(training: "Training", logged: bool = False) -> dict[str, np.ndarray]:
    """Rows of the training examples that the run's steps will draw, by task; with those that its conflict log will."""
    rows: dict[str, set[int]] = {name: set() for name in training.experiment.tasks}
    for number in range(training.experiment.steps):
        parts = training._parts(number)
        if logged and training.conflicts and training.conflicts.due(number):
            parts = [*parts, *training.joint.parts(number)]
        for part in parts:
            rows[part.batch.task.name].update(part.batch.rows.tolist())
    return {name: np.array(sorted(drawn), dtype=np.int64) for name, drawn in rows.items()}


def _finished(teacher: Start) -> Run:
    run = teacher.run()
    if not run.complete:
        raise MissingRunError(f"{run.path}: expected a finished run to be taught by, found status {run.status!r}")
    return run


def teacher_outputs(run: Run, task: str, frame: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
    """Logits [len(frame), outputs], float32, of the run's stored model on the texts at `rows`; NaN where never asked.

    What the run's folder holds is taken as it is; what is missing is computed and added, under a lock, so that students
    that train at once share it, and one that resumes finds the same bits.
    """
    texts = text_columns(frame)
    key = sha256([frame[column].tolist() for column in texts])[:16]
    path = inside(run.path, run.path / FOLDER / f"{task}-{key}.safetensors")
    owner = f"{run.identity} {task} {key}"
    with storage("create", path.parent):
        make_folder(path.parent)
    with FileLock(path.with_suffix(".lock")):
        outputs = _read(path, (len(frame), TASKS[task].outputs), owner)
        if (missing := rows[np.isnan(outputs[rows]).any(1)]).size:
            model = run.model()
            pairs = frame[texts].iloc[missing]
            inputs = pairs[texts[0]].tolist() if len(texts) == 1 else list(pairs.itertuples(index=False, name=None))
            split = model.tokenize(model.task(task), inputs)
            outputs[missing] = evaluated(model, split, lambda batch: model(task, batch.inputs))
            _write(path, outputs, owner)
    return outputs


def _read(path: Path, shape: tuple[int, int], owner: str) -> np.ndarray:
    """The outputs that are kept; all NaN where there are none, or where the file is not as it was written there."""
    try:
        kept = safetensors.numpy.load(path.read_bytes())
        outputs, digest = kept["outputs"], bytes(kept["sha256"]).decode("ascii")
        if outputs.shape == shape and digest == sha256([owner, outputs.tobytes().hex()]):
            return outputs.copy()
    except (OSError, KeyError, ValueError, SafetensorError):
        pass
    return np.full(shape, np.nan, dtype=np.float32)


def _write(path: Path, outputs: np.ndarray, owner: str) -> None:
    digest = np.frombuffer(sha256([owner, outputs.tobytes().hex()]).encode("ascii"), dtype=np.uint8)
    write_atomic(path, safetensors.numpy.save({"outputs": outputs, "sha256": digest}))
