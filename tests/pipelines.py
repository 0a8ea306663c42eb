"""A project folder for tests of the pipeline: the real Snakefile, notebooks and profiles, with results of its own."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
BASELINE = "results/notebooks/smoke-sample/01_baseline.ipynb"
"""The smallest part of the pipeline that has both kinds of job: one point and one notebook."""


def project(folder: Path, *own: str) -> Path:
    """`folder` as a project: links to the real files, copies of those named `own`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("Snakefile", "notebooks", "presets", "profiles"):
        if name not in own:
            (folder / name).symlink_to(ROOT / name)
    return folder


def environment(**more: str) -> dict[str, str]:
    """This process's environment with this checkout's library first."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, **more}


def command(goal: str, *more: str, preset: str = "smoke", jobs: int = 1, profile: str = "default") -> list[str]:
    """`mtlib pipeline GOAL` on one thread a job; more: options and targets of Snakemake."""
    options = ["--preset", preset, "--jobs", str(jobs), "--threads", "1", "--profile", profile]
    return [sys.executable, "-m", "mtlib", "pipeline", goal, *options, "--", *more]


def pipeline(folder: Path, goal: str, *more: str, **options) -> subprocess.CompletedProcess:
    """The finished command, run in `folder`, with what it printed."""
    return subprocess.run(
        command(goal, *more, **options), cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )


def jobs(text: str) -> list[str]:
    """The jobs named by what `mtlib pipeline plan` printed."""
    return [line.split()[0] for line in text.splitlines() if line and not line.startswith("nothing")]


def tables(folder: Path) -> dict[str, str]:
    """SHA-256 of every table below `folder`, the measured seconds and run times apart, by its path there."""
    files = sorted((folder / "results" / "tables").rglob("*.csv"))
    return {str(file.relative_to(folder)): hashlib.sha256(content(file)).hexdigest() for file in files}


def content(file: Path) -> bytes:
    """A table's bytes without what a clock measured."""
    import pandas as pd

    frame = pd.read_csv(file)
    return frame.drop(columns=[name for name in frame if "seconds" in name]).to_csv().encode()


def preset_with(folder: Path, changes: dict) -> str:
    """The path of smoke's preset in `folder`, its keys (such as "grids.table_2") changed."""
    values = yaml.safe_load((ROOT / "presets" / "smoke.yaml").read_text())
    for key, value in changes.items():
        *parents, last = key.split(".")
        place = values
        for parent in parents:
            place = place[parent]
        place[last] = value
    file = folder / "changed.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    return file.name
