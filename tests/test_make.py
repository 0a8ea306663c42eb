"""What a user gives `make` reaches the command as it is, and is never run: by the shell, or by make itself."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from pipelines import ROOT

RECORDING = """#!/bin/sh
printf '%s\\0' "$MTLIB_TRACKER" "$@" > "$RECORD"
"""

VALUES = [
    "my own.yaml",
    "a;touch SENTINEL",
    "a && touch SENTINEL",
    "$(touch SENTINEL)",
    "`touch SENTINEL`",
    "$(shell touch SENTINEL)",
    "${shell touch SENTINEL}",
    "$$(touch SENTINEL)",
    "$(eval $(shell touch SENTINEL))",
    '"; touch SENTINEL; "',
    "'; touch SENTINEL; '",
    'it\'s "so" \\ and $HOME $(HOME) 100 % #1',
    "> SENTINEL",
    "--help",
    "sample $(info x)",
]


@pytest.fixture
def make(tmp_path):
    """Run make in a copy of the project's root whose python writes down what it is given; returns that."""
    venv, record = tmp_path / ".venv", tmp_path / "record"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").write_text(RECORDING)
    (venv / "bin" / "python").chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for stamp in (".stamp", ".mpnet"):
        (venv / stamp).write_text("")

    def run(*arguments: str, **variables: str) -> list[str]:
        record.unlink(missing_ok=True)
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MTLIB"))}
        environment = clean | {"RECORD": str(record)} | variables
        subprocess.run(["make", *arguments], cwd=tmp_path, env=environment, check=True, capture_output=True)
        return record.read_text().split("\0")[:-1] if record.exists() else []

    run.folder = tmp_path
    return run


def options(value: str) -> list[str]:
    """What the pipeline is given where every variable has this value."""
    names = ("preset", "corpus", "jobs", "threads", "profile")
    return [value, "-m", "mtlib", "pipeline", *(f"--{name}={value}" for name in names), "plan"]


NAMES = ("PRESET", "CORPUS", "JOBS", "THREADS", "PROFILE", "TRACKER")


@pytest.mark.parametrize("value", VALUES)
def test_a_value_is_data_whether_it_is_given_as_an_argument_or_by_the_environment(make, value):
    assert make("plan", *(f"{name}={value}" for name in NAMES)) == options(value)
    assert make("plan", **dict.fromkeys(NAMES, value)) == options(value)
    for target in ("-n", "help"):
        make(target, "plan", *(f"{name}={value}" for name in NAMES))
    assert not list(Path(make.folder).rglob("SENTINEL*"))


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("target, names", [("soak", ["KILLS", "SEED"]), ("site", ["PRESET", "CORPUS"])])
def test_so_is_what_other_targets_take(make, target, names, value):
    (make.folder / ".venv" / ".stamp-site").write_text("")
    given = make(target, *(f"{name}={value}" for name in names))
    assert value in given or f"--preset={value}" in given
    assert not list(Path(make.folder).rglob("SENTINEL*"))


def test_without_a_value_the_preset_is_the_tour_and_the_corpus_its_own(make):
    given = ["--preset=tour", "--corpus=", "--jobs=0", "--threads=0", "--profile=default"]
    assert make("run") == ["", "-m", "mtlib", "pipeline", *given, "run"]
    assert make("run", MTLIB_TRACKER="wandb")[0] == make("run", "TRACKER=wandb")[0] == "wandb"
