"""Values of several kinds, each kind a class of its own: samplers, penalties, and those that other code adds."""

import difflib
from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class UnknownKind(ValueError):
    """A name that no imported module has defined."""


class Kinded(BaseModel):
    """Base of a family of frozen, strict values that a field `kind` tells apart.

    A class is known by the default of its `kind` as soon as it is imported, whoever wrote it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: str

    def __eq__(self, other: object) -> bool:
        """Whether both are of one class with equal fields, whatever a working copy of them keeps besides."""
        return type(self) is type(other) and dict(self) == dict(other)

    @classmethod
    def kinds(cls) -> dict[str, type[Self]]:
        """Every imported class of this family, at any depth, by its kind.

        Raises ValueError where two have one kind; a class that is defined again, as a notebook does, takes the place
        of the one before it.
        """
        classes: dict[str, type[Self]] = {}
        pending = list(cls.__subclasses__())
        while pending:
            kind = pending.pop(0)
            pending += kind.__subclasses__()
            name = kind.model_fields["kind"].default
            if not isinstance(name, str):
                continue
            other = classes.setdefault(name, kind)
            if (other.__module__, other.__qualname__) != (kind.__module__, kind.__qualname__):
                places = " and ".join(f"{place.__module__}.{place.__qualname__}" for place in (other, kind))
                raise ValueError(f"the kind {name!r} is that of {places}: give one of them a `kind` of its own")
            classes[name] = kind
        return classes

    @classmethod
    def read(cls, value: Any) -> Self:
        """The value that `value` is, names (a kind whose fields all have defaults) or describes (a dict of fields).

        Raises UnknownKind where a module may have to be imported first, ValueError for a value whose `kind` is that of
        another class, and for fields that do not fit.
        """
        kinds = cls.kinds()
        if isinstance(value, cls):
            known, own = kinds.get(value.kind), type(value)
            if known is None or (known.__module__, known.__qualname__) != (own.__module__, own.__qualname__):
                raise ValueError(f"{own.__qualname__} needs a `kind` of its own with a default, found {value.kind!r}")
            return value
        fields = {"kind": value} if isinstance(value, str) else value
        name = fields.get("kind") if isinstance(fields, dict) else value
        if not isinstance(name, str) or not isinstance(fields, dict) or name not in kinds:
            close = difflib.get_close_matches(str(name)[:100], kinds, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(kinds)}"
            raise UnknownKind(f"unknown {cls.__name__.lower()} {repr(name)[:120]} ({hint})")
        return kinds[name].model_validate(fields)
