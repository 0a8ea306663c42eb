"""Modules of one's own, imported before anything is read, so that their tasks, penalties and samplers are known."""

import importlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from mtlib.errors import ConfigurationError

IMPORTS = "MTLIB_IMPORT"
"""Environment variable: what is imported, as PATH has it; jobs of the pipeline and kernels of notebooks inherit it."""


def import_modules(names: Iterable[str], folder: str | os.PathLike = ".") -> None:
    """Import modules by name, or .py files by path, here and in every process that this one starts.

    folder: where files, and modules that are one file, are looked for before the places that Python knows.
    Raises ConfigurationError for a module that is not there, that fails, or whose name another one has.
    """
    places = [_place(name, Path(folder)) for name in names]
    for place in places:
        _import(place)
    os.environ[IMPORTS] = os.pathsep.join(dict.fromkeys([*imported(), *places]))


def import_inherited() -> None:
    """Import what the process that started this one has imported."""
    import_modules(imported())


def imported() -> list[str]:
    """What has been imported, here or by the process that started this one: names, and whole paths of .py files."""
    return [name for name in os.environ.get(IMPORTS, "").split(os.pathsep) if name]


def _place(name: str, folder: Path) -> str:
    """The whole path of a .py file, and of a module that is one in `folder`; else the name."""
    file = folder / (name if name.endswith(".py") else f"{name}.py")
    return str(file.resolve()) if name.endswith(".py") or file.is_file() else name


def _import(place: str) -> None:
    path = Path(place)
    is_file = place.endswith(".py")
    if is_file and not os.path.isfile(path):
        raise ConfigurationError(f"import {place[:500]}: expected a .py file, found none")
    if is_file and str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        module = importlib.import_module(path.stem if is_file else place)
    except (Exception, SystemExit) as error:
        expected = "expected a module, or a .py file, that can be imported"
        raise ConfigurationError(f"import {place}: {expected}, found {type(error).__name__}: {error}") from error
    if is_file and (other := getattr(module, "__file__", None)) != str(path):
        raise ConfigurationError(f"import {place}: there is another module {path.stem!r} ({other}): rename the file")
