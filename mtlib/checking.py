"""Strict values from what was given: every fault in one message that names the key and the nearest known word."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from mtlib.errors import ConfigurationError, UnknownKindError
from mtlib.kinds import UnknownKind

Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """Frozen values; unknown keys and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def nearest(word: str, known: Iterable[str]) -> str:
    """ " (did you mean ...?)" for a word that resembles a known one, else the known ones."""
    return resembling(word, known) or f" (known: {', '.join(map(str, known))})"


def resembling(word: str, known: Iterable[str]) -> str:
    """ " (did you mean ...?)" for a word that resembles a known one, else nothing."""
    close = difflib.get_close_matches(word[:100], list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _inner_fields(kind: type[BaseModel]) -> set[str]:
    """Names of the fields of all models that stand in the fields of `kind`, of families those of every kind."""
    names: set[str] = set()
    seen, pending = {kind}, [field.annotation for field in kind.model_fields.values()]
    while pending:
        each: Any = pending.pop()
        pending += get_args(each)
        if get_origin(each) is None and isinstance(each, type) and issubclass(each, BaseModel) and each not in seen:
            seen.add(each)
            names |= set(each.model_fields)
            pending += [*each.__subclasses__(), *(field.annotation for field in each.model_fields.values())]
    return names


def _is_number(text: str) -> bool:
    try:
        return bool(float(text))
    except ValueError:
        return False


def checked(kind: type[Model], content: Any, where: str) -> Model:
    """`content` as a value of `kind`; every fault in one ConfigurationError that says `where`."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        fault = UnknownKindError if _is_unknown(error) else ConfigurationError
        raise fault("\n".join(_fault(kind, each, where) for each in error.errors())) from error
    except RecursionError:
        raise ConfigurationError(f"{where}: nested too deeply") from None


def listed(value: Any, what: str) -> list | tuple:
    """`value`, if it is a list; raises ValueError that says of `what`."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"expected a list of {what}")
    return value


def _is_unknown(error: object) -> bool:
    """Whether an unknown kind is among the faults, or among those of an experiment to start from."""
    if isinstance(error, ValidationError):
        return any(_is_unknown(fault.get("ctx", {}).get("error")) for fault in error.errors())
    return isinstance(error, UnknownKind)


def _fault(kind: type[BaseModel], fault: Mapping[str, Any], where: str) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        inner = len(fault["loc"]) > 1
        hint = resembling(str(fault["loc"][-1]), _inner_fields(kind)) if inner else nearest(key, kind.model_fields)
        return f"{where}: unknown key {key[:120]!r}{hint}"
    actual = shortened(fault["input"])
    hint = ""
    if isinstance(fault["input"], str) and fault["type"].endswith("_type"):
        hint = " (YAML reads 1e-5 as text: write 1.0e-5)" if _is_number(fault["input"]) else ""
    message = fault["msg"].removeprefix("Value error, ")
    return f"{where}: {key}: {message}, found {actual}{hint}" if key else f"{where}: {message}"


def printable(text: str) -> str:
    """A text that UTF-8 can say: of a file's name, bytes that are no UTF-8 are written out, as in "caf\\udce9"."""
    return text.encode("utf-8", "backslashreplace").decode()


def shortened(value: Any, limit: int = 200) -> str:
    """`repr(value)`, cut at `limit` characters; of a container only its type and size, to keep messages short."""
    if isinstance(value, dict | list | tuple | set):
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, int) and abs(value) >= 10**limit:
        return "an integer of hundreds of digits"
    text = repr(value[: limit + 1]) if isinstance(value, str | bytes) else repr(value)
    return text if len(text) <= limit else text[:limit] + "..."
