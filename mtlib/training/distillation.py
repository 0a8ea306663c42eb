"""What teachers say of a student's training text, computed once and kept with the runs that said it."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import safetensors.numpy
import torch
from filelock import FileLock
from safetensors import SafetensorError

from mtlib.data.batches import TokenizedSplit
from mtlib.data.leakage import text_columns
from mtlib.device import Device
from mtlib.errors import MissingRunError
from mtlib.identity import sha256
from mtlib.objectives.soft import softened
from mtlib.prediction import evaluated
from mtlib.tasks import TASKS
from mtlib.training.distributed import Reader
from mtlib.training.files import inside, make_folder, storage, write_atomic
from mtlib.training.runs import Run
from mtlib.training.start import Start

if TYPE_CHECKING:
    from mtlib.training.loop import Training

FOLDER = "targets"
"""Where a teacher's run keeps its outputs: `<task>-<SHA-256 of the texts>.safetensors`."""

BLOCK = 8
"""Texts that are computed together: more are faster each, and compute more that no student asked for."""


def targets_of(training: "Training") -> dict[str, torch.Tensor]:
    """Soft targets [training examples, outputs] by task, of the examples that the run will see; NaN for the others.

    A run that is only read, as in a replay, stores none. Tasks that no teacher has are left out.
    Raises MissingRunError for a teacher that is not finished.
    """
    e, start = training.experiment, training.start
    if not (e.teachers and e.soft_share):
        return {}
    drawn, targets = _drawn(training), {}
    keep = training.ranks.size > 1 or not isinstance(training.run, Reader)  # processes of one run share what is kept
    for name in e.tasks:
        runs = [_finished(teacher) for teacher in start.teachers if name in teacher.experiment.task_names]
        if runs:
            frame = training.corpus[name].train
            outputs = np.stack([teacher_outputs(run, name, frame, drawn[name], keep) for run in runs])
            targets[name] = softened(TASKS[name].kind, torch.from_numpy(outputs), e.temperature)
    return targets


def _drawn(training: "Training") -> dict[str, np.ndarray]:
    """Rows of the training examples that the run's steps will draw, and its conflict log, by task."""
    rows: dict[str, set[int]] = {name: set() for name in training.experiment.tasks}
    for number in range(training.experiment.steps):
        parts = training._parts(number)
        if training.conflicts and training.conflicts.due(number):
            parts = [*parts, *training.joint.parts(number)]
        for part in parts:
            rows[part.batch.task.name].update(part.batch.rows.tolist())
    return {name: np.array(sorted(drawn), dtype=np.int64) for name, drawn in rows.items()}


def _finished(teacher: Start) -> Run:
    run = teacher.run()
    if not run.complete:
        raise MissingRunError(f"{run.path}: expected a finished run to be taught by, found status {run.status!r}")
    return run


def teacher_outputs(run: Run, task: str, frame: pd.DataFrame, rows: np.ndarray, keep: bool = True) -> np.ndarray:
    """Logits [len(frame), outputs], float32, of the run's stored model on the texts at `rows`; NaN where never asked.

    What the run's folder holds is taken as it is. What is missing is computed and, where it is to be kept, added under
    a lock, so that students that train at once share it. The last bits of an output depend on what is computed beside
    it, so texts are always computed in the same blocks: all students get the same bits, whoever asks first.
    """
    key = sha256([frame[column].tolist() for column in text_columns(frame)])[:16]
    path = inside(run.path, run.path / FOLDER / f"{task}-{key}.safetensors")
    shape, owner = (len(frame), TASKS[task].outputs), f"{run.identity} {task} {key}"
    if not keep:
        return _completed(_read(path, shape, owner), run, task, frame, rows)
    with storage("create", path.parent):
        make_folder(path.parent)
    with FileLock(path.with_suffix(".lock")):
        kept = _read(path, shape, owner)
        outputs = _completed(kept, run, task, frame, rows)
        if outputs is not kept:
            _write(path, outputs, owner)
    return outputs


def _completed(kept: np.ndarray, run: Run, task: str, frame: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
    """`kept` [len(frame), outputs] where it has all `rows`, else a copy with every block of which one is missing.

    The teacher answers where and as its own run predicts, in the precision that it was trained in.
    Blocks are BLOCK texts of about one length: all texts of the frame, the longest first, are cut into them.
    """
    missing = np.isnan(kept).any(axis=1)
    if not missing[rows].any():
        return kept
    device = Device(run.experiment.precision)
    model = run.model().to(device.device)
    split = TokenizedSplit(model.task(task), frame, model.tokenizer, model.max_tokens)
    order = np.argsort(-split.lengths, kind="stable")
    places = np.empty(len(frame), dtype=np.int64)
    places[order] = np.arange(len(frame)) // BLOCK
    asked = np.unique(places[rows[missing[rows]]])
    computed = order[np.isin(places[order], asked)]
    with device.autocast():
        found = evaluated(model, split.part(computed), lambda batch: model(task, batch.inputs), batch_size=BLOCK)
    outputs = kept.copy()
    outputs[computed] = np.where(missing[computed, None], found, kept[computed])
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
