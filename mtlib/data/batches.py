"""Tokens, length buckets and collation: from a table of texts to padded batches, as a pure function of the step."""

import copy
import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from mtlib.randomness import generator
from mtlib.tasks import Task

if TYPE_CHECKING:
    from mtlib.data.corpus import Corpus

Tokenizer = Any
"""A Hugging Face tokenizer, fast or not: its class is imported only where one is loaded."""

POOL = 64
"""Batches sorted together by length: larger saves padding, smaller keeps batches more random."""

PAD_TO = 2
"""Batches are padded to a multiple of this many tokens: few distinct shapes (each has kernels of its own to be built),
and 95 % of the tokens of a batch of question pairs are real, where a multiple of eight leaves 87 %."""

CHUNK = 10_000
"""Examples tokenized at a time: the tokenizer returns lists, which take ten times the room of the arrays."""

KEPT = 16
"""Splits whose tokens the process keeps for the next run on them."""


@dataclass(frozen=True)
class Batch:
    """One padded batch of one task.

    inputs: `input_ids`, `attention_mask` and, for encoders with segments, `token_type_ids`, each
        [batch, tokens], int64.
    labels: [batch], as the task's head learns them (`Task.targets`), or None for unlabelled examples.
    rows: positions in the split, [batch].
    """

    task: Task
    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor | None
    rows: np.ndarray

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on `device`."""
        inputs = {name: tensor.to(device) for name, tensor in self.inputs.items()}
        return Batch(self.task, inputs, None if self.labels is None else self.labels.to(device), self.rows)


class TokenizedSplit:
    """One split of one task, tokenized once: `[CLS] a [SEP]`, or `[CLS] a [SEP] b [SEP]` for pairs.

    ids: example ids, [n]. lengths: tokens of each example, [n]. truncated: how many were cut to `max_tokens`.
    """

    def __init__(self, task: Task, frame: pd.DataFrame, tokenizer: Tokenizer, max_tokens: int):
        self.task = task
        self.ids = frame["id"].to_numpy()
        self.labels = frame["label"].to_numpy() if "label" in frame else None
        texts = [frame[column].tolist() for column in ("text_a", "text_b")[: len(task.columns)]]
        tokens = tokenize(tokenizer, texts, max_tokens)
        self.columns, self.starts, self.lengths, self.truncated = (
            tokens.columns,
            tokens.starts,
            tokens.lengths,
            tokens.truncated,
        )
        self.pad = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        self._pass: tuple[tuple[int, int, int] | None, list[np.ndarray]] = None, []

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: Sequence[int]) -> Batch:
        """The examples at `rows`, padded on the right to the longest of them (a multiple of PAD_TO)."""
        rows = np.asarray(rows)
        width = -(-int(self.lengths[rows].max()) // PAD_TO) * PAD_TO
        places = np.arange(width)
        real = places < self.lengths[rows][:, None]  # [batch, tokens]
        positions = np.where(real, self.starts[rows][:, None] + places, 0)
        inputs = {"attention_mask": torch.from_numpy(real.astype(np.int64))}
        for name, column in self.columns.items():
            inputs[name] = torch.from_numpy(np.where(real, column[positions], self.pad.get(name, 0)).astype(np.int64))
        labels = None if self.labels is None else torch.from_numpy(np.asarray(self.task.targets(self.labels[rows])))
        return Batch(self.task, inputs, labels, rows)

    def part(self, rows: Sequence[int]) -> "TokenizedSplit":
        """The examples at `rows` as a split of their own."""
        part = copy.copy(self)
        part.ids, part.starts, part.lengths = self.ids[rows], self.starts[rows], self.lengths[rows]
        part.labels = None if self.labels is None else self.labels[rows]
        part._pass = None, []
        return part

    def training_batch(self, position: int, batch_size: int, seed: int) -> Batch:
        """The batch at `position` (from 0) of the endless sequence of shuffled passes over this split."""
        per_pass = -(-len(self) // batch_size)
        number, index = divmod(position, per_pass)
        if self._pass[0] != (batch_size, seed, number):
            rng = generator(seed, f"order/{self.task.name}", number)
            self._pass = (batch_size, seed, number), shuffled_batches(self.lengths, batch_size, rng)
        return self.batch(self._pass[1][index])

    def evaluation_batches(self, tokens: int = 2048, examples: int | None = None) -> Iterator[Batch]:
        """All examples once, longest first, in batches of `examples`, or of at most `tokens` padded tokens.

        On two cores 2,048 scored 813 examples a second where 8,192, which leave the caches, scored 625.
        """
        order = np.argsort(-self.lengths, kind="stable")
        start = 0
        while start < len(order):
            width = -(-int(self.lengths[order[start]]) // PAD_TO) * PAD_TO
            stop = start + (examples or max(1, tokens // width))
            yield self.batch(order[start:stop])
            start = stop


def shuffled_batches(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """One pass: every row exactly once, in batches of rows of similar length, in random order.

    Rows are shuffled, cut into pools of POOL batches, sorted by length within each pool and cut into
    batches, which are shuffled again. Only the last batch of the last pool may be smaller.
    """
    order = rng.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), batch_size * POOL):
        pool = order[start : start + batch_size * POOL]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


@dataclass(frozen=True)
class Tokens:
    """Tokens of n examples, one after the other.

    columns: `input_ids` (int32) and, for encoders with segments, `token_type_ids` (uint8), [all tokens] each.
    starts, lengths: where an example's tokens begin and how many there are, [n]. truncated: examples that were cut.
    """

    columns: dict[str, np.ndarray]
    starts: np.ndarray
    lengths: np.ndarray
    truncated: int


_kept: dict[tuple, Tokens] = {}
_one_at_a_time = threading.Lock()
"""A tokenizer is changed by being called, for its truncation: threads that predict at once wait for one another."""


def tokenize(tokenizer: Tokenizer, texts: Sequence[list[str]], max_tokens: int) -> Tokens:
    """Tokens of one text list or of two (pairs), cut to `max_tokens` an example; of a pair the longer text first.

    The process keeps what it tokenized last, by the content of texts and tokenizer, and by which inputs that gives.
    """
    content = _fingerprint("\x1f".join([*(str(len(text)) for text in column), "", *column]) for column in texts)
    gives = tuple(tokenizer.model_input_names), tokenizer.truncation_side
    key = content, _vocabulary(tokenizer, len(tokenizer)), gives, max_tokens
    with _one_at_a_time:
        tokens = _kept.pop(key, None) or _tokenized(tokenizer, texts, max_tokens)
        forget_truncation(tokenizer)
        _kept[key] = tokens
        while len(_kept) > KEPT:
            del _kept[next(iter(_kept))]
    return tokens


def _tokenized(tokenizer: Tokenizer, texts: Sequence[list[str]], max_tokens: int) -> Tokens:
    types = {"input_ids": np.int32, "token_type_ids": np.uint8}
    parts: dict[str, list[np.ndarray]] = {}
    lengths, truncated = [], 0
    for start in range(0, max(len(texts[0]), 1), CHUNK):
        some = [column[start : start + CHUNK] for column in texts]
        encoded = tokenizer(*some, truncation=True, max_length=max_tokens, return_attention_mask=False)
        sizes = [len(tokens) for tokens in encoded["input_ids"]]
        for name, column in encoded.items():
            flat = np.fromiter(chain.from_iterable(column), types.get(name, np.int32), sum(sizes))
            parts.setdefault(name, []).append(flat)
        lengths.append(np.array(sizes, dtype=np.int64))
        truncated += _longer(tokenizer, some, np.flatnonzero(lengths[-1] == max_tokens), max_tokens)
    lengths = np.concatenate(lengths)
    columns = {name: np.concatenate(flat) for name, flat in parts.items()}
    return Tokens(columns, np.cumsum(lengths) - lengths, lengths, truncated)


def _longer(tokenizer: Tokenizer, texts: Sequence[list[str]], rows: np.ndarray, max_tokens: int) -> int:
    """How many of the examples at `rows` have more than `max_tokens` tokens."""
    if not len(rows):
        return 0
    whole = tokenizer(*[[column[row] for row in rows] for column in texts])
    return sum(len(tokens) > max_tokens for tokens in whole["input_ids"])


def _fingerprint(parts: Iterable[str]) -> str:
    result = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        result.update(len(encoded).to_bytes(8, "big") + encoded)
    return result.hexdigest()


@lru_cache(maxsize=4)
def _vocabulary(tokenizer: Tokenizer, size: int) -> str:
    """SHA-256 of a tokenizer's content; `size` tells one that has got new tokens from what it was before."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    about = json.loads(backend.to_str()) if backend else {"vocabulary": tokenizer.get_vocab(), "shown": repr(tokenizer)}
    return _fingerprint([json.dumps(about | {"truncation": None, "padding": None}, sort_keys=True)])


def forget_truncation(tokenizer: Tokenizer) -> None:
    """Forget the last call's truncation, which is stored with a tokenizer: a stored model must not tell who called."""
    if backend := getattr(tokenizer, "backend_tokenizer", None):
        backend.no_truncation()
        backend.no_padding()


@dataclass(frozen=True)
class TokenizedCorpus:
    """Train, dev and test of every task, tokenized for one encoder."""

    train: Mapping[str, TokenizedSplit]
    dev: Mapping[str, TokenizedSplit]
    test: Mapping[str, TokenizedSplit]

    @classmethod
    def build(cls, corpus: "Corpus", tasks: Sequence[Task], tokenizer: Tokenizer, max_tokens: int) -> "TokenizedCorpus":
        """Tokenize the splits of `tasks` in `corpus`; a split that a corpus lacks is left out."""
        splits = {
            name: {
                task.name: TokenizedSplit(task, frame, tokenizer, max_tokens)
                for task in tasks
                if (frame := getattr(corpus[task.name], name)) is not None
            }
            for name in ("train", "dev", "test")
        }
        return cls(**splits)

    @property
    def truncated(self) -> dict[str, int]:
        """How many examples were cut to the token limit, by "<split>-<task>"; only where any were."""
        return {
            f"{name}-{task}": split.truncated
            for name in ("train", "dev", "test")
            for task, split in getattr(self, name).items()
            if split.truncated
        }
