"""The files of a run's folder: read and checked, and written whole; a finished run's are sealed by their SHA-256."""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mtlib.checking import shortened
from mtlib.errors import CheckpointError
from mtlib.training.files import inside, make_folder, storage, write_atomic, write_json

STATUS = "status.json"


class SealedFiles:
    """A folder of JSON files and tables. Of what status.json seals, nothing that changed is read."""

    def __init__(self, path: Path | str):
        self.path = Path(path)

    def read(self, name: str) -> dict:
        """A JSON file of the run; raises CheckpointError when it is missing or damaged."""
        try:
            content = json.loads(self.file(name))
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.path / name}: expected the JSON of a run ({error})") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{self.path / name}: expected a JSON object, found {type(content).__name__}")
        return content

    def read_frame(self, name: str, **options: Any) -> pd.DataFrame:
        """A table of the run; raises CheckpointError when it is missing, cut off or otherwise damaged."""
        try:
            data = self.file(name)
        except OSError as error:
            raise CheckpointError(f"{self.path / name}: expected a table of a run ({error})") from error
        if not data.endswith(b"\n"):
            raise CheckpointError(f"{self.path / name}: expected whole lines, found the last one cut off")
        try:
            return pd.read_csv(io.BytesIO(data), **options)
        except (ValueError, pd.errors.ParserError) as error:
            raise CheckpointError(f"{self.path / name}: expected a table of a run ({error})") from error

    def entry(self, name: str, key: str, kind: type | tuple[type, ...] = object) -> Any:
        """What a JSON file of the folder says of `key`, a `kind`; raises CheckpointError when it does not."""
        content = self.read(name)
        if key not in content:
            raise CheckpointError(f"{self.path / name}: expected the key {key!r}, found {sorted(content)[:20]}")
        if not isinstance(content[key], kind) or (isinstance(content[key], bool) and kind is not object):
            wanted = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
            raise CheckpointError(f"{self.path / name}: {key}: expected {wanted}, found {shortened(content[key])}")
        return content[key]

    def file(self, name: str) -> bytes:
        """Content of a file; a finished run's has to have the SHA-256 in status.json, or CheckpointError is raised."""
        data = (self.path / name).read_bytes()
        sealed = {} if name == STATUS else self.sealed
        if name in sealed and (digest := hashlib.sha256(data).hexdigest()) != sealed[name]:
            raise CheckpointError(
                f"{self.path / name}: changed since the run finished: expected SHA-256 {sealed[name]}, found {digest}"
            )
        return data

    @property
    def sealed(self) -> dict[str, str]:
        """SHA-256 of a finished run's files; of one that is not finished, or was before files were sealed, none.

        Raises CheckpointError where status.json holds anything else.
        """
        return sealed_files(self.read(STATUS), self.path / STATUS) if (self.path / STATUS).is_file() else {}

    def write_json(self, name: str, value: dict) -> None:
        """Write a JSON file of the run, atomically."""
        write_json(self.path / name, value)

    def write_frame(self, name: str, frame: pd.DataFrame) -> None:
        """Write a table as CSV, atomically; floats read back to the same bits."""
        path = inside(self.path, self.path / name)
        with storage("create", path.parent):
            make_folder(path.parent)
        write_atomic(path, frame.to_csv(index=False, lineterminator="\n").encode())


def sealed_files(status: Mapping[str, Any], where: Path | str) -> dict[str, str]:
    """The SHA-256 of files by their names in a run's status; none where it has no `files`, as before they were sealed.

    Raises CheckpointError, saying `where`, for anything else.
    """
    files = status.get("files", {})
    if not (isinstance(files, dict) and all(isinstance(digest, str) for digest in files.values())):
        expected = "files: expected the SHA-256 of files by their names"
        raise CheckpointError(f"{where}: {expected}, found {shortened(files)}")
    return files
