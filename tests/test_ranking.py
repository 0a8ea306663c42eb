"""The ranking loss against sentence-transformers and closed forms, and batches of distinct classes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from mtlib.errors import ConfigurationError
from mtlib.objectives.ranking import class_distinct_batch, multiple_negatives_ranking_loss


def vectors(size, hidden=16, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, hidden, generator=generator, dtype=dtype).requires_grad_() for _ in "ab"]


@pytest.mark.parametrize("size", [2, 5, 32])
@pytest.mark.parametrize("scale", [1.0, 20.0, 50.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_sentence_transformers_in_value_and_gradient(size, scale, dtype):
    a, b = vectors(size, hidden=384, dtype=dtype)
    ours = multiple_negatives_ranking_loss(a, b, scale=scale)
    theirs = MultipleNegativesRankingLoss(None, scale=scale).compute_loss_from_embeddings([a, b], None)
    precise = dtype == torch.float64
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12 if precise else 5e-7)
    for mine, other in zip(torch.autograd.grad(ours, [a, b]), torch.autograd.grad(theirs, [a, b]), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12 if precise else 3e-7)


@pytest.mark.parametrize("size", [2, 5, 16])
def test_orthonormal_pairs(size):
    a = torch.eye(16, dtype=torch.float64)[:size]
    value = multiple_negatives_ranking_loss(a, 3 * a).item()
    assert value == pytest.approx(math.log1p((size - 1) * math.exp(-20)), rel=1e-9)


@pytest.mark.parametrize("size", [2, 5, 16])
def test_identical_embeddings(size):
    a = torch.ones(size, 8, dtype=torch.float64)
    assert multiple_negatives_ranking_loss(a, a).item() == pytest.approx(math.log(size), rel=1e-12)


def test_length_of_the_vectors_does_not_matter():
    a, b = vectors(5, dtype=torch.float64)
    lengths = torch.rand(5, 1, dtype=torch.float64) + 0.1
    torch.testing.assert_close(
        multiple_negatives_ranking_loss(a, b), multiple_negatives_ranking_loss(lengths * a, 7 * b)
    )


def test_mask_is_the_loss_over_the_remaining_columns():
    a, b = vectors(4, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 2])
    columns = [[0, 1, 3], [0, 1, 2, 3], [1, 2, 3], [0, 1, 2, 3]]
    cosine = torch.nn.functional.cosine_similarity(a.unsqueeze(1), b.unsqueeze(0), dim=-1)
    rows = [torch.logsumexp(20 * cosine[i, kept], 0) - 20 * cosine[i, i] for i, kept in enumerate(columns)]
    masked = multiple_negatives_ranking_loss(a, b, labels=labels, false_negatives="mask")
    torch.testing.assert_close(masked, torch.stack(rows).mean())
    assert torch.isfinite(torch.autograd.grad(masked, a)[0]).all()


def test_mask_changes_nothing_where_classes_are_distinct_and_keep_ignores_labels():
    a, b = vectors(4)
    plain = multiple_negatives_ranking_loss(a, b)
    distinct = multiple_negatives_ranking_loss(a, b, labels=torch.arange(4), false_negatives="mask")
    kept = multiple_negatives_ranking_loss(a, b, labels=torch.tensor([0, 0, 1, 1]))
    assert torch.equal(plain, distinct) and torch.equal(plain, kept)


def test_float32_under_autocast_and_float64_kept():
    a, b = vectors(5)
    with torch.autocast("cpu", torch.bfloat16):
        value = multiple_negatives_ranking_loss(a, b)
        double = multiple_negatives_ranking_loss(a.double(), b.double())
    assert torch.equal(value, multiple_negatives_ranking_loss(a, b))
    assert double.dtype == torch.float64


def test_batches_without_a_negative_are_refused():
    a, b = vectors(1)
    with pytest.raises(ConfigurationError, match="at least 2 pairs"):
        multiple_negatives_ranking_loss(a, b)
    a, b = vectors(2)
    for choice in ("keep", "mask"):
        with pytest.raises(ConfigurationError, match="at least 2 classes, found only class 3"):
            multiple_negatives_ranking_loss(a, b, labels=torch.tensor([3, 3]), false_negatives=choice)


def test_calls_that_cannot_be_meant_are_refused():
    a, b = vectors(3)
    with pytest.raises(ConfigurationError, match="needs the labels"):
        multiple_negatives_ranking_loss(a, b, false_negatives="mask")
    with pytest.raises(ConfigurationError, match="keep or mask"):
        multiple_negatives_ranking_loss(a, b, false_negatives="drop")
    with pytest.raises(ConfigurationError, match="two \\[batch, hidden\\]"):
        multiple_negatives_ranking_loss(a, b[:2])


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(8, 20), min_size=2, max_size=6),
    size=st.integers(2, 16),
    seed=st.integers(0, 5),
    step=st.integers(0, 1000),
)
def test_every_batch_pairs_two_sentences_of_one_class_and_spreads_the_classes(counts, size, seed, step):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)) * 10, counts))
    needed = -(-size // len(counts))
    if min(counts) < 2 * needed:
        return
    a, b = class_distinct_batch(labels, seed, step, size)
    assert len(a) == len(b) == size == len(set(a.tolist()) | set(b.tolist())) / 2
    assert (labels[a] == labels[b]).all()
    _, drawn = np.unique(labels[a], return_counts=True)
    assert drawn.max() - drawn.min() <= 1 and len(drawn) == min(size, len(counts))


def test_batches_are_a_pure_function_of_seed_and_step():
    labels = np.arange(100) % 5
    batches = {}
    for seed in (0, 1):
        for step in (0, 1):
            np.random.seed(step)
            batches[seed, step] = np.stack(class_distinct_batch(labels, seed, step)).tolist()
            assert batches[seed, step] == np.stack(class_distinct_batch(labels, seed, step)).tolist()
    assert len({str(batch) for batch in batches.values()}) == 4


def test_every_sentence_is_drawn_equally_often():
    labels = np.repeat(np.arange(5), [10, 20, 30, 40, 50])
    drawn = np.concatenate([np.concatenate(class_distinct_batch(labels, 0, step)) for step in range(2000)])
    for label, count in enumerate([10, 20, 30, 40, 50]):
        shares = np.bincount(drawn, minlength=150)[labels == label] / (2 * 2000)
        np.testing.assert_allclose(shares, 1 / count, atol=5 * math.sqrt(1 / count / 4000))


def test_fewer_pairs_than_classes_take_every_class_equally_often():
    labels = np.arange(50) % 5
    drawn = np.bincount(np.concatenate([labels[class_distinct_batch(labels, 0, k, 2)[0]] for k in range(2000)]))
    np.testing.assert_allclose(drawn / 2000, 2 / 5, atol=5 * math.sqrt(0.24 / 2000))


def test_one_text_never_meets_itself():
    # Every text occurs three times, in other spacing and case, once under another class.
    texts = [f"text {i}" for i in range(40)] + [f"Text  {i} " for i in range(40)] + [f"TEXT {i}" for i in range(40)]
    labels = np.concatenate([np.arange(40) % 5, np.arange(40) % 5, (np.arange(40) + 1) % 5])
    for step in range(200):
        a, b = class_distinct_batch(labels, 0, step, 10, texts)
        used = [" ".join(texts[row].lower().split()) for row in (*a, *b)]
        assert len(set(used)) == 20
        assert (labels[a] == labels[b]).all()


@pytest.mark.parametrize(
    ("labels", "size", "texts", "message"),
    [
        ([0, 0, 1, 1], 1, None, "at least 2 pairs"),
        ([0, 0], 2, None, "at least 2 classes"),
        ([0, 0, 1], 2, None, "class 1 has 1 different sentences"),
        ([0, 0, 1, 1], 2, ["a", "b", "c", "C "], "class 1 has 1 different sentences"),
        ([0, 0, 1, 1], 4, None, "needs 4"),
        ([0, 0, 1, 1], 2, ["a"], "4 labels but 1 texts"),
    ],
)
def test_corpora_that_cannot_be_ranked_are_refused(labels, size, texts, message):
    with pytest.raises(ConfigurationError, match=message):
        class_distinct_batch(labels, 0, 0, size, texts)
