"""Measures of a stored model that take long, kept under what they were measured on."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from mtlib.errors import CheckpointError
from mtlib.training.files import encode_json, make_folder, storage, write_json


def measured(folder: str | Path, name: str, on: object, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The frame that `compute()` returns, kept in `folder` as JSON and computed when it is not there.

    on: what it depends on, such as identities of runs and fingerprints of corpora; its JSON names the file. The file
    holds every number to its last bit, so a table that is made again is made of the same numbers.
    Raises CheckpointError for a damaged file.
    """
    path = Path(folder) / f"{name}-{hashlib.sha256(json.dumps(on).encode()).hexdigest()[:16]}.json"
    if path.is_file():
        try:
            return pd.DataFrame(**json.loads(path.read_bytes()))
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{path}: damaged ({error}); delete it to measure again") from error
    found = compute().reset_index(drop=True).to_dict("split", index=False)
    with storage("create", path.parent):
        make_folder(path.parent.absolute())
    write_json(path, found)
    return pd.DataFrame(**json.loads(encode_json(found)))
