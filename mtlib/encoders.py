"""Where encoders come from: a package, a small random BERT, a Hub id at a pinned revision, or a folder."""

import hashlib
import inspect
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
import transformers
from torch import nn

from mtlib import folders
from mtlib.checking import resembling
from mtlib.data.batches import forget_truncation
from mtlib.data.cached import drop_damaged, snapshot
from mtlib.errors import CheckpointError, ConfigurationError, StorageError
from mtlib.fast import computing
from mtlib.packaged import minilm_folder, mpnet_folder
from mtlib.randomness import seeded

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()  # else every load prints a table of the unused pooler

BERT_BASE = "google-bert/bert-base-uncased"
PACKAGED = {"minilm": minilm_folder, "mpnet": mpnet_folder}
"""Encoders that packages carry, by the name that an experiment gives them."""

PINNED = {BERT_BASE: "86b5e0934494bd15c9632b12f734a8a67f723594"}
TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
}
COMMIT = re.compile(r"[0-9a-f]{40}")
FOREIGN = re.compile(
    r".*_files?|auto_map|quantization_config|fusion_config|_?attn_implementation.*|_?name_or_path|num_labels|id2label|label2id"
    r"|chunk_size_feed_forward"
)
"""Keys of a stored configuration that would have other files read, other code run, other arithmetic done, or labels
counted that no head of mtlib has."""

TRIAL = ["a", "Is 8\u00bd \u2603 a zyzzyva?"], ["b", ""]
"""Pairs that every new encoder reads once: whatever is wrong with it shows here and not in the middle of a run."""

SHOWN = 6
"""How many tensors an error lists."""


@dataclass(frozen=True)
class Encoder:
    """An encoder that was found but not yet loaded.

    kind: where it is from. name: its folder or Hub id. revision: the commit of a Hub id.
    fingerprint: SHA-256 that stands for weights, configuration and tokenizer, whatever they are called.
    seed: of random weights.
    """

    kind: Literal["random", "folder", "hub"]
    name: str
    fingerprint: str
    revision: str | None = None
    seed: int = 0

    def load(self) -> tuple[nn.Module, transformers.PreTrainedTokenizerBase]:
        """The encoder, float32, and its tokenizer.

        Raises StorageError where the disk or the Hub refuses, CheckpointError for what is stored but does not fit
        together, ConfigurationError for an encoder without embedding block.
        """
        if self.kind == "random":
            return _random(self.seed)
        if self.kind == "hub":
            return load_folder(_fetched(self.name, str(self.revision)))
        return load_folder(Path(self.name))


def find_encoder(name: str, revision: str | None = None, seed: int = 0) -> Encoder:
    """The encoder called `name`: "minilm", "mpnet", "tiny" (random weights from `seed`), a folder, or a Hub id.

    A folder that is itself called minilm, mpnet or tiny is meant by its path, `./tiny`. A Hub id needs a revision, the
    40 digits of a commit; known ids have one pinned. Remote code is never run.
    Raises ConfigurationError for an id without a commit, CheckpointError for a folder that is no encoder.

    >>> find_encoder("tiny", seed=3).kind
    'random'
    >>> encoder, tokenizer = find_encoder("tiny", seed=3).load()
    >>> encoder.config.hidden_size
    32
    """
    if name == "tiny":
        text = f"tiny {sorted(TINY.items())} {seed} {folders.fingerprint(folders.tokenizer_files(minilm_folder()))}"
        return Encoder("random", name, hashlib.sha256(text.encode()).hexdigest(), seed=seed)
    if name in PACKAGED or os.path.isdir(name):
        folder = PACKAGED[name]() if name in PACKAGED else Path(name)
        return Encoder("folder", str(folder), folders.fingerprint(folders.encoder_files(folder)))
    shown = repr(name[:120])
    if not re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?", name, re.ASCII):
        raise ConfigurationError(
            f"encoder {shown}: expected minilm, mpnet, tiny, a folder or a Hub id like {BERT_BASE}"
        )
    revision = revision or PINNED.get(name)
    if revision is None:
        raise ConfigurationError(
            f"encoder {shown} is no folder here{resembling(name, ('tiny', *PACKAGED))}; a Hub id needs "
            f"encoder_revision, the commit to load, and the names known without one are minilm, mpnet, tiny, "
            f"{', '.join(PINNED)}"
        )
    if not COMMIT.fullmatch(revision):
        raise ConfigurationError(
            f"encoder {shown}: expected a commit of 40 digits (0-9, a-f) as encoder_revision, found {revision[:60]!r}: "
            "a branch or a tag can be moved to other weights"
        )
    return Encoder("hub", name, hashlib.sha256(f"{name}@{revision}".encode()).hexdigest(), revision)


def load_folder(folder: Path) -> tuple[Any, transformers.PreTrainedTokenizerBase]:
    """The encoder in a folder, float32, and its tokenizer; nothing but `folders.encoder_files` is read.

    Raises CheckpointError for weights that are missing, unexpected in the encoder's own part or of another shape (a
    pooler alone may be absent) and for whatever else does not fit together, StorageError where a file cannot be read,
    ConfigurationError for an encoder without embedding block.
    """
    folders.digests(
        folders.encoder_files(folder)
    )  # every file is there and can be read: what fails below is its content
    about = _own(folders.read_object(folder / folders.CONFIG))
    try:
        config = transformers.CONFIG_MAPPING[about["model_type"]].from_dict(about)
        kind = transformers.MODEL_MAPPING[type(config)]
        weights: dict[str, torch.Tensor] = {}
        for path in folders.weight_files(folder):
            weights |= safetensors.torch.load_file(path)
        module = _filled(kind, config, weights, folder)
        tokenizer = _tokenizer(folder)
        words = tokenizer.get_vocab().values()
        rows, pad = module.get_input_embeddings().num_embeddings, tokenizer.pad_token_id
        fits = bool(words) and max(words) < rows and pad is not None
        if fits and hasattr(module, "embeddings"):
            _try(module, tokenizer)
    except (MemoryError, CheckpointError):
        raise
    except Exception as error:  # transformers, tokenizers and safetensors have no base class for what content can do
        lines = str(error).splitlines() or [""]
        raise CheckpointError(
            f"{folder}: no encoder can be loaded: {type(error).__name__}: {lines[0][:200]}"
        ) from error
    if not hasattr(module, "embeddings"):
        raise ConfigurationError(
            f"encoder {str(folder)!r} ({kind.__name__}) has no embedding block: expected a BERT-like one"
        )
    if not fits:
        raise CheckpointError(
            f"{folder}: expected a tokenizer with padding whose tokens are below {rows}, the rows of the embedding; "
            f"found {len(words)} tokens, the last {max(words, default=None)}, padding {pad}"
        )
    if position_padding(module) not in (None, pad):
        counted = position_padding(module)
        raise CheckpointError(
            f"{folder}: the encoder counts positions by padding {counted}, its tokenizer pads with {pad}"
        )
    forget_truncation(tokenizer)  # the trial's
    if not torch.cuda.is_available():
        module.set_attn_implementation("eager")  # faster than torch's fused kernel on a CPU's short masked sequences
    return module, tokenizer


def embedding_inputs(block: nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What an encoder's embedding block is called with, of tokenized inputs: those that it reads."""
    accepted = inspect.signature(block.forward).parameters
    named = {"input_ids": "input_ids", "token_type_ids": "token_type_ids", "mask": "attention_mask"}
    return {name: inputs[key] for name, key in named.items() if name in accepted and key in inputs}


def position_padding(encoder: nn.Module) -> int | None:
    """The token that an encoder such as RoBERTa or MPNet leaves out when it counts positions; None where all count."""
    return getattr(getattr(encoder.embeddings, "position_embeddings", None), "padding_idx", None)


def _own(content: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if not FOREIGN.fullmatch(key)}


def _filled(kind: Any, config: Any, weights: dict[str, torch.Tensor], folder: Path) -> Any:
    """The module of `kind` with these weights. Raises CheckpointError, naming tensors, where they do not fit."""
    layers, stored = getattr(config, "num_hidden_layers", 0), sum(tensor.numel() for tensor in weights.values())
    if layers > len(weights):  # before anything is built from a number that may be a thousand million
        raise CheckpointError(f"{folder}: config.json has {layers} layers, the weights are {len(weights)} tensors")
    options = {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind).parameters else {}
    with torch.device("meta"):
        needed = sum(parameter.numel() for parameter in kind(config, **options).parameters())
    if needed > 100 * stored:
        raise CheckpointError(f"{folder}: config.json describes {needed} weights, stored are {stored}")
    with seeded(0, "absent pooler"):
        module, report = kind.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype="float32",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    parts = dict(module.named_children())
    inner = [name.removeprefix(f"{module.base_model_prefix}.") for name in report["unexpected_keys"]]
    unexpected = [name for name in inner if name.split(".")[0] in parts and not name.endswith("position_ids")]
    faults = [f"missing {name}" for name in sorted(report["missing_keys"])]
    faults += [f"unexpected {name}" for name in sorted(unexpected)]
    faults += [f"{name} stored as {list(a)}, expected {list(b)}" for name, a, b in sorted(report["mismatched_keys"])]
    faults = [fault for fault in faults if " pooler." not in fault]
    if faults:
        more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise CheckpointError(f"{folder}: the weights are not those of config.json: {'; '.join(faults[:SHOWN])}{more}")
    return module


@torch.no_grad()
def _try(module: Any, tokenizer: Any) -> None:
    """One small pass; raises whatever an encoder, a tokenizer or a limit of theirs that cannot work raises."""
    longest = tokenizer.model_max_length
    if not longest >= 4:
        raise ValueError(f"expected a tokenizer for inputs of 4 tokens or more, found model_max_length {longest!r}")
    inputs = dict(
        tokenizer(*TRIAL, truncation=True, max_length=int(min(longest, 32)), padding=True, return_tensors="pt")
    )
    shape = [*inputs["attention_mask"].shape, module.config.hidden_size]
    hidden = module(**inputs).last_hidden_state
    if list(hidden.shape) != shape or not torch.isfinite(hidden).all():
        raise ValueError(f"expected {shape} finite numbers of a small batch, found {list(hidden.shape)} or others")
    embeddings = module.embeddings(**embedding_inputs(module.embeddings, inputs))
    with computing(module.embeddings, lambda *_, **__: embeddings):
        again = module(**inputs).last_hidden_state
    if not torch.allclose(hidden, again, rtol=1e-4, atol=1e-4):
        raise ValueError("its embedding block computes something else by itself than within the encoder")


def _tokenizer(folder: Path) -> transformers.PreTrainedTokenizerBase:
    """The tokenizer of a folder, read where there is nothing but its own files."""
    with tempfile.TemporaryDirectory(prefix="mtlib-tokenizer-") as place:
        for path in folders.tokenizer_files(folder):
            (Path(place) / path.name).symlink_to(path.absolute())
        for name in (folders.CONFIG, "tokenizer_config.json"):
            if (folder / name).is_file():
                (Path(place) / name).unlink(missing_ok=True)
                (Path(place) / name).write_text(json.dumps(_own(folders.read_object(folder / name))), encoding="utf-8")
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    tokenizer.name_or_path = str(folder)
    return tokenizer


def _random(seed: int) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    tokenizer = _tokenizer(minilm_folder())
    config = transformers.BertConfig(vocab_size=len(tokenizer), **TINY)
    with seeded(seed, "encoder"):
        return transformers.BertModel(config, add_pooling_layer=False), tokenizer


def _fetched(name: str, revision: str) -> Path:
    """Folder of an encoder of the Hub, from the cache where it is sound; what is damaged is fetched again, once."""
    damaged = drop_damaged(snapshot(name, revision))
    folder = _download(name, revision, damaged)
    if damaged and (again := drop_damaged(folder)):
        raise StorageError(f"encoder {name!r}: fetched twice and damaged both times: {', '.join(again)}")
    return folder


def _download(name: str, revision: str, damaged: list[str]) -> Path:
    """Folder of the cache with all files of an encoder at a commit. Raises StorageError where they cannot be had."""
    from huggingface_hub import snapshot_download

    patterns = [folders.CONFIG, folders.INDEX, "*.safetensors", *folders.TOKENIZERS]
    removed = f"; removed from the cache as damaged: {', '.join(damaged)}" if damaged else ""
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
        folders.encoder_files(folder)  # offline, a cache that holds a part of them is taken for all
    except Exception as error:  # the Hub's client and the HTTP library below it have no base class in common
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StorageError(f"encoder {name!r} could not be read: {reason}{removed}") from error
    return folder
