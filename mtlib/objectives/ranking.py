"""Multiple negatives ranking for sentiment: pull sentences of a class together, push the classes apart."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mtlib.errors import ConfigurationError
from mtlib.randomness import generator


def multiple_negatives_ranking_loss(
    a: Tensor,
    b: Tensor,
    scale: float = 20.0,
    labels: Tensor | None = None,
    false_negatives: Literal["keep", "mask"] = "keep",
) -> Tensor:
    """Cross-entropy of S = scale * cos(a_i, b_j) against the identity: every b_j with j != i is a negative of a_i.

    a, b: sentence vectors [batch, hidden]; row i of each is a pair. They are normalised here, in float32 (float64
        stays), also under autocast.
    labels: class of each pair, [batch]. `false_negatives="mask"` takes the columns of a row's own class, its
        positive excepted, out of its softmax; "keep" treats them as negatives.
    Raises ConfigurationError where there is nothing to rank against (one pair, one class: the loss would be an empty
    success), and for "mask" without labels. Source: Henderson et al. 2017, section 4.4.
    """
    if a.shape != b.shape or a.dim() != 2:
        raise ConfigurationError(f"expected two [batch, hidden] arrays, found {list(a.shape)} and {list(b.shape)}")
    if len(a) < 2:
        raise ConfigurationError(f"a ranking batch needs at least 2 pairs, found {len(a)}: there is no negative")
    if labels is not None and bool((labels == labels[0]).all()):
        raise ConfigurationError(f"a ranking batch needs at least 2 classes, found only class {labels[0].item()}")
    if false_negatives not in ("keep", "mask"):
        raise ConfigurationError(f"false_negatives: expected keep or mask, found {false_negatives!r}")
    if false_negatives == "mask" and labels is None:
        raise ConfigurationError("false_negatives='mask' needs the labels of the pairs")
    with torch.autocast(a.device.type, enabled=False):
        a, b = (F.normalize(t if t.dtype == torch.float64 else t.float(), dim=-1) for t in (a, b))
        scores = scale * (a @ b.T)  # [batch, batch]
        if false_negatives == "mask" and labels is not None:
            same = labels.unsqueeze(0) == labels.unsqueeze(1)
            scores = scores.masked_fill(same.fill_diagonal_(False).to(scores.device), -torch.inf)
        return F.cross_entropy(scores, torch.arange(len(a), device=a.device))


def class_distinct_batch(
    labels: Sequence[int], seed: int, step: int, size: int = 5, texts: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows a and b, [size] each, of one ranking batch: a pure function of its arguments.

    Pair i is two different rows of one class. The classes are all different as long as `size` allows; beyond that
    they repeat as evenly as possible, which is for `false_negatives="mask"`. No row is used twice in a batch, and
    given `texts` no text either (case and spacing aside): of rows with one text only the first takes part.
    Raises ConfigurationError for fewer than 2 pairs, for fewer than 2 classes, and for a class with too few
    different sentences.
    """
    if size < 2:
        raise ConfigurationError(f"a ranking batch needs at least 2 pairs, found size {size}: there is no negative")
    classed = np.asarray(labels)
    rows = np.arange(len(classed)) if texts is None else _first_rows(texts, len(classed))
    classes = np.unique(classed)
    if len(classes) < 2:
        raise ConfigurationError(f"ranking needs at least 2 classes, found {classes.tolist()}")
    random = generator(seed, "ranking", step)
    repeats = np.full(len(classes), size // len(classes))
    repeats[random.permutation(len(classes))[: size % len(classes)]] += 1
    pairs = []
    for label, count in zip(classes, repeats, strict=True):
        pool = rows[classed[rows] == label]
        if len(pool) < 2 * count:
            raise ConfigurationError(
                f"ranking: class {label} has {len(pool)} different sentences, a batch of {size} pairs needs {2 * count}"
            )
        pairs.append(random.choice(pool, (count, 2), replace=False))
    a, b = random.permutation(np.concatenate(pairs)).T
    return a, b


def _first_rows(texts: Sequence[str], count: int) -> np.ndarray:
    """Row of the first occurrence of every different text."""
    if len(texts) != count:
        raise ConfigurationError(f"ranking: {count} labels but {len(texts)} texts")
    first: dict[str, int] = {}
    for row, text in enumerate(texts):
        first.setdefault(" ".join(text.casefold().split()), row)
    return np.fromiter(first.values(), dtype=np.int64)
