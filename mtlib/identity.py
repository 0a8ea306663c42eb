"""What identifies a run: what its values say, and the SHA-256 of that."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel


def said(value: Any, but: tuple[str, ...] = ()) -> Any:
    """What a value says, as JSON: its kind and the fields that differ from their defaults; of an experiment not `but`.

    So an option that is added later, whose default is what was done before, leaves the identity of every run as it is.

    >>> from mtlib.objectives.bregman import Bregman
    >>> said(Bregman(weight=3.0, decay=0.9))
    {'': 'bregman', 'weight': 3.0, 'decay': 0.9}
    """
    if isinstance(value, dict):
        return {key: said(entry, but) for key, entry in value.items()}
    if not isinstance(value, BaseModel):
        return [said(entry, but) for entry in value] if isinstance(value, list | tuple) else value
    left_out = but if "start_from" in type(value).model_fields else ()
    given = {name: getattr(value, name) for name in type(value).model_fields if name not in left_out}
    given = {name: field for name, field in given.items() if field != type(value).model_fields[name].default}
    return {"": getattr(value, "kind", type(value).__name__), **{key: said(entry, but) for key, entry in given.items()}}


def sha256(parts: list) -> str:
    """SHA-256 (hex) of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
