"""The `mtlib` command: data, training, prediction, the pipeline and its notebooks, tables and figures."""

import os
import signal
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from mtlib.errors import ConfigurationError, DataError, MtlibError
from mtlib.pipeline import SCHEDULER, end_with, snakemake

SUBMISSION = {  # task -> name of its file and of its column in the CS224N submission
    "sst": ("sst", "Predicted_Sentiment"),
    "qqp": ("para", "Predicted_Is_Paraphrase"),
    "sts": ("sts", "Predicted_Similiary"),
}


class Commands(TyperGroup):
    """Commands whose MtlibErrors become one message on stderr and the error's exit code."""

    def invoke(self, ctx):
        """Run the command."""
        try:
            return super().invoke(ctx)
        except MtlibError as error:
            typer.echo(f"mtlib: {error}", err=True)
            raise typer.Exit(error.exit_code) from None


class Goal(StrEnum):
    """What is asked of the pipeline."""

    RUN = "run"
    PLAN = "plan"
    RESUME = "resume"
    REPORT = "report"


class Split(StrEnum):
    """A split of a corpus."""

    TRAIN = "train"
    DEV = "dev"
    TEST = "test"


app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
data_app = typer.Typer(no_args_is_help=True, help="Look at a corpus.")
app.add_typer(data_app, name="data")

CorpusOption = Annotated[str, typer.Option("--corpus", help='"sample", "hub" or a folder of CSV files')]
ResultsOption = Annotated[Path, typer.Option("--results", help="where runs and notebooks are kept")]
PresetOption = Annotated[str, typer.Option(help="smoke, tour, third, laptop, paper or a YAML file")]
StudyCorpusOption = Annotated[
    str | None, typer.Option("--corpus", help='"sample", "hub" or a folder (default: the preset\'s)')
]
FiguresOption = Annotated[Path, typer.Option("--figures", help="folder; a study's figures are in one of its own there")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="id or name of a finished run, or its folder")]
Pairs = list[str]


@app.callback()
def main():
    """One encoder, many tasks."""
    if scheduler := os.environ.pop(SCHEDULER, None):
        end_with(int(scheduler), signal.SIGTERM)
    warnings.showwarning = lambda message, *_: typer.echo(f"warning: {message}", err=True)


@data_app.command("check")
def check_data(
    folder: Annotated[str, typer.Argument(help='"sample", "hub" or a folder of CSV files')],
    encoder: Annotated[str, typer.Option(help="whose tokens are counted")] = "minilm",
):
    """Print counts, label balance, token lengths, leakage, and every fault with file and line."""
    from mtlib.data.corpus import check
    from mtlib.encoders import find_encoder

    _, tokenizer = find_encoder(encoder).load()
    report = check(folder, tokenizer=tokenizer)
    typer.echo(str(report))
    raise typer.Exit(report.exit_code)


@app.command()
def train(
    preset: Annotated[str | None, typer.Option(help="a preset or a YAML file (default: tour)")] = None,
    corpus: StudyCorpusOption = None,
    changes: Annotated[Pairs | None, typer.Option("--set", metavar="KEY=VALUE", help="an experiment field")] = None,
    results: ResultsOption = Path("results"),
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="continue this run, by id, name or folder, as it was begun")
    ] = None,
    allow_inexact: Annotated[bool, typer.Option(help="continue a run begun elsewhere, though not bit by bit")] = False,
):
    """Train, or continue the identical run that was interrupted, or load the one that is finished."""
    import mtlib
    from mtlib.notebooks import parse_scalar
    from mtlib.study import model_card

    if resume:
        if preset or changes:
            raise ConfigurationError(f"--resume {resume}: expected no --preset and no --set, a run keeps its settings")
        run = mtlib.resume(found_run(resume, results, finished=False), corpus, allow_inexact=allow_inexact)
    else:
        preset = preset or "tour"
        experiment = mtlib.experiment(preset, **{key: parse_scalar(text) for key, text in pairs(changes, "--set")})
        source = mtlib.load_corpus(corpus or mtlib.preset(preset).corpus, experiment.tasks)
        run = mtlib.fit(experiment, source, results, allow_inexact=allow_inexact)
    model_card.ensure_card(run)
    print_scores(run.scores)
    typer.echo(f"{run.seconds:.0f} s, stored in {run.path}")


@app.command()
def point(
    name: Annotated[str, typer.Argument(help="a run of the preset's plan, such as baseline or ball-0.1")],
    preset: PresetOption = "tour",
    corpus: StudyCorpusOption = None,
    results: ResultsOption = Path("results"),
):
    """Train one run of a preset's plan, or load it: what the pipeline does in a job."""
    from mtlib.study.plan import train_point

    run = train_point(name, preset, corpus, results)
    typer.echo(f"{name}: {run.id}, {run.seconds:.0f} s")


@app.command()
def pipeline(
    goal: Annotated[Goal, typer.Argument(help="run, plan (what would run, and why), resume (after a crash) or report")],
    preset: PresetOption = "tour",
    corpus: CorpusOption = "sample",
    jobs: Annotated[int, typer.Option(min=1, help="jobs at the same time")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="cores of a job; results depend on it")] = 2,
    profile: Annotated[
        str, typer.Option(help="where jobs run: default (here), slurm, a folder of profiles")
    ] = "default",
    more: Annotated[list[str] | None, typer.Argument(help="options of Snakemake, behind --")] = None,
):
    """Train every run of a preset and execute the notebooks, with Snakemake, in the project's folder."""
    raise typer.Exit(
        snakemake(goal, {"preset": preset, "corpus": corpus}, jobs, threads, *(more or []), profile=profile)
    )


@app.command(hidden=True)
def collect(executed: Path, folder: Path):
    """Copy a notebook's figures and tables for the report: what the pipeline does in a job."""
    from mtlib import gallery

    typer.echo(f"{folder}: {len(gallery.collect(executed, folder))} figures and tables")


@app.command()
def sweep(
    file: Annotated[str, typer.Argument(help="a YAML file such as presets/sweeps/radius.yaml")],
    corpus: StudyCorpusOption = None,
    jobs: Annotated[int, typer.Option(min=1, help="jobs at the same time")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="cores of a job; results depend on it")] = 2,
    results: ResultsOption = Path("results"),
    figures: FiguresOption = Path("figures"),
    gather: Annotated[bool, typer.Option("--gather", help="only the tables and the figure, without Snakemake")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="go on after a crash")] = False,
):
    """Train a grid of your own through the pipeline, and write its tables and its figure."""
    from mtlib import config
    from mtlib.study import sweeps

    wanted = sweeps.read(file)
    source = corpus or wanted.corpus or config.preset(wanted.preset).corpus
    if gather:
        table = sweeps.gather(file, source, results, figures)
        typer.echo(table.to_string(index=False, float_format="{:.4g}".format))
        return
    settings = {"preset": file, "corpus": source, "results": results, "figures": figures}
    raise typer.Exit(snakemake("resume" if resume else "run", settings, jobs, threads))


@app.command()
def evaluate(
    run: RunArgument,
    corpus: CorpusOption = "sample",
    split: Split = Split.DEV,
    results: ResultsOption = Path("results"),
):
    """Score a finished run on a labelled split."""
    from mtlib.training.evaluation import scores

    frames = predicted(run, corpus, split, results)
    if unlabelled := [name for name, frame in frames.items() if "label" not in frame]:
        raise DataError(f"corpus {corpus}, {split}: expected labels to score with, found none for {unlabelled[0]}")
    print_scores(scores(frames))


@app.command()
def predict(
    run: RunArgument,
    corpus: CorpusOption = "sample",
    split: Split = Split.TEST,
    output: Annotated[Path, typer.Option(help="folder of the predictions")] = Path("predictions"),
    results: ResultsOption = Path("results"),
):
    """Write a finished run's predictions: `SPLIT-TASK.csv` with probabilities, and the CS224N submission files."""
    from mtlib.training.files import make_folder, storage, write_atomic

    frames = predicted(run, corpus, split, results)
    with storage("create", output):
        make_folder(output.absolute())
    for task, frame in frames.items():
        files = {f"{split}-{task}.csv": frame.to_csv(index=False, lineterminator="\n")}
        if task in SUBMISSION:
            stem, column = SUBMISSION[task]
            files[f"{stem}-{split}-output.csv"] = submission(frame, column, as_float=task != "sst")
        for name, text in files.items():
            write_atomic(output / name, text.encode())
            typer.echo(f"{output / name}: {len(frame)} predictions")


@app.command()
def runs(results: ResultsOption = Path("results")):
    """List the runs there are, with their settings, status and scores."""
    import mtlib

    table = mtlib.RunStore(results).table()
    typer.echo(table.to_string(index=False, float_format="{:.3f}".format, na_rep="") if len(table) else "no runs yet")


@app.command()
def card(run: RunArgument, results: ResultsOption = Path("results")):
    """Write the model card of a finished run, README.md in its model folder, anew."""
    from mtlib.study.model_card import write_card

    typer.echo(write_card(found_run(run, results)))


@app.command("tables")
def rebuild_tables(
    preset: PresetOption = "tour",
    corpus: StudyCorpusOption = None,
    seed: Annotated[int, typer.Option(help="seed of the runs")] = 0,
    results: ResultsOption = Path("results"),
):
    """Write every notebook's tables from finished runs, as CSV, Markdown and LaTeX. Nothing is trained."""
    report = finished_study(preset, corpus, results, seed)
    written = report.write_all(report.tables, report.write_table)
    said(written, report.study.missing, report.study.tables)


@app.command("figures")
def rebuild_figures(
    preset: PresetOption = "tour",
    corpus: StudyCorpusOption = None,
    seed: Annotated[int, typer.Option(help="seed of the runs")] = 0,
    output: Annotated[Path, typer.Option("--figures", help="folder; theirs is one of the study's own in it")] = Path(
        "figures"
    ),
    results: ResultsOption = Path("results"),
):
    """Draw every notebook's figures from finished runs, as PDF and PNG. Nothing is trained."""
    report = finished_study(preset, corpus, results, seed, output)
    written = report.write_all(report.figures, report.write_figure)
    said(written, report.study.missing, output / report.study.tables.name)


@app.command()
def run(
    stage: Annotated[str | None, typer.Argument(help="a notebook of the notebooks folder, such as 01_baseline")] = None,
    parameters: Annotated[
        Pairs | None, typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="a value for the parameters cell")
    ] = None,
    path: Annotated[Path | None, typer.Option(help="a notebook that lies elsewhere")] = None,
    timeout: Annotated[float | None, typer.Option(min=0, help="seconds a cell may take")] = None,
    results: ResultsOption = Path("results"),
):
    """Execute a notebook with parameters; its prints appear here."""
    from mtlib import notebooks

    if (stage is None) == (path is None):
        raise ConfigurationError("expected the name of a stage, or --path with a notebook's path, one of the two")
    known = notebooks.read_parameters(notebooks.find_stage(path or stage))
    given = pairs(parameters, "-p")
    values = {name: known[name].parse(text) if name in known else text for name, text in given}
    executed = notebooks.run_notebook(path or stage, values, results=results, timeout=timeout)
    typer.echo(f"{executed.stem}: done, see {executed}")


def finished_study(preset: str, corpus: str | None, results: Path, seed: int, figures: Path = Path("figures")):
    """The report of a study that trains nothing; its figures go to the study's own folder in `figures`."""
    from mtlib.study.grids import Study
    from mtlib.study.report import Report

    study = Study(preset, corpus, results, seed=seed, train=False)
    return Report(study, figures / study.tables.name)


def said(written: list[str], missing: list[str], folder: Path) -> None:
    """Say what was written and what was not; what tells of the corpus alone needs no run."""
    for message in missing:
        typer.echo(f"missing: {message}", err=True)
    if missing:
        typer.echo("`make run` trains what is missing", err=True)
    typer.echo(f"{folder}: {', '.join(written)}")


def found_run(reference: str, results: Path, finished: bool = True):
    """The run of that id, name or folder."""
    import mtlib

    folder, store = Path(reference), mtlib.RunStore(results)
    if (folder / "config.json").is_file():
        return mtlib.Run(folder)
    return store.get(reference) if finished else store.find(reference)


def pairs(texts: list[str] | None, option: str) -> list[tuple[str, str]]:
    """`KEY=VALUE` arguments as pairs; raises ConfigurationError for a malformed or repeated one."""
    split = [text.partition("=") for text in texts or []]
    for text, (key, equals, _) in zip(texts or [], split, strict=True):
        if not (key and equals):
            raise ConfigurationError(f"{option} {text}: expected {option} name=value")
        if sum(other == key for other, _, _ in split) > 1:
            raise ConfigurationError(f"{option} {text}: {key!r} is given twice")
    return [(key, value) for key, _, value in split]


def predicted(reference: str, source: str, split: Split, results: Path) -> dict:
    """Predictions of a finished run by task; raises DataError when the corpus has no such split."""
    import mtlib
    from mtlib.data.batches import TokenizedSplit
    from mtlib.training.device import Device
    from mtlib.training.evaluation import predict_all

    run = found_run(reference, results)
    model = run.model()
    corpus = mtlib.load_corpus(source, model.tasks)
    frames = {task: getattr(corpus[task.name], split) for task in model.tasks}
    if missing := [task.name for task, frame in frames.items() if frame is None]:
        raise DataError(f"corpus {source}: expected a {split} split of every task, found none of {missing[0]}")
    splits = {task.name: TokenizedSplit(task, frames[task], model.tokenizer, model.max_tokens) for task in model.tasks}
    device = Device(run.experiment.precision)
    with device.autocast():
        return predict_all(model.to(device.device), splits)


def submission(frame, column: str, as_float: bool) -> str:
    """The course's layout: `id \\t Predicted_Sentiment `, then lines `id , 3 `."""
    values = frame["prediction"].astype(float) if as_float else frame["prediction"]
    lines = [f"{name} , {value} " for name, value in zip(frame["id"], values.tolist(), strict=True)]
    return "\n".join([f"id \t {column} ", *lines, ""])


def print_scores(scores: dict[str, float]) -> None:
    """One line a score."""
    for name, score in scores.items():
        typer.echo(f"{name:10s} {score:.3f}")
