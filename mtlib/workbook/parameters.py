"""The `parameters` cell of a notebook: typed knobs that Jupyter, papermill, the command line and a preset all reach."""

import ast
import difflib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import GenericAlias
from typing import Any

import yaml
from nbformat import NotebookNode
from pydantic import ConfigDict, TypeAdapter, ValidationError

from mtlib.checking import shortened
from mtlib.errors import ConfigurationError
from mtlib.presets import Preset
from mtlib.yaml_files import NOT_YAML, PlainLoader

SCALARS = {"str": str, "int": int, "float": float, "bool": bool}
STRICT = ConfigDict(strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell, `name: type = default`.

    annotation: its text, such as "list[float]". type: str, int, float, bool, list, dict, or lists and dicts of these.
    """

    name: str
    annotation: str
    type: Any
    default: Any

    def check(self, value: Any, where: str) -> Any:
        """`value` as the annotated type; raises ConfigurationError naming `where`.

        A number in quotes, a bool for an int, nan and infinity are refused.
        """
        try:
            return TypeAdapter(self.type, config=STRICT).validate_python(value)
        except ValidationError:
            actual = f"{type(value).__name__} {shortened(value)}"
            raise ConfigurationError(
                f"{where}: parameter {self.name!r}: expected {self.annotation}, found {actual}"
            ) from None

    def parse(self, text: str) -> Any:
        """The value that `text` from a command line means for this parameter (a str keeps the text as it stands)."""
        return text if self.type is str else parse_scalar(text)


def parse_scalar(text: str) -> Any:
    """The JSON value of `text`, or else its YAML value, in which `1e-5` is a number too. Raises ConfigurationError."""
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    try:
        return yaml.load(text, _Yaml)
    except NOT_YAML:
        raise ConfigurationError(f"{text[:200]!r}: expected a YAML value") from None


class _Yaml(PlainLoader):
    """YAML without aliases, with the numbers of YAML 1.2."""


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_notebook(path: Path) -> NotebookNode:
    """The notebook in a file; raises ConfigurationError for anything else."""
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except (
        nbformat.ValidationError,
        LookupError,
        AttributeError,
        TypeError,
        ValueError,
        RecursionError,
        OSError,
    ) as error:
        raise ConfigurationError(f"{path}: not a notebook ({type(error).__name__})") from None


def tagged(notebook: NotebookNode, tag: str) -> list:
    """The code cells with that tag."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and tag in cell.metadata.get("tags", [])]


def parameters_of(notebook: NotebookNode, name: str) -> dict[str, Parameter]:
    """The typed parameters of a notebook called `name`, by name.

    Raises ConfigurationError when it has not exactly one cell tagged `parameters`, or a line of that cell is not
    `name: type = default` with a literal default of that type.
    """
    cells = tagged(notebook, "parameters")
    if len(cells) != 1:
        raise ConfigurationError(f"{name}: expected one cell tagged 'parameters', found {len(cells)}")
    try:
        lines = ast.parse(cells[0].source).body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{name}: parameters cell: {error}") from None
    parameters = {}
    for line in lines:
        where, text = f"{name}: parameters cell, line {line.lineno}", ast.unparse(line)[:200]
        if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value):
            raise ConfigurationError(f"{where}: expected `name: type = default`, found `{text}`")
        try:
            default = ast.literal_eval(line.value)
            parameter = Parameter(line.target.id, ast.unparse(line.annotation), _type(line.annotation), default)
        except (TypeError, ValueError):
            raise ConfigurationError(
                f"{where}: expected a type made of {', '.join(SCALARS)}, list and dict, and a literal of it, "
                f"found `{text}`"
            ) from None
        parameter.check(parameter.default, where)
        parameters[parameter.name] = parameter
    return parameters


def read_parameters(path: Path) -> dict[str, Parameter]:
    """`parameters_of` the notebook in a file."""
    return parameters_of(load_notebook(path), path.name)


def values_at(preset: Preset, stage: str, known: Mapping[str, Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """What papermill is to give the notebook called `stage`: the preset's values for it, and over them `given`.

    A parameter called `seeds` is the preset's, unless its notebook has a value of its own.
    Raises ConfigurationError for a value that the notebook has no parameter for, or of another type.
    """
    own = {"seeds": preset.seeds} if "seeds" in known else {}
    values = own | preset.notebooks.get(stage, {}) | dict(given)
    return check_values(values, known, stage)


def check_values(values: Mapping[str, Any], known: Mapping[str, Parameter], stage: str) -> dict[str, Any]:
    """The values, each as its parameter's type; raises ConfigurationError for an unknown name or another type."""
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, list(known), n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ConfigurationError(
                f"{stage}: unknown parameter {str(name)[:120]!r}{hint}; expected {', '.join(known)}"
            )
    return {name: known[name].check(value, stage) for name, value in values.items()}


def _type(node: ast.expr) -> Any:
    """The type that an annotation names, read without running it. Raises ValueError for any other."""
    match node:
        case ast.Name(id=name) if name in SCALARS:
            return SCALARS[name]
        case ast.Name(id="list"):
            return list
        case ast.Name(id="dict"):
            return dict
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            return GenericAlias(list, _type(inner))
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[key, inner])):
            return GenericAlias(dict, (_type(key), _type(inner)))
    raise ValueError(ast.unparse(node))
