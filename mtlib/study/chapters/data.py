"""Notebook 00: what is in the corpus, and how much of it needs more than counting words."""

from functools import cached_property

import pandas as pd
from matplotlib.figure import Figure

import mtlib
from mtlib.data.baselines import difficulty
from mtlib.encoders import find_encoder
from mtlib.study import corpora
from mtlib.study.chapters.chapter import Chapter, figure, table
from mtlib.study.measured import measured


class Data(Chapter):
    """Sizes, labels, lengths, leakage and difficulty of the study's corpus; there are no runs."""

    @cached_property
    def tokenizer(self):
        """That of the preset's encoder."""
        experiment = self.study.experiment("data")
        return find_encoder(experiment.encoder, experiment.encoder_revision).load()[1]

    @property
    def max_tokens(self) -> int:
        """Tokens beyond which the preset cuts an example."""
        return self.study.experiment("data").max_tokens

    @table("data_summary", "Examples, {corpus}")
    def summary(self) -> pd.DataFrame:
        """Examples of each split."""
        return self.study.corpus.summary()

    @table("data_balance", "Labels, {corpus}")
    def balance(self) -> pd.DataFrame:
        """Share of each label."""
        return self.study.corpus.balance()

    @table("data_lengths", "Tokens an example (limit {chapter.max_tokens}), {corpus}")
    def lengths(self) -> pd.DataFrame:
        """Tokens an example, and how many examples are cut."""
        return self.study.corpus.lengths(self.tokenizer, self.max_tokens)

    @table("data_leakage", "Shared with train, {corpus}", digits=4)
    def leakage(self) -> pd.DataFrame:
        """Examples whose texts are in train too."""
        return self.study.corpus.leakage()

    @table("data_difficulty", "Difficulty of dev, {corpus}")
    def difficulty(self) -> pd.DataFrame:
        """Dev scores of what understands nothing."""
        on = [self.study.corpus.fingerprint, self.study.corpus.name, mtlib.__version__]
        return measured(self.cache / "measures", "difficulty", on, lambda: difficulty(self.study.corpus))

    @figure("data_balance")
    def label_balance(self) -> Figure:
        """Share of each label."""
        return corpora.label_balance(self.study.corpus)

    @figure("data_lengths")
    def histograms(self) -> Figure:
        """Tokens of the training examples."""
        return corpora.length_histograms(self.study.corpus, self.tokenizer, self.max_tokens)

    @figure("data_difficulty")
    def ladder(self) -> Figure:
        """The scores of `difficulty` on one line a task."""
        return corpora.difficulty_ladder(self.table("data_difficulty"))
