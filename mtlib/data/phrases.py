"""Labelled phrases beside the sentences of a task: `<files>-phrases.csv`, in the layout of its training file."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mtlib.data.batches import Batch, TokenizedCorpus, TokenizedSplit
from mtlib.data.corpus import Corpus, Splits
from mtlib.data.leakage import keys
from mtlib.data.tsv import Fault, raise_faults, scan_tsv
from mtlib.errors import DataError, StorageError
from mtlib.randomness import generator
from mtlib.tasks import Task
from mtlib.yaml_files import is_yaml


def phrases_file(folder: str | Path, task: Task) -> Path | None:
    """The task's file of phrases in a corpus' folder, if there is one; "" is no folder: generated or downloaded."""
    path = Path(folder) / f"{task.files or task.name}-phrases.csv"
    return path if folder and path.is_file() else None


_kept: dict[tuple, Corpus] = {}
"""What the process read last, by the content of the corpus and of the files and by what the corpus says of itself."""


def with_phrases(corpus: Corpus) -> Corpus:
    """The corpus with the phrases of its tasks below their training sentences, marked in a column `phrase`.

    So phrases are part of its fingerprint, and of a row's number. Raises DataError where no task has any, for a file
    that is faulty, and for phrases that are an example of dev or test (compared as in `mtlib data check`).
    """
    files = {task.name: path for task in corpus.tasks if (path := phrases_file(corpus.source, task))}
    if not files:
        expected = " or ".join(f"{task.files or task.name}-phrases.csv" for task in corpus.tasks if not task.is_pair)
        found = f"none in {corpus.source}"
        if not corpus.source or is_yaml(corpus.source):
            base = ", and a base's phrases are not read" if corpus.source else ""
            found = f"none: {corpus.title} is no folder{base}"
        expected = expected or "of a task of single texts"
        raise DataError(f"corpus {corpus.name}: expected a file of phrases, {expected}, found {found}")
    said = repr((corpus.name, corpus.kind, corpus.source, corpus.tasks, corpus.notes))
    key = corpus.fingerprint, said, *((str(path), _content(path)) for path in files.values())
    if (known := _kept.get(key)) is None:
        frames = {name: {split: frame.copy(deep=False) for split, frame in corpus[name].items()} for name in corpus}
        for task in corpus.tasks:
            if task.name in files:
                frames[task.name]["train"] = _joined(corpus, task, files[task.name])
        known = replace(corpus, splits={name: Splits(**own) for name, own in frames.items()}, notes=[*corpus.notes])
        _kept.clear()
        _kept[key] = known
    return known


def _content(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error


def _joined(corpus: Corpus, task: Task, path: Path) -> pd.DataFrame:
    """Sentences, then phrases, with a column that tells them apart."""
    table, splits = scan_tsv(path, task), corpus[task.name]
    faults, phrases = list(table.faults), set(keys(table.frame))
    for name, frame in splits.items():
        if name == "train":
            continue
        if shared := [id_ for id_, text in zip(frame["id"], keys(frame), strict=True) if text in phrases]:
            actual = f"{len(shared)} (ids {', '.join(shared[:5])}{', ...' if len(shared) > 5 else ''})"
            faults.append(Fault(path.name, None, None, f"no phrase that is an example of {name}", actual))
    below = table.frame.assign(id="phrase-" + table.frame["id"], phrase=True)
    if taken := sorted({*below["id"]} & {*splits.train["id"]})[:1]:
        expected = "ids that, with 'phrase-' before them, are no id of train"
        faults.append(Fault(path.name, None, "id", expected, repr(taken[0])[:80]))
    raise_faults(faults)
    return pd.concat([splits.train.assign(phrase=False), below], ignore_index=True)


class WithPhrases(TokenizedSplit):
    """A training split of sentences, then phrases, of which a share of the batches holds phrases alone.

    split: both, tokenized. sentences: how many come first. share: probability that a batch is one of phrases; which
    are, is drawn from the stream "phrases/<task>" by a batch's position, so the sequence is a function of the seed.
    Its length is the number of sentences, so that samplers weigh the task as without phrases.
    """

    def __init__(self, split: TokenizedSplit, sentences: int, share: float):
        self.__dict__.update(vars(split))
        whole = len(split)
        self.sentences, self.share = sentences, share
        self.parts = split.part(np.arange(sentences)), split.part(np.arange(sentences, whole))

    def __len__(self) -> int:
        return self.sentences

    def training_batch(self, position: int, batch_size: int, seed: int) -> Batch:
        """The batch at `position` (from 0) of the endless sequence; its rows are places in the whole split."""
        phrases = generator(seed, f"phrases/{self.task.name}").random(position + 1) < self.share  # [positions]
        which = int(phrases[-1])
        earlier = int((phrases[:-1] == phrases[-1]).sum())
        batch = self.parts[which].training_batch(earlier, batch_size, seed)
        return replace(batch, rows=batch.rows + which * self.sentences)


def tokenized(corpus: Corpus, model: Any, share: float = 0.0) -> TokenizedCorpus:
    """The corpus, tokenized for the model; with a share, training splits that have phrases draw that much of them."""
    data = TokenizedCorpus.build(corpus, model.tasks, model.tokenizer, model.max_tokens)
    train = dict(data.train)
    for name in train:
        if share and "phrase" in corpus[name].train:
            train[name] = WithPhrases(train[name], int((~corpus[name].train["phrase"]).sum()), share)
    return replace(data, train=train)
