"""What `mtlib data check` says about a corpus, however broken it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mtlib.data.corpus import rare_classes, read_corpus
from mtlib.data.tsv import EmptyPolicy, Fault
from mtlib.errors import DataError
from mtlib.tasks import Task


@dataclass(frozen=True)
class Report:
    """What `mtlib data check` prints: the tables of a corpus, its notes and every fault."""

    title: str
    summary: pd.DataFrame
    lengths: pd.DataFrame
    leakage: pd.DataFrame
    notes: tuple[str, ...]
    faults: tuple[Fault, ...]

    @property
    def exit_code(self) -> int:
        """0 for a sound corpus, else the exit code of DataError."""
        return DataError.exit_code if self.faults else 0

    def __str__(self) -> str:
        parts = [self.title]
        for name, table in (("examples", self.summary), ("lengths", self.lengths), ("shared with train", self.leakage)):
            parts.append(f"{name}\n{table.to_string(index=False) if len(table) else 'nothing readable'}")
        parts.append("\n".join(["notes", *(self.notes or ["none"])]))
        parts.append("\n".join([f"faults: {len(self.faults)}", *map(str, self.faults)]))
        return "\n\n".join(parts)


def check(
    source: str | Path,
    tasks: Sequence[Task | str] | None = None,
    tokenizer: Any = None,
    max_tokens: int = 512,
    empty: EmptyPolicy = "error",
) -> Report:
    """Read `source` to the end whatever is wrong with it, and report counts, balance, lengths, leakage and faults.

    tokenizer: a Hugging Face tokenizer to measure lengths with; words are counted without one.
    """
    corpus, faults, dropped = read_corpus(source, tasks, empty)
    faults = [*faults, *(rare_classes(corpus) if not faults else [])]
    tables = corpus.summary(), corpus.lengths(tokenizer, max_tokens), corpus.leakage()
    return Report(corpus.title, *tables, tuple(corpus.notes), tuple(faults))
