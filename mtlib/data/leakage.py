"""When two examples are the same text, and which examples of dev and test a model has seen in training."""

import unicodedata

import pandas as pd


def normalise(text: str) -> str:
    """Text for comparison: Unicode NFKC, case folded, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def key(*texts: str) -> tuple[str, ...]:
    """Comparison key of an example: its normalised texts, in an order that does not depend on theirs."""
    return tuple(sorted(map(normalise, texts)))


def keys(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    """The key of each row of a split."""
    return [key(*texts) for texts in zip(*(frame[name] for name in text_columns(frame)), strict=True)]


def text_columns(frame: pd.DataFrame) -> list[str]:
    """text_a, or text_a and text_b for pairs."""
    return [name for name in ("text_a", "text_b") if name in frame]


def shared_rows(frame: pd.DataFrame, train: pd.DataFrame) -> pd.DataFrame:
    """Rows of `frame` whose text is also in `train`, with their comparison key in a column `key`."""
    known = set(keys(train))
    marked = frame.assign(key=pd.Series(keys(frame), dtype=object, index=frame.index))
    return marked[pd.Series([name in known for name in marked["key"]], dtype=bool, index=frame.index)]
