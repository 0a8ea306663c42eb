"""What no understanding reaches: the majority class, and a linear model on bags of words."""

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from mtlib.data import sample
from mtlib.data.corpus import Corpus
from mtlib.errors import DataError
from mtlib.tasks import Task


def difficulty(corpus: Corpus, split: str = "dev", limit: int = 50_000) -> pd.DataFrame:
    """Scores on `split` by task: columns task, train, examples, majority, bag_of_words; for the sample also ceiling.

    train: training examples used, at most the first `limit`. ceiling: score of a perfect model (`sample.ceiling`).
    Raises DataError for a split without labels.
    """
    records = []
    for task in corpus.tasks:
        train, test = corpus[task.name].train.head(limit), getattr(corpus[task.name], split)
        if test is None or "label" not in test:
            raise DataError(f"corpus {corpus.name}: expected labels in the {split} split of {task.name}, found none")
        records.append((task.name, len(train), len(test), majority(task, train, test), bag_of_words(task, train, test)))
    table = pd.DataFrame(records, columns=["task", "train", "examples", "majority", "bag_of_words"])
    return table.assign(ceiling=table["task"].map(sample.ceiling(split))) if corpus.kind == "sample" else table


def majority(task: Task, train: pd.DataFrame, test: pd.DataFrame) -> float:
    """Score of the constant that training suggests; 0.5 for regression, where r is undefined and taken as 0."""
    if task.kind == "regression":
        return 0.5
    return task.score(test["label"], np.full(len(test), train["label"].mode()[0]))


def bag_of_words(task: Task, train: pd.DataFrame, test: pd.DataFrame, regularisation: float = 1.0) -> float:
    """Score of logistic regression (ridge for regression) on the words of an example, trained on `train`.

    A text gives the presence of its words. A pair gives the words that both texts have, the words that only one
    has, and three numbers: their counts and the share in common. regularisation: weight of the L2 penalty.
    Where training has one class or no word, that is all there is to learn: the score of `majority`.
    """
    vectorizer = CountVectorizer(binary=True, token_pattern=r"(?u)\b\w+\b", dtype=np.float64)
    texts = pd.concat([train[name] for name in ("text_a", "text_b") if name in train])
    if train["label"].nunique() < 2 or not any(map(vectorizer.build_analyzer(), texts)):
        return majority(task, train, test)
    vectorizer.fit(texts)
    if task.kind == "regression":
        model = Ridge(alpha=regularisation)
    else:
        model = LogisticRegression(C=1 / regularisation, max_iter=2000)
    model.fit(features(vectorizer, train), train["label"])
    return task.score(test["label"].to_numpy(), model.predict(features(vectorizer, test)))


def features(vectorizer: CountVectorizer, frame: pd.DataFrame) -> sparse.csr_matrix:
    """Word features of a split, [examples, features]."""
    first = vectorizer.transform(frame["text_a"])
    if "text_b" not in frame:
        return first
    second = vectorizer.transform(frame["text_b"])
    common = first.multiply(second)
    apart = first + second - 2 * common
    counts = np.hstack([np.asarray(part.sum(axis=1)) for part in (common, apart)])
    share = counts[:, :1] / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return sparse.hstack([common, apart, sparse.csr_matrix(np.hstack([np.log1p(counts), share]))]).tocsr()
