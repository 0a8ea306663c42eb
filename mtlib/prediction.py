"""What a model says of texts: their lists checked, sorted by length and batched, its outputs as probabilities."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from mtlib.data.batches import TokenizedSplit
from mtlib.errors import ConfigurationError
from mtlib.tasks import Task

if TYPE_CHECKING:
    from mtlib.model import MultitaskModel


def evaluated(
    model: "MultitaskModel",
    split: TokenizedSplit,
    function: Callable,
    batch_size: int | None = None,
    progress: bool = False,
) -> np.ndarray:
    """`function(batch)` [batch, width] over a whole split in evaluation mode, float32, in the split's order.

    batch_size: examples a batch; without it, as many as make 2,048 tokens. progress: show a bar on stderr.
    Raises ConfigurationError for a batch_size below 1.
    """
    if batch_size is not None and batch_size < 1:
        raise ConfigurationError(f"batch_size: expected 1 or more, found {batch_size}")
    was_training = model.training
    model.eval()
    parts, rows = [], []
    shown = {"total": len(split), "unit": "text", "desc": split.task.name, "disable": not progress}
    with torch.inference_mode(), model.fixed(), tqdm(**shown) as bar:
        for batch in split.evaluation_batches(examples=batch_size):
            parts.append(function(batch.to(model.device)).float().cpu())
            rows.append(batch.rows)
            bar.update(len(batch.rows))
    model.train(was_training)
    output = torch.cat(parts).numpy()
    ordered = np.empty_like(output)
    ordered[np.concatenate(rows)] = output
    return ordered


def predictions(
    model: "MultitaskModel", split: TokenizedSplit, temperature: float = 1.0, **options: Any
) -> pd.DataFrame:
    """Predictions for a split, in its order: id, label where known, prediction, and p0, p1, ... for classes.

    temperature: divides the logits of classes. options: those of `evaluated`.
    """
    logits = evaluated(model, split, lambda batch: model(split.task.name, batch.inputs), **options)
    return answers_to(split, logits, temperature)


def answers_to(split: TokenizedSplit, outputs: np.ndarray, temperature: float = 1.0) -> pd.DataFrame:
    """What the outputs [n, width] of a task's head over a split say, as `predictions` gives it."""
    logits = torch.from_numpy(outputs)
    frame = pd.DataFrame({"id": split.ids})
    if split.labels is not None:
        frame["label"] = split.labels
    return frame.join(answers(split.task, logits, temperature))


def answers(task: Task, logits: torch.Tensor, temperature: float = 1.0) -> pd.DataFrame:
    """What logits [n, outputs] of `task` say, a row each: prediction, and p0, p1, ... for classes."""
    if task.kind == "regression":
        return pd.DataFrame({"prediction": task.values(logits[:, 0].double().numpy())})
    logits = logits.double() / temperature
    if task.kind == "binary":
        positive = torch.sigmoid(logits[:, 0])
        probabilities = torch.stack([1 - positive, positive], dim=1).numpy()
    else:
        probabilities = torch.softmax(logits, dim=1).numpy()
    columns = {f"p{k}": probabilities[:, k] for k in range(probabilities.shape[1])}
    return pd.DataFrame({"prediction": probabilities.argmax(axis=1), **columns})


def answered(task: Task, inputs: Any, predict: Callable[[Sequence], pd.DataFrame]) -> pd.DataFrame:
    """A row for each of `inputs`, with the predicted class's name; no texts, no rows.

    predict: gives `predictions` of a list of what `task` reads.
    """
    listed = inputs_of(task, inputs)
    frame = predict(listed if len(listed) else [("", "") if task.is_pair else ""]).drop(columns="id")
    if task.names:
        frame.insert(1, "label", np.array(task.names, dtype=object)[frame["prediction"]])
    return frame.iloc[: len(listed)]


def inputs_of(task: Task, inputs: Any) -> Sequence | np.ndarray | pd.Series:
    """`inputs` as a list of what `task` reads: one text, or one pair as a tuple of two texts, is a list of one.

    Raises ConfigurationError for what is neither; a table would be taken for its columns.
    """
    if isinstance(inputs, str) and not task.is_pair:
        return [inputs]
    if (
        isinstance(inputs, tuple)
        and task.is_pair
        and len(inputs) == 2
        and all(isinstance(text, str) for text in inputs)
    ):
        return [inputs]
    if isinstance(inputs, str | bytes) or not isinstance(inputs, Sequence | np.ndarray | pd.Series):
        one, many = ("a pair (text, text)", "pairs") if task.is_pair else ("a text", "texts")
        found = f"{type(inputs).__name__} {repr(inputs)[:80]}"
        raise ConfigurationError(f"task {task.name}: expected {one} or a list of {many}, found {found}")
    return inputs


def _is_whole(text: str) -> bool:
    """Whether it has no lone surrogates, which stand for bytes that were not UTF-8 and which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def inputs_frame(task: Task, inputs: Sequence) -> pd.DataFrame:
    """A list of texts, or of pairs, as an unlabelled split; raises ConfigurationError, saying where, for any other."""
    expected = "pairs of texts" if task.is_pair else "texts"
    for position, entry in enumerate(inputs):
        texts = entry if task.is_pair and isinstance(entry, tuple | list) else (entry,)
        if len(texts) != len(task.columns) or not all(isinstance(text, str) for text in texts):
            raise ConfigurationError(f"task {task.name} reads {expected}; found {entry!r} at position {position}")
        if lost := [text for text in texts if not _is_whole(text)]:
            found = ascii(lost[0])[:80]
            raise ConfigurationError(f"task {task.name}: expected UTF-8, found {found} at position {position}")
    rows = [entry if task.is_pair else (entry,) for entry in inputs]
    columns = dict(zip(("text_a", "text_b"), map(list, zip(*rows, strict=True)), strict=False))
    return pd.DataFrame({"id": [str(i) for i in range(len(rows))], **columns})
