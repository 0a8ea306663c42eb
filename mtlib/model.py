"""The multitask model: one shared encoder and one linear head a task."""

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from mtlib import folders
from mtlib.data.batches import PAD_TO, TokenizedSplit
from mtlib.device import Precision, autocast
from mtlib.encoders import load_folder, position_padding
from mtlib.errors import CheckpointError, ConfigurationError
from mtlib.fast import FastEncoder, computing, enabled, known
from mtlib.randomness import torch_generator
from mtlib.tasks import Task

ABOUT, HEADS = "multitask.json", "heads.safetensors"
LARGEST_ABOUT = 2**20  # bytes of multitask.json; one with a hundred tasks has 30 kB


class About(BaseModel):
    """What multitask.json says of a stored model: its tasks, its settings, and the SHA-256 of every other file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[2] = 2
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]
    pooling: Literal["cls", "mean"]
    head_dropout: Annotated[float, Field(ge=0, lt=1)]
    max_tokens: Annotated[int, Field(ge=4)]
    files: dict[str, str]


class MultitaskModel(nn.Module):
    """A BERT-like encoder, a pooled sentence vector, and a linear head for every task.

    encoder: a Hugging Face model with an embedding block (`encoder.embeddings`).
    pooling: "mean" over the tokens, or "cls", the first token's vector.
    head_dropout: dropout before the heads (the report uses none).
    seed: heads are drawn from N(0, 0.02^2) as in BERT, from streams named after their tasks.
    """

    def __init__(
        self,
        encoder: nn.Module,
        tokenizer,
        tasks: Sequence[Task],
        *,
        pooling: str = "mean",
        head_dropout: float = 0.0,
        max_tokens: int = 128,
        seed: int = 0,
    ):
        super().__init__()
        if len({task.name for task in tasks}) < len(tasks):
            raise ConfigurationError(
                f"expected tasks of different names, found {', '.join(task.name for task in tasks)}"
            )
        self.encoder = encoder
        self._fast = FastEncoder(encoder) if known(encoder) else None
        self.tokenizer = tokenizer
        self.tasks = tuple(tasks)
        self.pooling = pooling
        self.max_tokens = min(max_tokens, _positions(encoder), tokenizer.model_max_length)
        self.dropout = nn.Dropout(head_dropout)
        self.heads = nn.ModuleDict({task.name: _head(encoder.config.hidden_size, task, seed) for task in tasks})

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def fast(self) -> FastEncoder | None:
        """The encoder's fast path, where there is one for it and its device."""
        return self._fast if self._fast and enabled(self.device) else None

    def fixed(self) -> AbstractContextManager:
        """A context within which no weight changes: what is computed from the weights alone is computed once."""
        return self.fast.fixed() if self.fast else nullcontext()

    def task(self, name: str) -> Task:
        """The model's task called `name`; raises ConfigurationError when it has none of that name."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise ConfigurationError(f"unknown task {name!r}: this model has {', '.join(t.name for t in self.tasks)}")

    def embed_tokens(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Output of the encoder's embedding block (after LayerNorm and dropout), [batch, tokens, hidden]."""
        block = self.encoder.embeddings
        accepted = signature(block.forward).parameters
        wanted = [name for name in ("input_ids", "token_type_ids") if name in accepted and name in inputs]
        tokens = {name: inputs[name] for name in wanted}
        return self.fast.embed(**tokens) if self.fast else block(**tokens)

    def encode(self, inputs: Mapping[str, torch.Tensor], embeddings: torch.Tensor | None = None) -> torch.Tensor:
        """Sentence vectors [batch, hidden] of tokenized inputs, or of given embedding-block outputs."""
        if embeddings is None:
            embeddings = self.embed_tokens(inputs)
        if self.fast:
            hidden = self.fast(embeddings, inputs["attention_mask"])
        else:
            with computing(self.encoder.embeddings, lambda *_, **__: embeddings):
                hidden = self.encoder(**inputs).last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1)

    def forward(
        self, task: str, inputs: Mapping[str, torch.Tensor], embeddings: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits [batch, outputs] of `task`, from tokenized inputs or from given embedding-block outputs.

        The head computes in its own precision under autocast too: in bfloat16 an output near 4 has steps of 1/64, which
        is coarser than the differences that penalties and correlations are made of.
        """
        head = self.heads[task]
        pooled = self.dropout(self.encode(inputs, embeddings))
        with torch.autocast(pooled.device.type, enabled=False):
            return head(pooled.to(head.weight.dtype))

    def tokenize(self, task: Task, inputs: Sequence[str] | Sequence[tuple[str, str]]) -> TokenizedSplit:
        """Texts, or pairs of texts, as an unlabelled split."""
        return TokenizedSplit(task, _frame(task, inputs), self.tokenizer, self.max_tokens)

    def predict(
        self, task: str, inputs: Sequence[str] | Sequence[tuple[str, str]], precision: Precision = "auto"
    ) -> pd.DataFrame:
        """Predictions for texts (or pairs of texts), one row each, in their order; no texts, no rows.

        Columns: `prediction`, and for classes their probabilities `p0`, `p1`, ... precision: as of an experiment.
        Raises ConfigurationError for an unknown task and for inputs that are not what the task reads, such as one text
        that is not in a list.
        """
        known = self.task(task)
        if not len(_listed(inputs)):
            return self.predict(task, [("", "")] if known.is_pair else [""]).iloc[:0]
        with autocast(self.device, precision):
            return predictions(self, self.tokenize(known, inputs)).drop(columns="id")

    def embed(self, texts: Sequence[str], normalise: bool = False) -> np.ndarray:
        """Sentence vectors [texts, hidden], float32; `normalise` divides each by its length."""
        if not len(_listed(texts)):
            return self.embed([""])[:0]
        single = Task("text", "regression", ("text",), "label")
        vectors = evaluated(self, self.tokenize(single, texts), lambda batch: self.encode(batch.inputs))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if normalise else vectors

    def save_pretrained(self, folder: Path | str) -> str:
        """Write the model so that `from_pretrained`, and for the encoder alone `AutoModel`, can load the folder.

        Returns its seal: the SHA-256 of multitask.json, which is written last and holds those of all other files.
        """
        folder = Path(folder)
        self.encoder.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        heads = {name: tensor.contiguous() for name, tensor in self.heads.state_dict().items()}
        (folder / HEADS).write_bytes(safetensors.torch.save(heads))
        about = About(
            tasks=self.tasks,
            pooling=self.pooling,
            head_dropout=self.dropout.p,
            max_tokens=self.max_tokens,
            files=folders.digests([*folders.encoder_files(folder), folder / HEADS]),
        )
        text = about.model_dump_json(indent=1).encode()
        (folder / ABOUT).write_bytes(text)
        for name in about.files:  # safetensors creates files that only their owner may read
            (folder / name).chmod((folder / ABOUT).stat().st_mode)
        return hashlib.sha256(text).hexdigest()

    @classmethod
    def from_pretrained(cls, path: Path | str, seal: str | None = None) -> "MultitaskModel":
        """The model stored in `path`, a model folder or a run's folder, on the CPU and in evaluation mode.

        seal: what `save_pretrained` returned, where that is known. Every file is checked against the SHA-256 that was
        written with it; only safetensors and JSON are read. Raises CheckpointError when something is missing, changed
        or does not fit, StorageError when a file cannot be read.
        """
        folder = Path(path) / "model" if os.path.isdir(Path(path) / "model") else Path(path)
        about = _about(folder, seal)
        encoder, tokenizer = load_folder(folder)
        heads = _stored_heads(folder / HEADS, about.tasks, encoder.config.hidden_size)
        model = cls(
            encoder,
            tokenizer,
            about.tasks,
            pooling=about.pooling,
            head_dropout=about.head_dropout,
            max_tokens=about.max_tokens,
        )
        model.heads.load_state_dict(heads)
        return model.eval()


def stored_seal(folder: Path | str) -> str:
    """The seal of a model folder as it is on the disk now, `save_pretrained`'s where nothing changed since.

    Raises CheckpointError where a file differs from what multitask.json says, StorageError where one cannot be read.
    """
    _about(Path(folder), None)
    return folders.sha256(Path(folder) / ABOUT)


def _about(folder: Path, seal: str | None) -> About:
    """multitask.json of a model whose every file is as it says, and which itself has the SHA-256 `seal`, if given."""
    if seal is not None:
        folders.expect(folder, {ABOUT: seal})
    with folders.reading(folder / ABOUT):
        if not (folder / ABOUT).is_file():
            raise CheckpointError(f"{folder}: expected a stored multitask model, found no {ABOUT}")
        data = (folder / ABOUT).read_bytes()
    try:
        about = About.model_validate_json(data[:LARGEST_ABOUT])
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        found = repr(first["input"])[:80]
        raise CheckpointError(f"{folder / ABOUT}: {f'{key}: ' if key else ''}{first['msg']}, found {found}") from error
    except ConfigurationError as error:
        raise CheckpointError(f"{folder / ABOUT}: {error}") from error
    there = {path.name for path in folders.encoder_files(folder)} | {HEADS}
    if unknown := sorted(there ^ about.files.keys()):
        listed = f"{', '.join(sorted(about.files))}; these are only in one of both: {', '.join(unknown)}"
        raise CheckpointError(f"{folder}: expected the files that {ABOUT} names, {listed}"[:600])
    folders.expect(folder, about.files)
    return about


def _positions(encoder: nn.Module) -> int:
    """Longest input in tokens that is still one when it is padded; RoBERTa and MPNet count from behind padding."""
    table = getattr(encoder.embeddings, "position_embeddings", None)
    positions = getattr(encoder.config, "max_position_embeddings", sys.maxsize)
    if isinstance(table, nn.Embedding):
        positions = table.num_embeddings
    padding = position_padding(encoder)
    return (positions if padding is None else positions - padding - 1) // PAD_TO * PAD_TO


def _stored_heads(path: Path, tasks: Sequence[Task], hidden: int) -> dict[str, torch.Tensor]:
    """The heads in a file. Raises CheckpointError, before anything is built, where they are not those of `tasks`."""
    try:
        heads = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path}: {error}") from error
    expected = {f"{task.name}.weight": [task.outputs, hidden] for task in tasks}
    expected |= {f"{task.name}.bias": [task.outputs] for task in tasks}
    found = {name: list(tensor.shape) for name, tensor in heads.items()}
    if wrong := sorted(name for name in expected | found if expected.get(name) != found.get(name)):
        listed = "; ".join(f"{name}: expected {expected.get(name)}, found {found.get(name)}" for name in wrong[:6])
        raise CheckpointError(f"{path}: {listed}")
    return heads


def _head(hidden: int, task: Task, seed: int) -> nn.Linear:
    head = nn.Linear(hidden, task.outputs)
    with torch.no_grad():
        head.weight.normal_(0, 0.02, generator=torch_generator(seed, f"head/{task.name}"))
        head.bias.zero_()
    return head


def _listed(inputs) -> Sequence | np.ndarray | pd.Series:
    """`inputs`, if they are a list of some kind; one text would be taken for its letters, a table for its columns."""
    if isinstance(inputs, str | bytes) or not isinstance(inputs, Sequence | np.ndarray | pd.Series):
        raise ConfigurationError(
            f"expected a list of texts or of pairs, found {type(inputs).__name__} {repr(inputs)[:80]}; "
            "a single one is written [text]"
        )
    return inputs


def _frame(task: Task, inputs: Sequence) -> pd.DataFrame:
    expected = "pairs of texts" if task.is_pair else "texts"
    for position, entry in enumerate(_listed(inputs)):
        texts = entry if task.is_pair and isinstance(entry, tuple | list) else (entry,)
        if len(texts) != len(task.columns) or not all(isinstance(text, str) for text in texts):
            raise ConfigurationError(f"task {task.name} reads {expected}; found {entry!r} at position {position}")
    rows = [entry if task.is_pair else (entry,) for entry in inputs]
    columns = dict(zip(("text_a", "text_b"), map(list, zip(*rows, strict=True)), strict=False))
    return pd.DataFrame({"id": [str(i) for i in range(len(rows))], **columns})


def evaluated(model: MultitaskModel, split: TokenizedSplit, function) -> np.ndarray:
    """`function(batch)` [batch, width] over a whole split in evaluation mode, float32, in the split's order."""
    was_training = model.training
    model.eval()
    parts, rows = [], []
    with torch.inference_mode(), model.fixed():
        for batch in split.evaluation_batches():
            parts.append(function(batch.to(model.device)).float().cpu())
            rows.append(batch.rows)
    model.train(was_training)
    output = torch.cat(parts).numpy()
    ordered = np.empty_like(output)
    ordered[np.concatenate(rows)] = output
    return ordered


def predictions(model: MultitaskModel, split: TokenizedSplit) -> pd.DataFrame:
    """Predictions for a split, in its order: id, label where known, prediction, and p0, p1, ... for classes."""
    logits = torch.from_numpy(evaluated(model, split, lambda batch: model(split.task.name, batch.inputs)))
    frame = pd.DataFrame({"id": split.ids})
    if split.labels is not None:
        frame["label"] = split.labels
    if split.task.kind == "regression":
        return frame.assign(prediction=logits[:, 0].double().numpy())
    if split.task.kind == "binary":
        positive = torch.sigmoid(logits[:, 0].double())
        probabilities = torch.stack([1 - positive, positive], dim=1).numpy()
    else:
        probabilities = torch.softmax(logits.double(), dim=1).numpy()
    frame["prediction"] = probabilities.argmax(axis=1)
    return frame.assign(**{f"p{k}": probabilities[:, k] for k in range(probabilities.shape[1])})
