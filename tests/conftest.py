"""Shared fixtures: a corpus of a few made-up rows, and one finished smoke run on it."""

import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings

from mtlib.data.corpus import Corpus, Splits
from mtlib.randomness import generator
from mtlib.tasks import QQP, SST, STS, TASKS

for _name in [name for name in os.environ if name.startswith("MTLIB_MAKE_")]:
    del os.environ[_name]  # of `make test`: the commands that are tested were not started by make

settings.register_profile("mtlib", deadline=None)  # a busy machine is no fault
settings.load_profile("mtlib")

WORDS = "red green blue cat dog bird runs sleeps sings slowly quickly never often big small old new".split()


def made_up(task, split: str, rows: int) -> pd.DataFrame:
    """Random words whose label follows from them: enough to train on, nothing to believe."""
    rng = generator(7, f"{task.name} {split}")
    frame = pd.DataFrame({"id": [f"{task.name}-{split}-{row}" for row in range(rows)]})
    for column in ("text_a", "text_b")[: len(task.columns)]:
        frame[column] = [" ".join(rng.choice(WORDS, rng.integers(2, 9))) for _ in range(rows)]
    if task.kind == "regression":
        frame["label"] = rng.random(rows) * (task.high - task.low) + task.low
    else:
        classes = task.classes if task.kind == "classification" else 2
        frame["label"] = rng.permutation(np.arange(rows) % classes)
    return frame


def made_up_corpus(tasks=(SST, QQP, STS), rows: int = 60) -> Corpus:
    """A corpus of `rows` training rows a task, half as many for dev and for test."""
    sizes = {"train": rows, "dev": rows // 2, "test": rows // 2}
    splits = {t.name: Splits(**{name: made_up(t, name, size) for name, size in sizes.items()}) for t in tasks}
    return Corpus("made up", tuple(tasks), splits)


@pytest.fixture
def forgotten():
    """Tasks that a test makes known are forgotten."""
    before = dict(TASKS)
    yield
    TASKS.clear()
    TASKS.update(before)


@pytest.fixture
def public():
    """An empty folder that every user may enter: pytest's own are for one."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    """Sixty training rows a task."""
    return made_up_corpus()


@pytest.fixture(scope="session")
def run(corpus, tmp_path_factory):
    """A finished smoke run."""
    import mtlib

    folder = tmp_path_factory.mktemp("results")
    return mtlib.fit(mtlib.experiment("smoke", name="shared"), corpus, folder, progress="none")


def write_corpus(folder: Path) -> Path:
    """The made-up corpus as CSV files in `folder`."""
    folder.mkdir()
    for task, split, frame in made_up_corpus().frames():
        names = dict(zip(["text_a", "text_b"], task.columns, strict=False)) | {"label": task.label_column}
        frame.rename(columns=names).to_csv(folder / f"{task.files}-{split}.csv", sep="\t")
    return folder


@pytest.fixture
def corpus_folder(tmp_path) -> Path:
    """The made-up corpus as a folder of CSV files."""
    return write_corpus(tmp_path / "corpus")


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium. No longer than a module: while it is there, an event loop runs in this thread."""
    if not (program := shutil.which("chromium")):
        pytest.skip("Chromium is not installed: `make system` does it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()
