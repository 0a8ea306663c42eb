"""A small project for tests of the workbook: two notebooks of its own beside the real Snakefile and profiles."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[1]

PRESET = {
    "corpus": "sample",
    "encoder": "tiny",
    "dial": 0.0006,
    "learning_rate": 1e-3,
    "experiment": {"max_tokens": 64, "dev_limit": 100},
}
"""The size of the small project: two epochs of six steps."""

PARAMETERS = """preset: str = "mine.yaml"
corpus: str = ""
seed: int = 0
train: bool = True
rates: list[float] = [1e-5]  # of the report"""

SETUP = """from mtlib import Smart, Study
from mtlib.workbook.plan import runs_of

study = Study(preset, corpus, seed=seed, train=train)
print(study.about())"""

FIRST_RUNS = """runs = {f"rate {rate:g}": study.experiment(learning_rate=rate) for rate in rates}
runs["ranked"] = study.experiment(start_from=study.pretraining())"""

SECOND_RUNS = """annealed = study.experiment(sampler="annealed")
runs = {"annealed": annealed, "baseline": study.experiment()}"""

TABLE = """runs = study.fit(runs)
study.save(runs.scores().drop(columns="seconds"), "scores_{}")"""

CHECK = """print(*study.outputs("scores_{}"), sep="\\n")"""


def write_notebook(path: Path, *cells: tuple[str, str]) -> Path:
    """A notebook of code cells, each a tag (or "") and a source."""
    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for _, source in cells])
    for cell, (tag, _) in zip(content.cells, cells, strict=True):
        cell.metadata.tags = [tag] if tag else []
    nbformat.write(content, path)
    return path


def trains(path: Path, runs: str, *, parameters: str = PARAMETERS) -> Path:
    """A notebook in the usual form whose cell tagged `runs` is `runs`; it writes the table `scores_<name>`."""
    after = [("", TABLE.format(path.stem)), ("check", CHECK.format(path.stem))]
    method = ("method", "model = study.encoder()")
    return write_notebook(path, ("parameters", parameters), ("setup", SETUP), method, ("runs", runs), *after)


def project(folder: Path) -> Path:
    """`folder` as a project: `01_first` and `02_second`, the preset `mine.yaml`, links to the real Snakefile."""
    (folder / "notebooks").mkdir(parents=True, exist_ok=True)
    for name in ("Snakefile", "presets", "profiles"):
        (folder / name).symlink_to(ROOT / name)
    trains(folder / "notebooks" / "01_first.ipynb", FIRST_RUNS)
    trains(folder / "notebooks" / "02_second.ipynb", SECOND_RUNS)
    write_preset(folder)
    return folder


def write_preset(folder: Path, **changes) -> None:
    """The project's preset with some keys (such as `experiment__max_tokens`) changed."""
    values = yaml.safe_load(yaml.safe_dump(PRESET))
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    (folder / "mine.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def executed(stage: str, corpus: str = "sample") -> str:
    """Where a stage's executed notebook is, the pipeline's target of it."""
    return f"results/notebooks/mine-{corpus}/{stage}.ipynb"


def environment(**more: str) -> dict[str, str]:
    """This process's environment with this checkout's library first."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, **more}


def command(goal: str, *more: str, preset: str = "mine.yaml", corpus: str = "", jobs=1, profile="default") -> list[str]:
    """`mtlib pipeline GOAL` on one thread a job; more: options and targets of Snakemake."""
    options = [f"--preset={preset}", f"--corpus={corpus}", f"--jobs={jobs}", "--threads=1", f"--profile={profile}"]
    return [sys.executable, "-m", "mtlib", "pipeline", goal, *options, "--", *more]


def pipeline(folder: Path, goal: str, *more: str, code: int | None = 0, **options) -> subprocess.CompletedProcess:
    """The finished command, run in `folder`, with what it printed; checked to end with `code`, unless that is None."""
    run = command(goal, *more, **options)
    done = subprocess.run(run, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert code in (None, done.returncode), f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def planned(folder: Path, *more: str, **options) -> dict[str, set[str]]:
    """The jobs that `mtlib pipeline plan` prints: "trains" and "executes", the names of each."""
    found: dict[str, set[str]] = {"trains": set(), "executes": set()}
    for line in pipeline(folder, "plan", *more, **options).stdout.splitlines():
        if ";" in line:
            name, kind = line.partition(";")[0].split()
            found[kind].add(name)
    return found


def tables(folder: Path) -> dict[str, str]:
    """SHA-256 of every table below `folder` by its path there."""
    files = sorted((folder / "results" / "tables").rglob("*.csv"))
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
