"""What a model was taught that is most like a text: the training examples nearest to it, by the vectors heads read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mtlib.device import Device
from mtlib.prediction import evaluated, inputs_frame, inputs_of
from mtlib.randomness import generator
from mtlib.study.cache import NO_CACHE, Cache, inference
from mtlib.study.embeddings import sentence_vectors
from mtlib.tasks import Task, registered


def example_vectors(source: Any, task: Task, inputs: Sequence, cache: Cache = NO_CACHE) -> np.ndarray:
    """Vectors [n, hidden] that `task`'s head reads of texts or pairs, by the encoder of `source` in its precision.

    source: a run, or `embeddings.AsFound`. They are kept in `cache`, those of single texts as `sentence_vectors`.
    """
    if not task.is_pair:
        return sentence_vectors(source, inputs, cache)
    pairs, precision = [tuple(pair) for pair in inputs], Device(source.experiment.precision).precision

    def compute() -> np.ndarray:
        with inference(source.model(), precision) as model:
            return evaluated(model, model.tokenize(task, pairs), lambda batch: model.encode(batch.inputs))

    return cache.array("vectors", [source.identity, precision, pairs], compute)


def nearest(
    source: Any,
    task: str,
    inputs: str | tuple[str, str],
    examples: pd.DataFrame,
    number: int = 5,
    *,
    pool: int | None = 2000,
    seed: int = 0,
    cache: Cache = NO_CACHE,
) -> pd.DataFrame:
    """The `number` of `examples` (a split of the task, such as train) nearest to one text or pair, nearest first.

    A pair is one input, read by one cross-encoder pass: near pairs are those that look alike to the task's head, and
    need share no word. pool: as many examples, drawn from the stream "neighbours" of `seed`, are searched; None is all.
    Columns: those of `examples`, `name` where the task's labels have names, and `cosine`.
    Raises ConfigurationError for inputs that the task does not read.
    """
    known = registered(task)
    own = list(inputs_of(known, inputs))
    inputs_frame(known, own)
    if pool is not None and len(examples) > pool:
        rows = generator(seed, f"neighbours/{task}").choice(len(examples), pool, replace=False)
        examples = examples.iloc[np.sort(rows)]
    texts = [examples[column].tolist() for column in ("text_a", "text_b")[: len(known.columns)]]
    searched = list(zip(*texts, strict=True)) if known.is_pair else texts[0]
    vectors, asked = example_vectors(source, known, searched, cache), example_vectors(source, known, own)[0]
    cosines = vectors @ asked / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(asked))
    closest = examples.assign(cosine=cosines).nlargest(number, "cosine").reset_index(drop=True)
    if known.names and "label" in closest:
        closest.insert(len(closest.columns) - 1, "name", [known.names[int(label)] for label in closest["label"]])
    return closest
