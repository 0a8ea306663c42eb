"""mtlib: one BERT, many tasks. Samplers, penalties, ranking loss, model, training and statistics.

Public names are imported when they are first used; `import mtlib` itself loads nothing heavy.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

PUBLIC: dict[str, tuple[str, ...]] = {
    "mtlib.averages": ("Ema", "Lawa"),
    "mtlib.data.corpus": ("Corpus", "load_corpus"),
    "mtlib.data.frames": ("own_task",),
    "mtlib.errors": ("MtlibError",),
    "mtlib.experiments": ("Experiment", "Pretraining"),
    "mtlib.model": ("MultitaskModel",),
    "mtlib.objectives.bregman": ("Bregman",),
    "mtlib.objectives.correlation": ("Correlation",),
    "mtlib.objectives.divergences": ("symmetric_divergence",),
    "mtlib.objectives.freelb": ("FreeLB",),
    "mtlib.objectives.losses": ("Loss",),
    "mtlib.objectives.ordinal": ("Ordinal",),
    "mtlib.objectives.penalty": ("Penalty", "Step"),
    "mtlib.objectives.ranking": ("multiple_negatives_ranking_loss",),
    "mtlib.objectives.rdrop": ("RDrop",),
    "mtlib.objectives.smart": ("Smart",),
    "mtlib.presets": ("experiment", "preset", "pretraining"),
    "mtlib.samplers": ("Annealed", "Proportional", "RoundRobin", "SquareRoot"),
    "mtlib.study.calibration": ("calibrated",),
    "mtlib.study.ensembles": ("average_weights", "choose"),
    "mtlib.study.eval_splits": ("ChoosingHalf", "Dev", "ReportingHalf", "Test"),
    "mtlib.study.statistics": ("equivalence", "intervals", "seeds_summary"),
    "mtlib.study.study": ("Runs", "Study", "compare"),
    "mtlib.study.variances": ("half_width", "variances"),
    "mtlib.tasks": ("QQP", "SST", "STS", "TASKS", "Task", "register"),
    "mtlib.training.fit": ("fit", "resume"),
    "mtlib.training.runs": ("Run", "RunStore"),
}
"""The modules of the public names."""

_MODULE_OF = {name: module for module, names in PUBLIC.items() for name in names}

__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'mtlib' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
