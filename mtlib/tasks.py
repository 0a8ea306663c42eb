"""Tasks as values: what a task reads, predicts, minimises and is scored by. A new task is one `Task(...)`."""

import math
import re
from dataclasses import dataclass
from typing import Literal

import torch
from numpy.typing import ArrayLike

from mtlib import metrics
from mtlib.errors import ConfigurationError
from mtlib.objectives import losses

Kind = Literal["classification", "binary", "regression"]
NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{0,39}")
FILES = re.compile(r"[\w][\w.-]*|")
TAKEN = ("mean", "evenness", "epoch", "step", "seconds", "learning_rate", "examples", "train_loss", "choosing_mean")
"""Names that a run's scores and history have themselves."""


@dataclass(frozen=True)
class Task:
    """One task of a multitask model.

    name: short name, used in files, tables and heads.
    kind: "classification" (cross-entropy over `classes`), "binary" (one logit, binary cross-entropy) or
        "regression" (one output, mean squared error on the scale `low` to `high`).
    columns: the text column, or the two text columns of a pair, by their names in the CSV files.
    label_column: name of the label column in the CSV files.
    files: stem of the CSV files, as in `<files>-train.csv`.
    classes: number of classes of a classification task.
    low, high: range of the labels of a regression task.
    title: how tables and figures call it.
    Raises ConfigurationError for a combination that cannot be trained.
    """

    name: str
    kind: Kind
    columns: tuple[str, ...]
    label_column: str
    files: str = ""
    classes: int = 2
    low: float = 0.0
    high: float = 1.0
    title: str = ""

    def __post_init__(self):
        if not NAME.fullmatch(self.name):
            expected = "1 to 40 letters, digits and underscores, beginning with a letter"
            raise ConfigurationError(f"task name {self.name[:60]!r}: expected {expected}")
        if self.name in TAKEN or hasattr(torch.nn.ModuleDict(), self.name):
            raise ConfigurationError(f"task name {self.name!r}: expected another, this one stands for something else")
        if not FILES.fullmatch(self.files):
            raise ConfigurationError(f"task {self.name}: expected the stem of a file, found {self.files[:60]!r}")
        if self.kind not in ("classification", "binary", "regression"):
            raise ConfigurationError(f"task {self.name}: unknown kind {self.kind!r}")
        if len(self.columns) not in (1, 2):
            raise ConfigurationError(f"task {self.name}: expected one or two text columns, found {self.columns}")
        if self.kind == "classification" and self.classes < 2:
            raise ConfigurationError(f"task {self.name}: expected at least 2 classes, found {self.classes}")
        if self.kind == "regression" and not -math.inf < self.low < self.high < math.inf:
            raise ConfigurationError(f"task {self.name}: expected finite low < high, found {self.low} and {self.high}")

    @property
    def is_pair(self) -> bool:
        """Whether an example is a pair of texts, read by one cross-encoder pass."""
        return len(self.columns) == 2

    @property
    def outputs(self) -> int:
        """Width of the task's linear head."""
        return self.classes if self.kind == "classification" else 1

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean loss of `logits` [batch, outputs] against `labels` [batch], a float32 scalar."""
        return losses.LOSSES[self.kind](logits, labels)

    def score(self, labels: ArrayLike, predictions: ArrayLike) -> float:
        """The task's score in [0, 1]: accuracy, or (r + 1) / 2 of Pearson's r for a regression task."""
        if self.kind == "regression":
            return metrics.similarity_score(labels, predictions)
        return metrics.accuracy(labels, predictions)


SST = Task("sst", "classification", ("sentence",), "sentiment", "ids-sst", classes=5, title="SST-5")
QQP = Task("qqp", "binary", ("sentence1", "sentence2"), "is_duplicate", "quora", title="QQP")
STS = Task("sts", "regression", ("sentence1", "sentence2"), "similarity", "sts", low=0.0, high=5.0, title="STS-B")

TASKS: dict[str, Task] = {}


def register(task: Task) -> Task:
    """Make `task` known by name to corpora, experiments and stored models; returns it.

    Raises ConfigurationError when another task already has the name.
    """
    if TASKS.get(task.name, task) != task:
        raise ConfigurationError(f"task {task.name!r} is already registered with other settings")
    TASKS[task.name] = task
    return task


def registered(name: str) -> Task:
    """The task known as `name`; raises ConfigurationError when none was registered under it."""
    if name not in TASKS:
        raise ConfigurationError(
            f"unknown task {name[:60]!r}: known are {', '.join(TASKS)}; others need register(Task(...))"
        )
    return TASKS[name]


for _task in (SST, QQP, STS):
    register(_task)
