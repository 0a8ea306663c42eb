"""Whole runs in forked children that are killed: tiny experiments, and the SHA-256 of everything they come to."""

import functools
import hashlib
import itertools
import json
import os
import re
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from conftest import WORDS, made_up_corpus
from store_helpers import fork, on_each_call
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import BertProcessing

import mtlib
from mtlib.device import Device
from mtlib.encoders import find_encoder
from mtlib.experiments import Optimisation
from mtlib.randomness import seeded
from mtlib.study import model_card  # noqa: F401  (so that no forked child has to import it)
from mtlib.training import fit as fitting
from mtlib.training import loop
from mtlib.training.distributed import Ranks
from mtlib.training.optimization import fingerprint, gathered
from mtlib.training.runs import Run, RunStore
from mtlib.training.start import Start

CHANGING = ("status.json", "environment.json", "lock", "lock.holder", "README.md")
"""Files of a run that say when and where it ran, its model card among them."""

CORPUS = made_up_corpus(rows=24)
KEPT = tempfile.TemporaryDirectory(prefix="tiny-encoder-")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def rising(objective):
    """The loss scaled to 1, 2, 3, ... at the steps of a run, so that the `halve` schedule halves."""

    def scaled(self, batch, number):
        loss, log = objective(self, batch, number)
        return loss / loss.detach() * (1 + number), log

    return scaled


SMART_AND_TEACHER, SMART_BALL, PRETRAINING = "smart and teacher", "smart ball", "pretraining"


def tiny(kind: str, **changes) -> "Tiny":
    """One of the three experiments that the kill tests share, with `changes` to its settings."""
    shared = {"name": "tiny", "encoder": encoder(), "max_tokens": 32, "batch_size": 4}
    if kind == PRETRAINING:
        settings = {"epochs": 2, "steps_per_epoch": 4, "schedule": "linear", "batch_size": 5}
        return Tiny(mtlib.pretraining("smoke", **{**shared, **settings, **changes}))
    if kind == SMART_BALL:
        ball = mtlib.Smart(mode="ball", weight=1.0)
        settings = {
            "epochs": 3,
            "steps_per_epoch": 3,
            "warmup": 0.3,
            "learning_rate": 0.05,
            "seed": 6,
            "penalties": [ball],
        }
        return Tiny(mtlib.experiment("smoke", **{**shared, **settings, **changes}))
    penalties = [mtlib.Smart(weight=1.0), mtlib.Bregman(weight=1.0, decay=0.9)]
    settings = {"epochs": 8, "steps_per_epoch": 2, "sampler": "annealed", "schedule": "halve", "dev_limit": 10}
    return Tiny(mtlib.experiment("smoke", **{**shared, **settings, "penalties": penalties, **changes}), rises=True)


@dataclass(frozen=True)
class Tiny:
    """An experiment small enough to be killed hundreds of times; `rises` makes its loss rise."""

    settings: Optimisation
    rises: bool = False

    @property
    def steps(self) -> int:
        return self.settings.steps

    def run(self, folder: Path, patch: pytest.MonkeyPatch, minutes: float = 0.0, **options) -> Run:
        """Train below `folder` with a clock that ticks once a look; the state's SHA-256 goes to `folder`/state."""
        ticks = itertools.count()
        patch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
        if self.rises:
            patch.setattr(loop.Training, "_objective", rising(loop.Training._objective))
        guarded = fitting._guarded

        def noting(training):
            finish = training.finish
            training.finish = lambda: (
                (folder / f"state{training.ranks.rank or ''}").write_text(digest(training)),
                finish(),
            )
            guarded(training)

        patch.setattr(fitting, "_guarded", noting)
        return mtlib.fit(self.settings, CORPUS, folder, progress="none", minutes=minutes, **options)

    def child(self, folder: Path, prepare=lambda patch: None, **options) -> int:
        """`run` in a forked child after `prepare(patch)`: its exit code, or minus the signal that ended it."""
        folder.mkdir(exist_ok=True, parents=True)

        def work():
            with pytest.MonkeyPatch.context() as patch:
                prepare(patch)
                self.run(folder, patch, **options)

        return fork(work)

    def outcome(self, folder: Path) -> str:
        """SHA-256 of the state at the end of training and of every file of the finished run below `folder`."""
        (run,) = RunStore(folder).all()
        assert run.complete, run.status
        digest = hashlib.sha256((folder / "state").read_bytes())
        for path in sorted(path for path in run.path.rglob("*") if path.is_file()):
            if path.name not in CHANGING:
                digest.update(f"{path.relative_to(run.path)} ".encode() + path.read_bytes())
        return digest.hexdigest()


def digest(training) -> str:
    """SHA-256 of weights, optimizer moments, teachers and everything noted of a run in training."""
    tensors = gathered(training.model, training.optimizer, training.stateful)
    result = hashlib.sha256(fingerprint(tensors).encode())
    noted = {name: getattr(training, name) for name in loop.NOTED}
    result.update(json.dumps([training.done, noted], sort_keys=True).encode())
    return result.hexdigest()


def after_step(last: int, act=kill):
    """Die right after optimizer step `last` (from 1)."""

    def prepare(patch):
        step = loop.Training._step

        def dying(self, number):
            step(self, number)
            if number + 1 == last:
                act()

        patch.setattr(loop.Training, "_step", dying)

    return prepare


def at_call(point: int):
    """Die before the file-system call `point` (from 0) of the run."""

    def prepare(patch):
        on_each_call(patch, lambda number, _: number == point and kill())

    return prepare


def write_encoder(folder: Path) -> Path:
    """A one-layer random BERT whose vocabulary is the made-up words, stored as an encoder folder."""
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = BertProcessing(("[SEP]", words["[SEP]"]), ("[CLS]", words["[CLS]"]))
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep")}
    transformers.BertTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=32, **size)
    with seeded(0, "tiny encoder"):
        transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def calls(experiment: Tiny, folder: Path) -> list[str]:
    """The file-system calls of an uninterrupted run, in order; those that begin a save are called "mkdir step"."""
    log = folder.with_suffix(".calls")

    def prepare(patch):
        on_each_call(patch, lambda *_: None, lambda name, target: print(name, target, file=file, flush=True))

    with open(log, "w") as file:
        assert experiment.child(folder, prepare) == 0
    lines = log.read_text().splitlines()
    return [
        "mkdir step" if re.fullmatch(r"mkdir .*/checkpoints/[.]tmp-[0-9]+-[0-9]+", line) else line for line in lines
    ]


@functools.cache
def encoder() -> str:
    """Folder of the tiny encoder; it is loaded once, so that forked children find everything imported."""
    torch.set_num_threads(1)
    folder = write_encoder(Path(KEPT.name))
    find_encoder(str(folder)).load()
    Device()
    return str(folder)


def fresh(experiment: Tiny) -> dict[str, torch.Tensor]:
    """The tensors of a run that has not begun."""
    settings = experiment.settings
    with tempfile.TemporaryDirectory() as folder:
        start = Start(settings, CORPUS, RunStore(folder))
        run = start.run()
        training = loop.Training(start, run, "none", 1.0, False, Ranks())
        with run.lock():
            training.prepare()
    return gathered(training.model, training.optimizer, training.stateful)
