"""Downloads in the caches of other libraries: the bytes that were fetched, or gone, so that they are fetched again."""

import hashlib
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

SEAL = ".sha256"


def snapshot(name: str, revision: str) -> Path:
    """Folder of the Hugging Face cache that holds the model repository `name` at the commit `revision`."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model") / "snapshots" / revision


def drop_damaged(folder: Path) -> list[str]:
    """Remove the files of a snapshot whose content is not what the Hub named their blobs after; returns their names.

    The cache calls a blob by the SHA-256 of a large file and by git's SHA-1 of a small one.
    """
    dropped = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and path.is_file() and not _is_named_after_its_content(blob := path.resolve()):
            blob.unlink()
            path.unlink()
            dropped.append(path.name)
    return dropped


def _is_named_after_its_content(blob: Path) -> bool:
    if re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return file_sha256(blob) == blob.name
    if re.fullmatch(r"[0-9a-f]{40}", blob.name):
        data = blob.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == blob.name
    return True


def changed(paths: Iterable[str | Path]) -> str | None:
    """What is wrong with the first file that has changed since it was first seen here; None if there is none.

    A file seen for the first time gets a seal beside it, `<name>.sha256`; files that are not there are passed over.
    """
    for path in map(Path, paths):
        if not path.is_file():
            continue
        seal, digest = path.with_name(path.name + SEAL), file_sha256(path)
        if not seal.is_file():
            with suppress(OSError):  # a cache that cannot be written to is read unsealed
                written = seal.with_name(f".tmp-{os.getpid()}-{seal.name}")
                written.write_text(digest, encoding="ascii")
                written.replace(seal)
        elif (expected := seal.read_text(encoding="ascii", errors="replace")) != digest:
            return f"{path}: expected SHA-256 {expected[:64]}, found {digest}"
    return None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
