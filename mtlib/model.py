"""The multitask model: one shared encoder and one linear head a task."""

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from torch import nn

from mtlib.data.batches import TokenizedSplit
from mtlib.encoders import Encoder
from mtlib.errors import CheckpointError, ConfigurationError
from mtlib.fast import FastEncoder, computing, enabled, known
from mtlib.precision import Precision, autocast
from mtlib.randomness import torch_generator
from mtlib.tasks import Task

Pooling = Literal["cls", "mean"]
FORMAT = 1


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
        pooling: Pooling = "mean",
        head_dropout: float = 0.0,
        max_tokens: int = 128,
        seed: int = 0,
    ):
        super().__init__()
        self.encoder = encoder
        self._fast = FastEncoder(encoder) if known(encoder) else None
        self.tokenizer = tokenizer
        self.tasks = tuple(tasks)
        self.pooling = pooling
        positions = getattr(encoder.config, "max_position_embeddings", max_tokens)
        self.max_tokens = min(max_tokens, positions, tokenizer.model_max_length)
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
        """Predictions for texts (or pairs of texts), one row each, in their order.

        Columns: `prediction`, and for classes their probabilities `p0`, `p1`, ... precision: as of an experiment.
        Raises ConfigurationError for an unknown task and for inputs that are not what the task reads.
        """
        split = self.tokenize(self.task(task), inputs)
        with autocast(self.device, precision):
            return predictions(self, split).drop(columns="id")

    def embed(self, texts: Sequence[str], normalise: bool = False) -> np.ndarray:
        """Sentence vectors [texts, hidden], float32; `normalise` divides each by its length."""
        single = Task("text", "regression", ("text",), "label")
        vectors = evaluated(self, self.tokenize(single, texts), lambda batch: self.encode(batch.inputs))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if normalise else vectors

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the model so that `from_pretrained`, and for the encoder alone `AutoModel`, can load the folder."""
        folder = Path(folder)
        self.encoder.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        heads = {name: tensor.contiguous() for name, tensor in self.heads.state_dict().items()}
        safetensors.torch.save_file(heads, folder / "heads.safetensors")
        about = {
            "format": FORMAT,
            "tasks": [asdict(task) for task in self.tasks],
            "pooling": self.pooling,
            "head_dropout": self.dropout.p,
            "max_tokens": self.max_tokens,
        }
        (folder / "multitask.json").write_text(json.dumps(about, indent=1, sort_keys=True), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, path: Path | str) -> "MultitaskModel":
        """The model stored in `path`, a model folder or a run's folder, in evaluation mode.

        Only safetensors and JSON are read. Raises CheckpointError when something is missing or does not fit.
        """
        folder = Path(path) / "model" if (Path(path) / "model").is_dir() else Path(path)
        try:
            about = json.loads((folder / "multitask.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder}: expected a stored multitask model ({error})") from error
        if about.get("format") != FORMAT:
            raise CheckpointError(f"{folder}/multitask.json: expected format {FORMAT}, found {about.get('format')!r}")
        tasks = [Task(**{**task, "columns": tuple(task["columns"])}) for task in about["tasks"]]
        encoder, tokenizer = Encoder(str(folder), None, "").load()
        model = cls(
            encoder,
            tokenizer,
            tasks,
            pooling=about["pooling"],
            head_dropout=about["head_dropout"],
            max_tokens=about["max_tokens"],
        )
        try:
            model.heads.load_state_dict(safetensors.torch.load_file(folder / "heads.safetensors"))
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            raise CheckpointError(f"{folder}/heads.safetensors: {error}") from error
        return model.eval()


def _head(hidden: int, task: Task, seed: int) -> nn.Linear:
    head = nn.Linear(hidden, task.outputs)
    with torch.no_grad():
        head.weight.normal_(0, 0.02, generator=torch_generator(seed, f"head/{task.name}"))
        head.bias.zero_()
    return head


def _frame(task: Task, inputs: Sequence) -> pd.DataFrame:
    expected = "pairs of texts" if task.is_pair else "texts"
    for position, entry in enumerate(inputs):
        texts = entry if task.is_pair and isinstance(entry, tuple | list) else (entry,)
        if len(texts) != len(task.columns) or not all(isinstance(text, str) for text in texts):
            raise ConfigurationError(f"task {task.name} reads {expected}; found {entry!r} at position {position}")
    columns = dict(zip(("text_a", "text_b"), zip(*inputs, strict=True), strict=False)) if task.is_pair else {}
    columns = columns or {"text_a": list(inputs)}
    return pd.DataFrame({"id": [str(i) for i in range(len(inputs))], **columns})


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
