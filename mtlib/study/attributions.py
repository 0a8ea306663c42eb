"""Which words an answer comes from: integrated gradients (Sundararajan et al. 2017) over the embedding block's output.

The path begins where every word is hidden behind the tokenizer's mask token. Special tokens are the same at both ends,
so a text's words share all of what its answer differs by.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mtlib.data.batches import Batch, forget_truncation
from mtlib.errors import ConfigurationError
from mtlib.model import MultitaskModel
from mtlib.prediction import inputs_of
from mtlib.tasks import Task


@dataclass(frozen=True)
class Attribution:
    """One answer divided among the words it was given.

    words: a row a word that the model read, in order: `text` (0, or 1 for the second of a pair), `start` and `end`
        in that text, `word`, `attribution`. Attributions are in the unit of `answer`.
    target: what is explained: "log p of negative" (nats), "log-odds of duplicate" (nats), or "prediction".
    answer, hidden: that quantity for the texts, and for the same texts with every word hidden.
    """

    words: pd.DataFrame
    target: str
    answer: float
    hidden: float

    @property
    def gap(self) -> float:
        """What the words leave unexplained, answer - hidden - their sum; 0 but for the quadrature's error."""
        return self.answer - self.hidden - float(self.words["attribution"].sum())


def integrated_gradients(
    model: MultitaskModel, task: str, inputs: str | tuple[str, str], *, label: int | None = None, steps: int = 32
) -> Attribution:
    """The words' shares in the model's answer to one text, or one pair, in float32 and evaluation mode.

    With x the embedding block's output [tokens, hidden], x' the one with every word hidden, and F the explained
    quantity, a token's share is sum over hidden of (x - x') times the mean of dF/dx along the straight line from x' to
    x, by Gauss-Legendre quadrature at `steps` points; a word's is the sum of its tokens'. F is the log-probability of
    the class `label` for a classification (by default of the class that is predicted), the logit of a binary task, the
    prediction of a regression. No parameter's gradient is touched.
    Raises ConfigurationError for an unknown task or label and for a tokenizer that cannot say where its tokens stand.
    """
    known = model.task(task)
    given = inputs_of(known, inputs)
    if len(given) != 1:
        raise ConfigurationError(f"integrated gradients: expected one input, found {len(given)}")
    if label is not None and not (known.kind == "classification" and 0 <= label < known.classes):
        raise ConfigurationError(f"task {task}: expected a label of a classification's classes, found {label!r}")
    words, special = _words(model, given[0] if known.is_pair else (given[0],))
    batch = model.tokenize(known, given).batch([0]).to(model.device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            x = model.embed_tokens(batch.inputs)
            x0 = model.embed_tokens(_hidden(model, batch, special))
            if label is None and known.kind == "classification":
                label = int(model(task, batch.inputs, x).argmax())
            ends = _explained(known, model(task, _repeated(batch, 2), torch.cat([x0, x])), label)
        shares = _shares(model, known, batch, x0, x, label, steps)
    finally:
        model.train(was_training)
    words["attribution"] = [shares[rows].sum() for rows in words.pop("tokens")]
    return Attribution(words, _target(known, label), answer=float(ends[1]), hidden=float(ends[0]))


def _target(task: Task, label: int | None) -> str:
    if task.kind == "regression":
        return "prediction"
    return f"log p of {task.class_names[label]}" if label is not None else f"log-odds of {task.class_names[1]}"


def _shares(model: Any, task: Task, batch: Batch, x0: Tensor, x: Tensor, label: int | None, steps: int) -> np.ndarray:
    """Every token's share, [tokens]."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    places, weights = (torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in ((nodes + 1) / 2, weights / 2))
    path = (x0 + places[:, None, None] * (x - x0)).requires_grad_()  # [steps, tokens, hidden]
    with torch.enable_grad():
        explained = _explained(task, model(task.name, _repeated(batch, steps), path), label)
        (gradients,) = torch.autograd.grad(explained.sum(), path)
    mean = (weights[:, None, None] * gradients).sum(0)
    return ((x - x0)[0] * mean).sum(-1).double().cpu().numpy()


def _explained(task: Task, logits: Tensor, label: int | None) -> Tensor:
    """F of logits [n, outputs]: [n]."""
    return task.values(logits[:, 0]) if label is None else logits.log_softmax(-1)[:, label]


def _repeated(batch: Batch, times: int) -> dict[str, Tensor]:
    return {name: tensor.expand(times, -1) for name, tensor in batch.inputs.items()}


def _hidden(model: Any, batch: Batch, special: np.ndarray) -> dict[str, Tensor]:
    """The batch's inputs with the mask token in the place of every token that is not special."""
    ids, tokenizer = batch.inputs["input_ids"].clone(), model.tokenizer
    mask = tokenizer.mask_token_id if tokenizer.mask_token_id is not None else tokenizer.unk_token_id
    ids[0, : len(special)][torch.from_numpy(~special).to(ids.device)] = mask
    return batch.inputs | {"input_ids": ids}


def _words(model: Any, texts: tuple[str, ...]) -> tuple[pd.DataFrame, np.ndarray]:
    """The words that the model reads, with the places of their tokens; and which tokens are special, [tokens]."""
    tokenizer = model.tokenizer
    if not tokenizer.is_fast:
        raise ConfigurationError(f"{type(tokenizer).__name__} does not say where its tokens stand in a text")
    encoded = tokenizer(*texts, truncation=True, max_length=model.max_tokens, return_offsets_mapping=True)
    forget_truncation(tokenizer)
    texts_of, words_of = encoded.sequence_ids(0), encoded.word_ids(0)
    rows: dict[tuple, dict] = {}
    for token, (text, word, (start, end)) in enumerate(zip(texts_of, words_of, encoded["offset_mapping"], strict=True)):
        if text is not None:
            row = rows.setdefault((text, word), {"text": text, "start": start, "end": end, "tokens": []})
            row["end"] = end
            row["tokens"].append(token)
    for row in rows.values():
        row["word"] = texts[row["text"]][row["start"] : row["end"]]
    columns = ["text", "start", "end", "word", "tokens"]
    return pd.DataFrame(rows.values(), columns=columns), np.array([text is None for text in texts_of])
