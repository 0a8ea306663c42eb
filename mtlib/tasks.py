"""Tasks as values: what a task reads, predicts, minimises and is scored by. A new task is one `Task(...)`."""

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from numpy.typing import ArrayLike

from mtlib import metrics
from mtlib.errors import ConfigurationError
from mtlib.objectives import losses

Kind = Literal["classification", "binary", "regression"]
NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{0,39}")
FILES = re.compile(r"[\w][\w.-]*|")
TAKEN = frozenset(
    "mean evenness epoch step seconds learning_rate examples train_loss choosing_mean".split()
    + "id label prediction run system against trained low high minutes encoder total penalty models".split()
)
"""Names that a run's scores, history and predictions, and tables of them, have themselves."""

SCALE = 5.0
"""Upper end of what every regression's head learns, from 0 on: losses, penalties and rates were made for STS-B's."""


@dataclass(frozen=True)
class Task:
    """One task of a multitask model.

    name: short name, used in files, tables and heads.
    kind: "classification" (cross-entropy over `classes`), "binary" (one logit, binary cross-entropy) or
        "regression" (one output, mean squared error; the head learns the range `low` to `high` as 0 to 5).
    columns: the text column, or the two text columns of a pair, by their names in the CSV files.
    label_column: name of the label column in the CSV files.
    files: stem of the CSV files, as in `<files>-train.csv`.
    classes: number of classes of a classification task.
    low, high: range of the labels of a regression task.
    title: how tables and figures call it.
    names: the classes' names, in the order of their labels; licence, citation: of its data. These three describe: tasks
        that differ in nothing else are equal, and a run's identity knows nothing of them.
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
    names: tuple[str, ...] = field(default=(), compare=False)
    licence: str = field(default="", compare=False)
    citation: str = field(default="", compare=False)

    def __post_init__(self) -> None:
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
        if self.kind == "regression" and not (-math.inf < self.low < math.inf and 0 < self.unit < math.inf):
            raise ConfigurationError(f"task {self.name}: expected finite low < high, found {self.low} and {self.high}")
        wanted = {"classification": self.classes, "binary": 2, "regression": 0}[self.kind]
        if self.names and (len(self.names) != wanted or len(set(self.names)) < wanted):
            raise ConfigurationError(
                f"task {self.name}: expected {wanted} different names of classes, found {', '.join(self.names)[:120]}"
            )

    @property
    def class_names(self) -> tuple[str, ...]:
        """`names`, or the labels themselves where it has none; empty for a regression."""
        count = {"classification": self.classes, "binary": 2, "regression": 0}[self.kind]
        return self.names or tuple(map(str, range(count)))

    @property
    def labels(self) -> str:
        """What its labels are, in words: the classes' names in their order, or the range of numbers."""
        return f"{self.low:g} to {self.high:g}" if self.kind == "regression" else ", ".join(self.class_names)

    def means_alike(self, other: "Task") -> bool:
        """Whether labels mean the same to both, of texts or of pairs; classes without names are alike if as many."""
        if self.is_pair != other.is_pair:
            return False
        if self.kind != other.kind or self.kind == "regression" or (self.names and other.names):
            return (self.kind, self.labels) == (other.kind, other.labels)
        return len(self.class_names) == len(other.class_names)

    @property
    def is_pair(self) -> bool:
        """Whether an example is a pair of texts, read by one cross-encoder pass."""
        return len(self.columns) == 2

    @property
    def outputs(self) -> int:
        """Width of the task's linear head."""
        return self.classes if self.kind == "classification" else 1

    @property
    def unit(self) -> float:
        """What 1 of a head's output is on a regression's own scale: 1 where that is 0 to 5, and for classes."""
        return (self.high - self.low) / SCALE if self.kind == "regression" else 1.0

    def targets(self, labels: Any) -> Any:
        """Labels as the head learns them: a regression's from 0 to 5, whatever its own range; classes as they are."""
        return (labels - self.low) / self.unit if self.kind == "regression" else labels

    def values(self, outputs: Any) -> Any:
        """Outputs of a regression's head on its own scale, the inverse of `targets`; logits as they are."""
        return self.low + self.unit * outputs if self.kind == "regression" else outputs

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean loss of `logits` [batch, outputs] against `labels` [batch] as `targets` gives them, a float32 scalar."""
        return losses.LOSSES[self.kind](logits, labels)

    def score(self, labels: ArrayLike, predictions: ArrayLike) -> float:
        """The task's score in [0, 1]: accuracy, or (r + 1) / 2 of Pearson's r for a regression task."""
        if self.kind == "regression":
            return metrics.similarity_score(labels, predictions)
        return metrics.accuracy(labels, predictions)


SST = Task(
    "sst",
    "classification",
    ("sentence",),
    "sentiment",
    "ids-sst",
    classes=5,
    title="SST-5",
    names=("very negative", "negative", "neutral", "positive", "very positive"),
    citation="Socher et al. 2013, Recursive deep models for semantic compositionality over a sentiment treebank",
)
QQP = Task(
    "qqp",
    "binary",
    ("sentence1", "sentence2"),
    "is_duplicate",
    "quora",
    title="QQP",
    names=("different", "duplicate"),
    citation="Iyer, Dandekar and Csernai 2017, First Quora dataset release: question pairs",
)
STS = Task(
    "sts",
    "regression",
    ("sentence1", "sentence2"),
    "similarity",
    "sts",
    low=0.0,
    high=5.0,
    title="STS-B",
    citation="Cer et al. 2017, SemEval-2017 task 1: semantic textual similarity",
)

TASKS: dict[str, Task] = {}
_by_code: set[str] = set()
"""Names that code registered; what files say of a task never takes their place."""


def register(task: Task) -> Task:
    """Make `task` known by name to corpora, experiments and stored models; returns it.

    Raises ConfigurationError when code has already registered another task of the name.
    """
    if task.name in _by_code and TASKS.get(task.name, task) != task:
        raise ConfigurationError(f"task {task.name!r} is already registered with other settings")
    _by_code.add(task.name)
    TASKS[task.name] = task
    return task


def learn(task: Task) -> Task:
    """Make a task known that a file describes: a table, a stored run. It replaces what another file said of it.

    Raises ConfigurationError where code registered another task of the name.
    """
    if task.name not in _by_code:
        TASKS[task.name] = task
    elif TASKS.setdefault(task.name, task) != task:
        raise ConfigurationError(f"task {task.name!r} is already registered with other settings")
    return task


@contextmanager
def meant(tasks: Iterable[Task]) -> Iterator[None]:
    """Within it the names of `tasks` mean these; after it what they meant before, and these where that was nothing."""
    own = {task.name: task for task in tasks}
    before = {name: TASKS[name] for name in own if name in TASKS}
    TASKS.update(own)
    try:
        yield
    finally:
        TASKS.update(before)


def registered(name: str) -> Task:
    """The task known as `name`; raises ConfigurationError when none was registered under it."""
    if name not in TASKS:
        raise ConfigurationError(
            f"unknown task {name[:60]!r}: known are {', '.join(TASKS)}; others need register(Task(...)), --import"
        )
    return TASKS[name]


ORDER = ("qqp", "sst", "sts")
"""The order in which the report prints its tasks, and so does everything here; other tasks come after them."""


def in_order(names: Iterable[str]) -> list[str]:
    """Names of tasks as tables list them: those of ORDER first, then the others as they come."""
    names = list(names)
    return [name for name in ORDER if name in names] + [name for name in names if name not in ORDER]


for _task in (SST, QQP, STS):
    register(_task)
