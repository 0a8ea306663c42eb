"""What environment.json says of the code that trained a run."""

import subprocess
from pathlib import Path

import torch

from mtlib.training import environment


def commit() -> str | None:
    return environment.environment(torch.device("cpu"), "float32")["commit"]


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert commit() is None


def test_the_commit_is_that_of_mtlib_s_own_checkout_and_no_other_s(tmp_path, monkeypatch):
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "none"]):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", tmp_path, *who, *command], check=True)
    head = subprocess.run(["git", "-C", tmp_path, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()

    def installed(place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(environment, "__file__", str(place / "environment.py"))

    installed(tmp_path / "mtlib" / "training")
    assert commit() == head
    installed(tmp_path / ".venv" / "lib" / "python3.13" / "site-packages" / "mtlib" / "training")
    assert commit() is None
