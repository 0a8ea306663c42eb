"""`mtlib pipeline`, `sweep` and `run`: notebooks, and the runs that they ask for."""

import os
import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mtlib.cli.app import (
    FiguresOption,
    ImportOption,
    JobsOption,
    MoreArgument,
    Pairs,
    PresetOption,
    ProfileOption,
    ResultsOption,
    StudyCorpusOption,
    ThreadsOption,
    app,
    pairs,
)
from mtlib.errors import ConfigurationError, DataError
from mtlib.extensions import imported


class Goal(StrEnum):
    """What is asked of the pipeline."""

    RUN = "run"
    PLAN = "plan"
    RESUME = "resume"
    REPORT = "report"


@app.command()
def pipeline(
    goal: Annotated[Goal, typer.Argument(help="run, plan (what would run, and why), resume (after a crash) or report")],
    preset: PresetOption = "tour",
    corpus: StudyCorpusOption = None,
    jobs: JobsOption = 0,
    threads: ThreadsOption = 0,
    profile: ProfileOption = "default",
    results: ResultsOption = Path("results"),
    figures: FiguresOption = Path("figures"),
    more: MoreArgument = None,
    imports: ImportOption = None,
) -> None:
    """Train every run that the notebooks ask for and execute them, with Snakemake, in the project's folder.

    A line says how many jobs of how many are done, what is running and about how long the rest will take; what
    Snakemake and the jobs print is in a log, which the end names.
    """
    _require_source(preset, corpus)
    from mtlib.workbook.pipeline import prepare, require_project, snakemake
    from mtlib.workbook.plan import Plan

    require_project(profile)
    options = {"preset": preset, "corpus": corpus, **_width(jobs, threads, profile), **_places(results, figures)}
    if "MTLIB_MAKE_PRESET" in os.environ:
        given = options | {"tracker": os.environ.get("MTLIB_TRACKER")}
        again = ["make", "resume", *(f"{key.upper()}={value}" for key, value in given.items() if value)]
    else:
        again = ["mtlib", "pipeline", "resume", *_as_options(options), *(["--", *more] if more else [])]
    plan = prepare(goal, Plan(preset, corpus or ""), results, figures, shlex.join(again))
    raise typer.Exit(snakemake(goal, plan, jobs, threads, *(more or []), profile=profile))


def _require_source(preset: str, corpus: str | None) -> None:
    """Raise at once what a preset or a corpus that is not there raises, before a notebook is read."""
    from mtlib import preset as read_preset
    from mtlib.data.corpus import TITLES

    chosen = read_preset(preset, corpus or "")
    source = chosen.corpus
    if source in TITLES and chosen.experiment.get("phrases"):
        needs = "draws from labelled phrases: expected CORPUS=FOLDER with ids-sst-phrases.csv"
        raise ConfigurationError(f"preset {preset!r} {needs}, found {source!r}, which has none")
    if source not in TITLES and not os.path.exists(source):
        expected = "expected 'sample', 'hub', a folder or a YAML file"
        raise DataError(f"corpus {source!r}: {expected}, found no such folder")


def _width(jobs: int, threads: int, profile: str) -> dict[str, object]:
    return {"jobs": jobs or None, "threads": threads or None, "profile": None if profile == "default" else profile}


def _places(results: Path, figures: Path) -> dict[str, object]:
    places = {"results": str(results), "figures": str(figures)}
    return {key: None if place == key else place for key, place in places.items()}


def _as_options(options: dict[str, object]) -> list[str]:
    """`--key=value` of all that is given, and of the modules that are imported."""
    given = [f"--{key}={value}" for key, value in options.items() if value]
    return [*given, *(f"--import={place}" for place in imported())]


@app.command(hidden=True)
def collect(executed: Path, folder: Path) -> None:
    """Copy a notebook's figures and tables for the report: what the pipeline does in a job."""
    from mtlib.workbook import gallery

    typer.echo(f"{folder}: {len(gallery.collect(executed, folder))} figures and tables")


@app.command()
def sweep(
    file: Annotated[str, typer.Argument(help="a YAML file such as presets/sweeps/radius.yaml")],
    corpus: StudyCorpusOption = None,
    jobs: JobsOption = 0,
    threads: ThreadsOption = 0,
    profile: ProfileOption = "default",
    results: ResultsOption = Path("results"),
    figures: FiguresOption = Path("figures"),
    resume: Annotated[bool, typer.Option("--resume", help="go on after a crash")] = False,
    imports: ImportOption = None,
) -> None:
    """Train a grid of your own through the pipeline, and compare its settings in a notebook."""
    from mtlib.workbook import sweeps
    from mtlib.workbook.pipeline import prepare, require_project, snakemake
    from mtlib.workbook.plan import Plan

    require_project(profile)
    grid = sweeps.read(file, corpus or "")
    _require_source(grid.preset, grid.corpus)
    options = {"corpus": corpus, **_width(jobs, threads, profile), **_places(results, figures)}
    again = shlex.join(["mtlib", "sweep", file, *_as_options(options), "--resume"])
    plan = Plan(grid.preset, grid.corpus, file)
    goal = Goal.RESUME if resume else Goal.RUN
    raise typer.Exit(snakemake(goal, prepare(goal, plan, results, figures, again), jobs, threads, profile=profile))


@app.command()
def submissions(
    preset: PresetOption = "tour",
    corpus: StudyCorpusOption = None,
    output: Annotated[Path, typer.Option(help="folder of the files")] = Path("predictions"),
    results: Annotated[Path | None, typer.Option(help="where the runs are kept (default: the project's)")] = None,
    imports: ImportOption = None,
) -> None:
    """Write the CS224N submission files of a finished study's best single run and of its ensemble."""
    from mtlib import Study
    from mtlib.experiments import Experiment
    from mtlib.study.ensembles import leaders
    from mtlib.study.eval_splits import tasks_of
    from mtlib.study.submissions import splits_of, write_submissions
    from mtlib.workbook.plan import runs_of

    study = Study(preset, corpus or "", train=False)
    study.results = results or study.results
    runs = study.fit({name: each for name, each in runs_of(study).items() if isinstance(each, Experiment)})
    for name, system in leaders({run.id: run for run in runs.values()}).items():
        splits = splits_of(study.corpus, tasks_of(system))
        for path in write_submissions(system, output, f"{study.name}-{name}", splits):
            typer.echo(path)


@app.command()
def run(
    stage: Annotated[str | None, typer.Argument(help="a notebook of the notebooks folder, such as 01_baseline")] = None,
    parameters: Annotated[
        Pairs | None, typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="a value for the parameters cell")
    ] = None,
    path: Annotated[Path | None, typer.Option(help="a notebook that lies elsewhere")] = None,
    timeout: Annotated[float | None, typer.Option(min=0, help="seconds a cell may take")] = None,
    results: ResultsOption = Path("results"),
    figures: FiguresOption = Path("figures"),
    imports: ImportOption = None,
) -> None:
    """Execute a notebook with parameters; its prints appear here. With `-p train=false` nothing is trained."""
    from mtlib.workbook import notebooks
    from mtlib.workbook import parameters as known_parameters

    if (stage is None) == (path is None):
        raise ConfigurationError("expected the name of a stage, or --path with a notebook's path, one of the two")
    notebook = path or str(stage)
    known = known_parameters.read_parameters(notebooks.find_stage(notebook))
    given = pairs(parameters, "-p")
    values = {name: known[name].parse(text) if name in known else text for name, text in given}
    executed = notebooks.run_notebook(notebook, values, results=results, figures=figures, timeout=timeout)
    typer.echo(f"{executed.stem}: done, see {executed}")
