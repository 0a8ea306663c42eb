"""Figures of a corpus show its own numbers, a panel a task in the tables' order."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import made_up_corpus

from mtlib.data.corpus import Corpus
from mtlib.encoders import find_encoder
from mtlib.study import corpora
from mtlib.tasks import QQP, SST, TASKS, Task


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_balance_is_that_of_every_labelled_split(corpus):
    figure = corpora.label_balance(corpus)
    assert [axes.get_title() for axes in figure.axes] == ["QQP", "SST-5", "STS-B"]
    drawn = sorted(bar.get_height() for bar in figure.axes[1].patches if bar.get_height())
    expected = corpus.balance().query("task == 'sst'")["share"]
    assert drawn == pytest.approx(sorted(expected))


def test_the_legend_of_the_balance_has_a_split_that_one_task_alone_has(corpus):
    sst = corpus["sst"]
    one = Corpus(
        "one", corpus.tasks, {name: replace(corpus[name], test=None) for name in ("qqp", "sts")} | {"sst": sst}
    )
    (legend,) = corpora.label_balance(one).legends
    assert [text.get_text() for text in legend.get_texts()] == ["train", "dev", "test"]


def test_histograms_count_every_example_of_a_corpus_with_a_fourth_task(monkeypatch):
    colour = Task("colour", "binary", ("text",), "is_red", title="Colour")
    monkeypatch.setitem(TASKS, colour.name, colour)
    corpus = made_up_corpus((SST, QQP, colour))
    figure = corpora.length_histograms(corpus, find_encoder("tiny").load()[1], 16)
    assert [axes.get_title() for axes in figure.axes] == ["QQP", "SST-5", "Colour"]
    for axes in figure.axes:
        assert sum(bar.get_height() for bar in axes.patches) == 60


def test_ladder_has_a_marker_for_each_score():
    table = pd.DataFrame({"task": ["sst", "qqp"], "majority": [0.2, 0.6], "bag_of_words": [0.4, 0.7]})
    (axes,) = corpora.difficulty_ladder(table).axes
    drawn = {points.get_label(): points.get_offsets()[:, 0].tolist() for points in axes.collections}
    assert drawn == {"majority": [0.6, 0.2], "bag of words": [0.7, 0.4]}
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["QQP", "SST-5"] and np.all(np.diff(axes.get_yticks()) == -1)


@pytest.mark.parametrize(("low", "high"), [(1000.0, 6000.0), (0.0, 1.0), (1.0, 5.0)])
def test_numbers_of_any_range_are_counted_in_few_steps(low, high, monkeypatch):
    price = Task("price", "regression", ("text",), "eur", low=low, high=high)
    monkeypatch.setitem(TASKS, price.name, price)
    corpus = made_up_corpus((SST, price), rows=400)
    balance = corpus.balance().query("task == 'price'")
    labels = sorted(balance["label"].unique())
    assert len(labels) == (5 if high == 5 else 6) and labels[0] == low and labels[-1] == high
    assert (balance.groupby("split")["share"].sum().round(9) == 1).all()
    expected = np.histogram(corpus["price"].train["label"], [low, *np.diff(labels) / 2 + labels[:-1], high])[0]
    assert balance.query("split == 'train'")["rows"].tolist() == expected.tolist()
    assert len(corpora.label_balance(corpus).axes[1].get_xticks()) == len(labels)
