"""A model's folder: what is written to it, what is checked when it is read, and how it comes from and to the Hub.

Beside mtlib's own files lie those that sentence-transformers reads: its `SentenceTransformer(folder)` gives the vectors
of `embed`. Nothing here reads them.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mtlib import folders
from mtlib.errors import CheckpointError, ConfigurationError, StorageError
from mtlib.tasks import SCALE, Task

ABOUT, HEADS, CARD = "multitask.json", "heads.safetensors", "README.md"
LARGEST_ABOUT = 2**20  # bytes of multitask.json; one with a hundred tasks has 30 kB
HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)


class About(BaseModel):
    """What multitask.json says of a stored model: its tasks, its settings, and the SHA-256 of every other file.

    scale: upper end of what the heads of regressions learnt, from 0 on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[2] = 2
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]
    pooling: Literal["cls", "mean"]
    head_dropout: Annotated[float, Field(ge=0, lt=1)]
    max_tokens: Annotated[int, Field(ge=4)]
    temperatures: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    scale: Annotated[float, Field(ge=SCALE, le=SCALE)] | None = None
    files: dict[str, str]

    @model_validator(mode="after")
    def _says_its_scale(self) -> "About":
        if self.scale is None and (other := [task.name for task in self.tasks if task.unit != 1]):
            raise ValueError(f"{other[0]}: stored before every regression learnt the scale 0 to 5: train it again")
        return self


def write(folder: Path, encoder: Any, tokenizer: Any, heads: Mapping[str, torch.Tensor], **settings: Any) -> str:
    """Write a model's files; settings: fields of `About`. Its seal, the SHA-256 of multitask.json, which is last."""
    encoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / HEADS).write_bytes(safetensors.torch.save({name: tensor.contiguous() for name, tensor in heads.items()}))
    _write_modules(folder, encoder.config.hidden_size, settings["pooling"], settings["max_tokens"])
    about = About(**settings, scale=SCALE, files=folders.digests([*folders.encoder_files(folder), folder / HEADS]))
    text = about.model_dump_json(indent=1).encode()
    (folder / ABOUT).write_bytes(text)
    for name in about.files:  # safetensors creates files that only their owner may read
        (folder / name).chmod((folder / ABOUT).stat().st_mode)
    return hashlib.sha256(text).hexdigest()


def _write_modules(folder: Path, hidden: int, pooling: str, max_tokens: int) -> None:
    """The files by which sentence-transformers finds encoder and pooling."""
    parts = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling")]
    modules = [
        {"idx": int(name), "name": name, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for name, path, kind in parts
    ]
    modes = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}
    files = {
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": max_tokens, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": hidden}
        | {mode: name == pooling for name, mode in modes.items()},
    }
    (folder / "1_Pooling").mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")


def expect_folder(folder: Path) -> None:
    """Raise CheckpointError where a model's folder is missing, with what there is to do about it."""
    if not folder.is_dir():
        unpacked = "a run that was unpacked has none: remove it and train it again"
        raise CheckpointError(f"{folder}: expected a stored multitask model, found no folder; {unpacked}")


def read_about(folder: Path, seal: str | None) -> About:
    """multitask.json of a model whose every file is as it says, and which itself has the SHA-256 `seal`, if given."""
    expect_folder(folder)
    if seal is not None:
        folders.expect(folder, {ABOUT: seal})
    with folders.reading(folder / ABOUT):
        if not (folder / ABOUT).is_file():
            raise CheckpointError(f"{folder}: expected a stored multitask model, found no {ABOUT}")
        data = (folder / ABOUT).read_bytes()
    try:
        about = About.model_validate_json(data[:LARGEST_ABOUT])
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        found = repr(first["input"])[:80]
        raise CheckpointError(f"{folder / ABOUT}: {f'{key}: ' if key else ''}{first['msg']}, found {found}") from error
    except ConfigurationError as error:
        raise CheckpointError(f"{folder / ABOUT}: {error}") from error
    there = {path.name for path in folders.encoder_files(folder)} | {HEADS}
    if unknown := sorted(there ^ about.files.keys()):
        listed = f"{', '.join(sorted(about.files))}; these are only in one of both: {', '.join(unknown)}"
        raise CheckpointError(f"{folder}: expected the files that {ABOUT} names, {listed}"[:600])
    folders.expect(folder, about.files)
    return about


def stored_seal(folder: Path | str) -> str:
    """The seal of a model folder as it is on the disk now, `save_pretrained`'s where nothing changed since.

    Raises CheckpointError where a file differs from what multitask.json says, StorageError where one cannot be read.
    """
    read_about(Path(folder), None)
    return folders.sha256(Path(folder) / ABOUT)


def read_heads(path: Path, tasks: Sequence[Task], hidden: int) -> dict[str, torch.Tensor]:
    """The heads in a file. Raises CheckpointError, before anything is built, where they are not those of `tasks`."""
    try:
        heads = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path}: {error}") from error
    expected = {f"{task.name}.weight": [task.outputs, hidden] for task in tasks}
    expected |= {f"{task.name}.bias": [task.outputs] for task in tasks}
    found = {name: list(tensor.shape) for name, tensor in heads.items()}
    if wrong := sorted(name for name in expected | found if expected.get(name) != found.get(name)):
        listed = "; ".join(f"{name}: expected {expected.get(name)}, found {found.get(name)}" for name in wrong[:6])
        raise CheckpointError(f"{path}: {listed}")
    return heads


def model_folder(path: Path | str, revision: str | None = None) -> Path:
    """The model folder that `path` is: itself, that of a run's folder, or a Hub id's, fetched or from the cache.

    revision: a branch, tag or commit of a Hub id. A folder here goes before an id of the same name.
    Raises StorageError where the Hub has no such model or is out of reach.
    """
    if os.path.isdir(Path(path) / "model"):
        return Path(path) / "model"
    if os.path.isdir(path) or not HUB_ID.fullmatch(str(path)):
        return Path(path)
    from huggingface_hub import snapshot_download

    wanted = [folders.CONFIG, folders.INDEX, "*.safetensors", *folders.TOKENIZERS, ABOUT, CARD]
    with asking_the_hub(str(path)):
        return Path(snapshot_download(str(path), revision=revision, allow_patterns=wanted))


def upload(folder: Path, name: str, private: bool) -> str:
    """Make the Hub's repository `name`, if there is none, and commit a folder to it; the commit's address."""
    if not HUB_ID.fullmatch(name):
        raise ConfigurationError(f"expected a Hub id like user/name, found {name[:120]!r}")
    from huggingface_hub import HfApi

    with asking_the_hub(name):
        HfApi().create_repo(name, private=private, exist_ok=True)
        return str(HfApi().upload_folder(repo_id=name, folder_path=folder, commit_message="Upload a multitask model"))


@contextmanager
def asking_the_hub(name: str) -> Iterator[None]:
    """Turn whatever the Hub's client raises in the block into StorageError."""
    try:
        yield
    except Exception as error:  # the Hub's client and the HTTP library below it have no base class in common
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StorageError(f"Hub model {name!r}: {reason[:300]}") from error
