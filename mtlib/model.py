"""The multitask model: one shared encoder and one linear head a task."""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import nn

from mtlib import storage
from mtlib.data.batches import PAD_TO, TokenizedSplit
from mtlib.device import Precision, autocast
from mtlib.encoders import embedding_inputs, load_folder, position_padding
from mtlib.errors import ConfigurationError
from mtlib.fast import FastEncoder, computing, enabled, known
from mtlib.objectives.losses import wide
from mtlib.prediction import answered, evaluated, inputs_frame, inputs_of, predictions
from mtlib.randomness import torch_generator
from mtlib.tasks import Task

TEXT = Task("text", "regression", ("text",), "label")
"""Single texts without a task, as `embed` reads them."""


class MultitaskModel(nn.Module):
    """A BERT-like encoder, a pooled sentence vector, and a linear head for every task.

    encoder: a Hugging Face model with an embedding block (`encoder.embeddings`).
    pooling: "mean" over the tokens, or "cls", the first token's vector.
    head_dropout: dropout before the heads (the report uses none).
    seed: heads are drawn from N(0, 0.02^2) as in BERT, from streams named after their tasks.
    temperatures: by task, what calibrated probabilities divide logits by; empty unless they were fitted and set.
    """

    def __init__(
        self,
        encoder: nn.Module,
        tokenizer: Any,
        tasks: Sequence[Task],
        *,
        pooling: str = "mean",
        head_dropout: float = 0.0,
        max_tokens: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if len({task.name for task in tasks}) < len(tasks):
            raise ConfigurationError(
                f"expected tasks of different names, found {', '.join(task.name for task in tasks)}"
            )
        self.encoder = cast(Any, encoder)  # as a Module, its attributes would be of any type but their own
        self._fast = FastEncoder(encoder) if known(encoder) else None
        self.tokenizer = tokenizer
        self.tasks = tuple(tasks)
        self.pooling = pooling
        self.max_tokens = min(max_tokens, _positions(encoder), tokenizer.model_max_length)
        self.dropout = nn.Dropout(head_dropout)
        self.temperatures: dict[str, float] = {}
        self.heads = nn.ModuleDict({task.name: _head(self.encoder.config.hidden_size, task, seed) for task in tasks})

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def fast(self) -> FastEncoder | None:
        """The encoder's fast path, where there is one for it, as it is now, and for its device."""
        return self._fast if self._fast and self._fast.unchanged and enabled(self.device) else None

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
        tokens = embedding_inputs(block, inputs)
        return self.fast.embed(**tokens) if self.fast else block(**tokens)

    def encode(self, inputs: Mapping[str, torch.Tensor], embeddings: torch.Tensor | None = None) -> torch.Tensor:
        """Sentence vectors [batch, hidden] of tokenized inputs, or of given embedding-block outputs."""
        if fast := self.fast:
            given = self.embed_tokens(inputs) if embeddings is None else embeddings
            hidden = fast(given, inputs["attention_mask"])
        elif embeddings is None:
            hidden = self.encoder(**inputs).last_hidden_state
        else:
            with computing(self.encoder.embeddings, lambda *_, **__: embeddings):
                hidden = self.encoder(**inputs).last_hidden_state
        return self.pool(hidden, inputs["attention_mask"])

    def pool(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Sentence vectors [batch, hidden] of the last hidden state [batch, tokens, hidden]; mask [batch, tokens]."""
        hidden = wide(hidden)
        if self.pooling == "cls":
            return hidden[:, 0]
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1)

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
        return TokenizedSplit(task, inputs_frame(task, inputs), self.tokenizer, self.max_tokens)

    def predict(
        self,
        task: str,
        inputs: str | tuple[str, str] | Sequence[str] | Sequence[tuple[str, str]],
        *,
        precision: Precision = "auto",
        batch_size: int | None = None,
        progress: bool = False,
        calibrated: bool = False,
    ) -> pd.DataFrame:
        """Predictions for texts (or pairs of texts), one row each, in their order; no texts, no rows.

        One text, or one pair as a tuple, gives one row. Columns: `prediction`; for classes `label`, the predicted
        class's name, where the task has names, and the probabilities `p0`, `p1`, ...
        precision: as of an experiment. batch_size: inputs a batch (without it, 2,048 tokens), sorted by length whatever
        it is. progress: show a bar. calibrated: probabilities at the task's temperature (`temperatures`).
        Raises ConfigurationError for an unknown task, for inputs that are not what the task reads, and for `calibrated`
        where the model has no temperature of the task.
        """
        known = self.task(task)
        temperature = self._temperature(known) if calibrated else 1.0
        options = {"batch_size": batch_size, "progress": progress}

        def predict(listed: Sequence) -> pd.DataFrame:
            return predictions(self, self.tokenize(known, listed), temperature, **options)

        with autocast(self.device, precision):
            return answered(known, inputs, predict)

    def _temperature(self, task: Task) -> float:
        if task.kind != "regression" and task.name not in self.temperatures:
            raise ConfigurationError(
                f"task {task.name}: this model has no temperature to calibrate with; "
                "mtlib.calibrated(run) is the run's model with those that its dev predictions give"
            )
        return self.temperatures.get(task.name, 1.0)

    def embed(
        self,
        texts: str | Sequence[str],
        normalise: bool = False,
        *,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> np.ndarray:
        """Sentence vectors [texts, hidden], float32; `normalise` divides each by its length.

        One text gives one row. batch_size, progress: as in `predict`.
        """
        listed = inputs_of(TEXT, texts)
        if not len(listed):
            return self.embed("")[:0]
        split = self.tokenize(TEXT, listed)
        vectors = evaluated(self, split, lambda batch: self.encode(batch.inputs), batch_size, progress)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if normalise else vectors

    def similarity(self, a: str | Sequence[str], b: str | Sequence[str], **options: Any) -> np.ndarray:
        """How similar each text of `a` is to the one of `b` beside it, [texts], on the scale of the labels (STS: 0-5).

        The head of the model's first regression over pairs says it, in both orders, of which this is the mean: so
        similarity(a, b) is similarity(b, a). To compare many texts with many, multiply vectors of `embed`.
        options: those of `predict`. Raises ConfigurationError for a model without such a task and for lists of
        different lengths.
        """
        task = next((task for task in self.tasks if task.is_pair and task.kind == "regression"), None)
        if task is None:
            raise ConfigurationError(
                "similarity needs a task that scores pairs, such as sts; "
                f"this model has {', '.join(each.name for each in self.tasks)}: compare vectors of embed instead"
            )
        left, right = inputs_of(TEXT, a), inputs_of(TEXT, b)
        if len(left) != len(right):
            raise ConfigurationError(f"expected as many texts as texts, found {len(left)} and {len(right)}")
        both = [*zip(left, right, strict=True), *zip(right, left, strict=True)]
        return self.predict(task.name, both, **options)["prediction"].to_numpy().reshape(2, -1).mean(axis=0)

    def save_pretrained(self, folder: Path | str) -> str:
        """Write the model so that `from_pretrained` can load the folder, and so can, for the encoder alone,
        transformers' `AutoModel` and sentence-transformers.

        Returns its seal: the SHA-256 of multitask.json, which is written last and holds those of all other files.
        """
        return storage.write(
            Path(folder),
            self.encoder,
            self.tokenizer,
            self.heads.state_dict(),
            tasks=self.tasks,
            pooling=self.pooling,
            head_dropout=self.dropout.p,
            max_tokens=self.max_tokens,
            temperatures=self.temperatures,
        )

    @classmethod
    def from_pretrained(
        cls, path: Path | str, seal: str | None = None, *, revision: str | None = None
    ) -> "MultitaskModel":
        """The model stored in `path`, on the CPU and in evaluation mode.

        path: a model folder, a run's folder, or a Hub id "user/name" (revision: its branch, tag or commit).
        seal: what `save_pretrained` returned, where that is known. Every file is checked against the SHA-256 that was
        written with it; only safetensors and JSON are read. Raises CheckpointError when something is missing, changed
        or does not fit, StorageError when a file cannot be read or the Hub does not give it.
        """
        folder = storage.model_folder(path, revision)
        about = storage.read_about(folder, seal)
        encoder, tokenizer = load_folder(folder)
        heads = storage.read_heads(folder / storage.HEADS, about.tasks, encoder.config.hidden_size)
        model = cls(
            encoder,
            tokenizer,
            about.tasks,
            pooling=about.pooling,
            head_dropout=about.head_dropout,
            max_tokens=about.max_tokens,
        )
        model.heads.load_state_dict(heads)
        model.temperatures = dict(about.temperatures)
        return model.eval()

    def push_to_hub(self, name: str, *, card: str = "", private: bool = True) -> str:
        """Upload the model to the Hub's repository "user/name", made if there is none; the commit's address.

        card: text of its README.md, such as `mtlib.study.model_card.card_text(run)`. Who uploads is whom
        `huggingface-cli login` or HF_TOKEN says. Raises StorageError where the Hub refuses.
        """
        with tempfile.TemporaryDirectory(prefix="mtlib-upload-") as folder:
            self.save_pretrained(folder)
            if card:
                (Path(folder) / storage.CARD).write_text(card, encoding="utf-8")
            return storage.upload(Path(folder), name, private)

    def export(self, task: str, folder: Path | str) -> Path:
        """Write one task as an ordinary `AutoModelForSequenceClassification`; see `mtlib.exports.export_task`."""
        from mtlib.exports import export_task

        return export_task(self, task, folder)

    def export_onnx(self, folder: Path | str, int8: bool = False) -> Path:
        """Write encoder and heads as ONNX, in 8 bits on request; see `mtlib.onnx_model.export_onnx`."""
        from mtlib.onnx_model import export_onnx

        return export_onnx(self, folder, int8)


def _positions(encoder: nn.Module) -> int:
    """Longest input in tokens that is still one when it is padded; RoBERTa and MPNet count from behind padding."""
    table = getattr(encoder.embeddings, "position_embeddings", None)
    positions = getattr(encoder.config, "max_position_embeddings", sys.maxsize)
    if isinstance(table, nn.Embedding):
        positions = table.num_embeddings
    padding = position_padding(encoder)
    return (positions if padding is None else positions - padding - 1) // PAD_TO * PAD_TO


def _head(hidden: int, task: Task, seed: int) -> nn.Linear:
    head = nn.Linear(hidden, task.outputs)
    with torch.no_grad():
        head.weight.normal_(0, 0.02, generator=torch_generator(seed, f"head/{task.name}"))
        head.bias.zero_()
    return head
