"""Corpora that cannot be trained on: every reason at once, before the training; and metrics that are undefined."""

import math
from dataclasses import replace

import numpy as np
import pytest
from conftest import made_up
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import mtlib
from mtlib import metrics
from mtlib.data.corpus import Corpus, Splits
from mtlib.errors import DataError
from mtlib.tasks import QQP, SST, STS
from mtlib.training.evaluation import in_choosing_half
from mtlib.training.trainable import require_trainable

TASKS = ("sst", "qqp", "sts")


def corpus_with(change, task=STS, split="dev", rows=20) -> Corpus:
    """The made-up corpus with one split as `change` makes it."""
    splits = {}
    for each in (SST, QQP, STS):
        frames = {name: made_up(each, name, rows) for name in ("train", "dev", "test")}
        if each == task:
            frames[split] = change(frames[split])
        splits[each.name] = Splits(**frames)
    return Corpus("own", (SST, QQP, STS), splits)


def alter(**columns):
    return lambda frame: frame.assign(**columns)


def test_a_sound_corpus_passes(corpus):
    require_trainable(corpus, TASKS)
    require_trainable(corpus, TASKS, dev_limit=20)
    require_trainable(corpus_with(lambda frame: frame.drop(columns="label"), split="test"), TASKS)


@pytest.mark.parametrize(("title", "other"), [("Reviews", "Reviews"), ("sick", "")])
def test_two_tasks_that_tables_would_call_the_same_are_refused(title, other):
    one, two = replace(STS, name="sts", title=title), replace(STS, name="sick", title=other)
    frames = {name: made_up(STS, name, 20) for name in ("train", "dev")}
    corpus = Corpus("own", (one, two), {"sts": Splits(**frames), "sick": Splits(**frames)})
    with pytest.raises(DataError, match=f"a title of its own for each task, found '{title}' of sts and sick"):
        require_trainable(corpus, ["sick", "sts"])
    require_trainable(corpus, ["sick"])


@pytest.mark.parametrize(
    ("split", "change", "reason"),
    [
        ("train", lambda f: f.iloc[:0], "sts train: expected one example or more, found none"),
        ("dev", lambda f: f.iloc[:0], "sts dev: expected one example or more, found none"),
        ("dev", lambda f: f.iloc[:1], "sts dev: expected 2 or more examples in the half that chooses"),
        ("dev", lambda f: f[~in_choosing_half(f["id"])], "found 0 of the"),
        ("dev", alter(label=2.5), "expected different labels in the half that chooses the epoch"),
        ("dev", lambda f: f.drop(columns="label"), "the columns id, text_a, text_b, label, found none called label"),
        ("train", lambda f: f.drop(columns="text_b"), "found none called text_b"),
        ("train", lambda f: f.drop(columns="id"), "found none called id"),
        ("train", alter(label=np.nan), "sts train, column 'label': expected a number from 0 to 5, found nan"),
        ("test", alter(label=np.inf), "sts test, column 'label': expected a number from 0 to 5, found inf"),
        ("dev", alter(label="many"), "expected a number from 0 to 5, found 'many'"),
        ("dev", alter(id="same"), "sts dev, column 'id': expected an id of its own for each example, found 'same'"),
        ("test", lambda f: f.assign(id=[f"\x1f{i}" for i in range(len(f))]), "expected an id without line ends"),
        ("train", lambda f: f.assign(id=range(len(f))), "sts train, column 'id': expected text, found 0"),
        ("train", alter(text_a=None), "sts train, column 'text_a': expected text, found"),
    ],
)  # fmt: skip
def test_a_corpus_that_cannot_be_trained_on_is_refused_before_anything_is_written(tmp_path, split, change, reason):
    with pytest.raises(DataError) as error:
        mtlib.fit(mtlib.experiment("smoke"), corpus_with(change, split=split), tmp_path, progress="none")
    assert reason in str(error.value) and error.value.exit_code == 65
    assert not list(tmp_path.iterdir())


def test_a_test_split_without_rows_is_none(tmp_path):
    corpus = corpus_with(lambda frame: frame.iloc[:0], SST, "test")
    assert corpus["sst"].test is None and dict(corpus["sst"].items()).keys() == {"train", "dev"}
    run = mtlib.fit(mtlib.experiment("smoke", epochs=1, steps_per_epoch=2), corpus, tmp_path, progress="none")
    assert run.complete and len(run.predictions("test", "sts")) == 20
    assert not (run.path / "predictions" / "test-sst.csv").exists()


@pytest.mark.parametrize("label", [5, -1, -100, 2.5, np.nan])
def test_a_label_that_is_no_class_is_refused(label):
    with pytest.raises(DataError, match="sst train, column 'label': expected an integer from 0 to 4"):
        require_trainable(corpus_with(alter(label=label), SST, "train"), TASKS)


def test_every_reason_is_said_at_once_and_a_task_that_is_not_trained_has_none():
    broken = corpus_with(lambda frame: frame.iloc[:0])
    with pytest.raises(DataError) as error:
        require_trainable(broken, ("sst", "nli", "sts"), dev_limit=1)
    assert len(error.value.faults) == 3
    require_trainable(broken, ("sst", "qqp"))


# Metrics

VALUES = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=20)


@given(VALUES, st.integers(-900, 900))
def test_pearson_is_scipy_s_whatever_the_scale(values, exponent):
    labels, predictions = np.arange(len(values)) % 3, np.array(values)
    r = metrics.pearson(labels, predictions)
    assert math.isnan(r) or -1 <= r <= 1
    small = np.arange(len(values), dtype=float) ** 2
    assert metrics.pearson(small, np.ldexp(small + labels, exponent)) == metrics.pearson(small, small + labels)


def test_pearson_is_scipy_s():
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.normal(size=(2, 30))
        assert metrics.pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)


@pytest.mark.parametrize("metric", [metrics.accuracy, metrics.pearson, metrics.similarity_score])
@pytest.mark.parametrize(("a", "b"), [([1, 2], [1]), ([1], 1), ([[1]], [[1]]), ([], [1])])
def test_arrays_that_do_not_belong_together_are_refused(metric, a, b):
    with pytest.raises(ValueError, match="expected two arrays"):
        metric(a, b)


@pytest.mark.parametrize("predictions", [[1.0, np.nan, 2.0], [1.0, np.inf, 2.0], [3.0, 3.0, 3.0]])
def test_a_correlation_that_is_undefined_says_so_without_a_warning(predictions, recwarn):
    assert math.isnan(metrics.pearson([1, 2, 3], predictions)) and math.isnan(metrics.accuracy([], []))
    assert not recwarn.list
