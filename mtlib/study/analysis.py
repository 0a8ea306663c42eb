"""What embeddings and predictions look like from inside: neighbourhoods, t-SNE, confusion, mistakes."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import sklearn
from sklearn.manifold import TSNE
from sklearn.metrics import cohen_kappa_score, silhouette_samples
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from mtlib.errors import CheckpointError, DataError
from mtlib.model import MultitaskModel
from mtlib.randomness import generator
from mtlib.study.calibration import probabilities
from mtlib.study.paper import TSNE_GRID
from mtlib.study.statistics import percentile_interval
from mtlib.training.files import storage, write_atomic


@dataclass(frozen=True)
class Estimate:
    """A value with its bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self):
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_estimate(values: np.ndarray, *, draws: int = 10_000, level: float = 0.95, seed: int = 0) -> Estimate:
    """Mean of values [n] with the percentile interval over resampled examples."""
    values = np.sort(np.asarray(values, float))
    random, chunk = generator(seed, "bootstrap mean", draws), max(1, 2_000_000 // len(values))
    sizes = [min(chunk, draws - start) for start in range(0, draws, chunk)]
    drawn = [values[random.integers(len(values), size=(size, len(values)))].mean(axis=1) for size in sizes]
    return Estimate(float(values.mean()), *percentile_interval(np.concatenate(drawn), values.mean(), level))


def purities(embeddings: np.ndarray, labels: np.ndarray, k: int = 10, *, metric: str = "cosine") -> np.ndarray:
    """Share of the `k` nearest neighbours (by `metric`) of each embedding [n, hidden] that have its label: [n].

    A plane of t-SNE wants the metric "euclidean". Raises DataError for n <= k.
    """
    embeddings, labels = _checked(embeddings, labels)
    if len(labels) <= k:
        raise DataError(f"neighbourhood purity: expected more than {k} examples, found {len(labels)}")
    neighbours = NearestNeighbors(n_neighbors=k, metric=metric).fit(embeddings).kneighbors(return_distance=False)
    return (labels[neighbours] == labels[:, None]).mean(axis=1)


def neighbourhood_purity(
    embeddings: np.ndarray, labels: np.ndarray, k: int = 10, *, metric: str = "cosine", **options
) -> Estimate:
    """Mean of `purities`. By chance it is `chance_purity(labels)`. `options` are those of `mean_estimate`."""
    return mean_estimate(purities(embeddings, labels, k, metric=metric), **options)


def chance_purity(labels: np.ndarray) -> float:
    """Expected purity of neighbours drawn at random: sum over classes of n_c (n_c - 1) / (n (n - 1))."""
    counts = np.unique(labels, return_counts=True)[1]
    return float((counts * (counts - 1)).sum() / (len(labels) * (len(labels) - 1)))


def silhouettes(embeddings: np.ndarray, labels: np.ndarray, *, metric: str = "cosine") -> np.ndarray:
    """Silhouette coefficient (distance `metric`) of each embedding [n, hidden] grouped by labels: [n], in [-1, 1].

    Raises DataError for a single class.
    """
    embeddings, labels = _checked(embeddings, labels)
    if len(np.unique(labels)) < 2:
        raise DataError("silhouette: expected at least two classes, found one")
    return silhouette_samples(embeddings, labels, metric=metric)


def silhouette(embeddings: np.ndarray, labels: np.ndarray, *, metric: str = "cosine", **options) -> Estimate:
    """Mean of `silhouettes`; zero is no structure. The interval resamples the examples' own coefficients.

    `options` are those of `mean_estimate`.
    """
    return mean_estimate(silhouettes(embeddings, labels, metric=metric), **options)


def _checked(embeddings: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    embeddings, labels = np.asarray(embeddings), np.asarray(labels)
    if embeddings.ndim != 2 or len(embeddings) != len(labels):
        raise DataError(f"expected embeddings [n, hidden] and labels [n], found {embeddings.shape} and {labels.shape}")
    return embeddings, labels


def tsne(
    embeddings: np.ndarray,
    perplexity: float = 30,
    iterations: int = 3000,
    *,
    seed: int = 0,
    cache: Path | str | None = "results/cache/tsne",
) -> np.ndarray:
    """t-SNE of embeddings [n, hidden] in the plane [n, 2], from their principal components, with cosine distances.

    The same input gives the same bits: it runs on one thread. The result is kept in the folder `cache` (None: nowhere)
    under the SHA-256 of embeddings and settings. Raises CheckpointError for a damaged cache file.
    """
    embeddings = np.ascontiguousarray(embeddings, np.float32)
    settings = f"{embeddings.shape} {float(perplexity)} {int(iterations)} {seed} scikit-learn {sklearn.__version__}"
    key = hashlib.sha256(settings.encode() + embeddings.tobytes()).hexdigest()
    path = Path(cache) / f"{key}.npy" if cache is not None else None
    with threadpool_limits(1):
        unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        return _kept(path, (len(unit), 2), lambda: _plane(unit, perplexity, iterations, seed))


def _plane(unit: np.ndarray, perplexity: float, iterations: int, seed: int) -> np.ndarray:
    settings = {"perplexity": perplexity, "max_iter": iterations, "random_state": seed}
    return TSNE(init="pca", n_jobs=1, **settings).fit_transform(unit)


def embedded(
    load: Callable[[], MultitaskModel],
    weights: str,
    texts: Sequence[str],
    *,
    cache: Path | str | None = "results/cache/embeddings",
) -> np.ndarray:
    """Sentence vectors [texts, hidden] of the model that `load()` returns; `weights` names what it is, for the cache.

    They are kept in the folder `cache` (None: nowhere) under the SHA-256 of `weights` and texts, and the model is only
    loaded when they are not there. Raises CheckpointError for a damaged cache file.
    """
    key = hashlib.sha256(json.dumps([weights, list(texts)]).encode()).hexdigest()
    path = Path(cache) / f"{key}.npy" if cache is not None else None
    return _kept(path, (len(texts), None), lambda: load().embed(texts))


def _kept(path: Path | None, shape: tuple[int, int | None], compute: Callable[[], np.ndarray]) -> np.ndarray:
    """The array [rows, width] in the file `path`, computed and written when there is none (path None: only computed).

    A width of None fits every width.
    """
    if path is not None and path.exists():
        try:
            array = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise CheckpointError(f"{path}: damaged ({error}); delete it to compute it again") from error
        if array.ndim != 2 or len(array) != shape[0] or shape[1] not in (None, array.shape[1]):
            raise CheckpointError(f"{path}: expected shape {shape}, found {array.shape}; delete it to compute it again")
        return array
    array = compute()
    if path is not None:
        with storage("create", path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        buffer = BytesIO()
        np.save(buffer, array)
        write_atomic(path, buffer.getvalue())
    return array


def tsne_grid(
    embeddings: np.ndarray,
    perplexities: Sequence[float] = TSNE_GRID["perplexity"],
    iterations: Sequence[int] = TSNE_GRID["iterations"],
    **options,
) -> dict[tuple[float, int], np.ndarray]:
    """`tsne` at every perplexity and number of iterations: (perplexity, iterations) -> [n, 2]."""
    return {(p, i): tsne(embeddings, p, i, **options) for p in perplexities for i in iterations}


def confusion(labels: np.ndarray, predictions: np.ndarray, classes: int, *, counts: bool = False) -> np.ndarray:
    """[true class, predicted class]: shares of each true class (a class without examples is NaN), or counts."""
    labels, predictions = np.asarray(labels).astype(int), np.asarray(predictions).astype(int)
    table = np.bincount(labels * classes + predictions, minlength=classes**2).reshape(classes, classes)
    if counts:
        return table
    with np.errstate(invalid="ignore"):
        return table / table.sum(axis=1, keepdims=True)


def ordinal_summary(labels: np.ndarray, predictions: np.ndarray, classes: int) -> pd.Series:
    """How far off the predictions of ordered classes are.

    accuracy; recall of each class; adjacent, the share of mistakes that are one class off; distance, the mean absolute
    class distance over all examples; kappa, Cohen's with quadratic weights.
    """
    labels, predictions = np.asarray(labels).astype(int), np.asarray(predictions).astype(int)
    distance = np.abs(labels - predictions)
    recalls = np.diag(confusion(labels, predictions, classes))
    wrong = distance[distance > 0]
    return pd.Series(
        {"accuracy": float((distance == 0).mean())}
        | {f"recall {index}": float(recall) for index, recall in enumerate(recalls)}
        | {"adjacent": float((wrong == 1).mean()) if len(wrong) else float("nan")}
        | {"distance": float(distance.mean())}
        | {"kappa": float(cohen_kappa_score(labels, predictions, labels=range(classes), weights="quadratic"))}
    )


def with_texts(frame: pd.DataFrame, examples: pd.DataFrame) -> pd.DataFrame:
    """Predictions joined by id with their texts (a corpus split); raises DataError for an id without a text."""
    texts = examples[[column for column in ("id", "text_a", "text_b") if column in examples]]
    joined = frame.merge(texts, on="id", how="left", validate="one_to_one")
    if joined["text_a"].isna().any():
        raise DataError(f"id {joined['id'][joined['text_a'].isna()].iloc[0]!r} has a prediction and no text")
    return joined


def worst_mistakes(frame: pd.DataFrame, examples: pd.DataFrame, count: int = 10) -> pd.DataFrame:
    """The mistakes made with most confidence, or the largest errors of a regression, with their texts, worst first."""
    joined = with_texts(frame, examples)
    texts = [column for column in ("text_a", "text_b") if column in joined]
    if "p0" in joined:
        joined["confidence"] = probabilities(joined).max(axis=1)
        joined, measure = joined[joined["label"] != joined["prediction"]], "confidence"
    else:
        joined["error"] = (joined["label"] - joined["prediction"]).abs()
        measure = "error"
    chosen = joined.sort_values([measure, "id"], ascending=[False, True]).head(count)
    return chosen[["id", "label", "prediction", measure, *texts]].reset_index(drop=True)


def error_by_length(frame: pd.DataFrame, examples: pd.DataFrame, bins: int = 5, **options) -> pd.DataFrame:
    """Mean error by number of words (of both texts of a pair), in `bins` groups of about equal size.

    The error is 1 for a wrong class, |label - prediction| for a regression. Columns: shortest, longest (words), count,
    error, low, high (bootstrap interval). `options` are those of `mean_estimate`.
    """
    joined = with_texts(frame, examples)
    words = sum(joined[column].str.split().str.len() for column in ("text_a", "text_b") if column in joined)
    wrong = (joined["label"] - joined["prediction"]).abs()
    error = (wrong > 0).astype(float) if "p0" in joined else wrong
    groups = pd.qcut(words, bins, labels=False, duplicates="drop")
    rows = []
    for _, index in joined.groupby(groups).groups.items():
        estimate = mean_estimate(error.loc[index], **options)
        lengths = {"shortest": int(words[index].min()), "longest": int(words[index].max()), "count": len(index)}
        rows.append(lengths | {"error": estimate.value, "low": estimate.low, "high": estimate.high})
    return pd.DataFrame(rows)
