"""Measurements on stored models: computed on the training device and cached by what they were measured on."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import mtlib
from mtlib.device import Device, Precision
from mtlib.errors import CheckpointError
from mtlib.model import MultitaskModel
from mtlib.training.files import encode_json, make_folder, storage, write_atomic


@contextmanager
def inference(model: MultitaskModel, precision: Precision = "auto") -> Iterator[MultitaskModel]:
    """`model`, moved to the device that runs train on, in evaluation mode, with the autocast of `precision`."""
    device = Device(precision)
    with device.autocast():
        yield model.to(device.device).eval()


class Cache:
    """Frames and arrays that take long to make, in one folder; None keeps nothing.

    A value is found again by its name, by `on`, what it depends on (identities of runs, fingerprints of corpora,
    settings: anything JSON can hold), and by the version of mtlib. Its file begins with the SHA-256 of what follows,
    so any change to it is a CheckpointError that names it. Nothing is pickled.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = None if folder is None else Path(folder)

    def frame(self, name: str, on: Any, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """The frame that `compute()` returns, its rows numbered anew, to the last bit of every number."""
        data = self._kept(f"{name}.frame", on, lambda: _frame_bytes(compute()))
        return pd.DataFrame(**json.loads(data))

    def array(self, name: str, on: Any, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """The array that `compute()` returns."""
        return np.load(BytesIO(self._kept(f"{name}.array", on, lambda: _array_bytes(compute()))), allow_pickle=False)

    def _kept(self, name: str, on: Any, compute: Callable[[], bytes]) -> bytes:
        if self.folder is None:
            return compute()
        key = hashlib.sha256(json.dumps([on, mtlib.__version__], sort_keys=True).encode()).hexdigest()
        path = self.folder / f"{Path(name).stem}-{key[:16]}{Path(name).suffix}"
        if path.is_file():
            with storage("read", path):
                digest, _, data = path.read_bytes().partition(b"\n")
            if hashlib.sha256(data).hexdigest().encode() != digest:
                raise CheckpointError(f"{path}: damaged; delete it to compute it again")
            return data
        data = compute()
        with storage("create", self.folder):
            make_folder(self.folder.absolute())
        write_atomic(path, hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
        return data


NO_CACHE = Cache()


def _frame_bytes(frame: pd.DataFrame) -> bytes:
    return encode_json(frame.reset_index(drop=True).to_dict("split", index=False))


def _array_bytes(array: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
