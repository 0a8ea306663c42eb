"""The `mtlib` command: data, training, prediction, the pipeline and its notebooks, one module a theme."""

from mtlib.cli import data, models, training, workbook  # noqa: F401  (a command is known once it is imported)
from mtlib.cli.app import app

__all__ = ["app"]
