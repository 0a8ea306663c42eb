"""The `mtlib` command: data, training, prediction, the pipeline and its notebooks."""

import os
import signal
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from mtlib.errors import ConfigurationError, DataError, MtlibError
from mtlib.workbook.processes import SCHEDULER, end_with

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

RunCorpusOption = Annotated[
    str | None, typer.Option("--corpus", help='"sample", "hub" or a folder (default: what the run was trained on)')
]
ResultsOption = Annotated[Path, typer.Option("--results", help="where runs and notebooks are kept")]
PresetOption = Annotated[str, typer.Option(help="smoke, tour, afternoon, laptop, base, paper or a YAML file")]
StudyCorpusOption = Annotated[
    str | None, typer.Option("--corpus", help='"sample", "hub" or a folder (default: the preset\'s)')
]
FiguresOption = Annotated[Path, typer.Option("--figures", help="where figures are written, a folder a study")]
JobsOption = Annotated[int, typer.Option(min=0, help="jobs at the same time; 0: as many as there is room for")]
ThreadsOption = Annotated[int, typer.Option(min=0, help="cores of a job, on which results depend; 0: by the machine")]
ProfileOption = Annotated[str, typer.Option(help="where jobs run: default (here), slurm, a folder of profiles")]
MoreArgument = Annotated[list[str] | None, typer.Argument(help="options of Snakemake, behind --")]
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
    experiments: Annotated[list[Path] | None, typer.Argument(help="experiments in JSON, as a plan writes them")] = None,
    preset: Annotated[str | None, typer.Option(help="a preset or a YAML file (default: tour)")] = None,
    corpus: StudyCorpusOption = None,
    changes: Annotated[Pairs | None, typer.Option("--set", metavar="KEY=VALUE", help="an experiment field")] = None,
    results: ResultsOption = Path("results"),
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="continue this run, by id, name or folder, as it was begun")
    ] = None,
    allow_inexact: Annotated[bool, typer.Option(help="continue a run begun elsewhere, though not bit by bit")] = False,
    done: Annotated[bool, typer.Option("--done", hidden=True, help="mark each file's run beside it")] = False,
):
    """Train, or continue the identical run that was interrupted, or load the one that is finished."""
    import mtlib
    from mtlib.study.model_card import ensure_card
    from mtlib.training.files import write_json

    options = {"allow_inexact": allow_inexact}
    if sum(map(bool, (experiments, preset or changes, resume))) > 1:
        raise ConfigurationError("expected --preset and --set, or experiments, or --resume, one of the three")
    if resume:
        runs = [mtlib.resume(found_run(resume, results, finished=False), corpus, **options)]
    else:
        to_train = [read_file(path) for path in experiments or []] or [changed(preset or "tour", changes, results)]
        tasks = list(dict.fromkeys(task for experiment in to_train for task in experiment.task_names))
        source = mtlib.load_corpus(corpus or mtlib.preset(preset or "tour").corpus, tasks)
        runs = []
        for number, experiment in enumerate(to_train):
            runs.append(mtlib.fit(experiment, source, results, **options))
            if done:
                mark = {"run": runs[-1].id, "identity": runs[-1].identity}
                write_json(experiments[number].with_suffix(".done"), mark)
    for run in runs:
        ensure_card(run)
        shown = ", ".join(f"{name} {score:.3f}" for name, score in run.scores.items())
        typer.echo(f"{run.id}: {shown}; {run.seconds:.0f} s, stored in {run.path}")


def read_file(path: Path):
    """The experiment, or pretraining, in a JSON file."""
    import json

    from mtlib.experiments import read_experiment

    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path}: expected an experiment in JSON ({str(error)[:200]})") from None
    return read_experiment(content, str(path))


def changed(preset: str, changes: list[str] | None, results: Path):
    """A preset's experiment with `--set KEY=VALUE`; `start_from` is a run, by id, name or folder."""
    import mtlib
    from mtlib.workbook.parameters import parse_scalar

    fields = {key: parse_scalar(text) for key, text in pairs(changes, "--set")}
    if start := fields.get("start_from"):
        fields["start_from"] = found_run(str(start), results).experiment
    return mtlib.experiment(preset, **fields)


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
):
    """Train every run that the notebooks ask for and execute them, with Snakemake, in the project's folder."""
    from mtlib.workbook.pipeline import prepare, require_project, snakemake
    from mtlib.workbook.plan import Plan

    require_project(profile)
    options = f"PRESET={preset}" + (f" CORPUS={corpus}" if corpus else "")
    plan = prepare(goal, Plan(preset, corpus or ""), results, figures, f"make resume {options}")
    raise typer.Exit(snakemake(goal, plan, jobs, threads, *(more or []), profile=profile))


@app.command(hidden=True)
def collect(executed: Path, folder: Path):
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
):
    """Train a grid of your own through the pipeline, and compare its settings in a notebook."""
    from mtlib.workbook import sweeps
    from mtlib.workbook.pipeline import prepare, require_project, snakemake
    from mtlib.workbook.plan import Plan

    require_project(profile)
    grid = sweeps.read(file)
    plan = Plan(grid.preset, corpus or grid.corpus, file)
    again = " ".join(["mtlib", "sweep", file, *(["--corpus", corpus] if corpus else []), "--resume"])
    goal = Goal.RESUME if resume else Goal.RUN
    raise typer.Exit(snakemake(goal, prepare(goal, plan, results, figures, again), jobs, threads, profile=profile))


@app.command()
def evaluate(
    run: RunArgument,
    corpus: RunCorpusOption = None,
    split: Split = Split.DEV,
    results: ResultsOption = Path("results"),
):
    """Score a finished run on a labelled split, of its own corpus unless told."""
    from mtlib.training.evaluation import scores

    frames = predicted(run, corpus, split, results)
    if unlabelled := [name for name, frame in frames.items() if "label" not in frame]:
        raise DataError(f"{split}: expected labels to score with, found none for {unlabelled[0]}")
    for name, score in scores(frames).items():
        typer.echo(f"{name:10s} {score:.3f}")


@app.command()
def predict(
    run: RunArgument,
    corpus: RunCorpusOption = None,
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
):
    """Execute a notebook with parameters; its prints appear here. With `-p train=false` nothing is trained."""
    from mtlib.workbook import notebooks
    from mtlib.workbook import parameters as known_parameters

    if (stage is None) == (path is None):
        raise ConfigurationError("expected the name of a stage, or --path with a notebook's path, one of the two")
    known = known_parameters.read_parameters(notebooks.find_stage(path or stage))
    given = pairs(parameters, "-p")
    values = {name: known[name].parse(text) if name in known else text for name, text in given}
    executed = notebooks.run_notebook(path or stage, values, results=results, figures=figures, timeout=timeout)
    typer.echo(f"{executed.stem}: done, see {executed}")


def found_run(reference: str, results: Path, finished: bool = True):
    """The run of that id, name or folder."""
    import mtlib
    from mtlib.errors import CheckpointError

    folder, store = Path(reference), mtlib.RunStore(results)
    if os.path.isfile(folder / "config.json"):
        run = mtlib.Run(folder)
        if finished and not run.complete:
            raise CheckpointError(f"{run.path}: expected a finished run, found status {run.status!r}")
        return run
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


def predicted(reference: str, source: str | None, split: Split, results: Path) -> dict:
    """Predictions of a finished run by task; raises DataError when the corpus has no such split."""
    from mtlib.data.batches import TokenizedSplit
    from mtlib.device import Device
    from mtlib.training.evaluation import predict_all
    from mtlib.training.fit import corpus_of

    run = found_run(reference, results)
    corpus, model = corpus_of(run, source), run.model()
    typer.echo(f"{run.id} on {corpus.title}, {split}", err=True)
    if corpus.fingerprint != run.corpus["fingerprint"]:
        warnings.warn(f"{corpus.title} is not what the run was trained on ({run.corpus['title']})", stacklevel=2)
    frames = {task: getattr(corpus[task.name], split) for task in model.tasks}
    if missing := [task.name for task, frame in frames.items() if frame is None]:
        raise DataError(f"{corpus.title}: expected a {split} split of every task, found none of {missing[0]}")
    splits = {task.name: TokenizedSplit(task, frames[task], model.tokenizer, model.max_tokens) for task in model.tasks}
    device = Device(run.experiment.precision)
    with device.autocast():
        return predict_all(model.to(device.device), splits)


def submission(frame, column: str, as_float: bool) -> str:
    """The course's layout: `id \\t Predicted_Sentiment `, then lines `id , 3 `."""
    values = frame["prediction"].astype(float) if as_float else frame["prediction"]
    lines = [f"{name} , {value} " for name, value in zip(frame["id"], values.tolist(), strict=True)]
    return "\n".join([f"id \t {column} ", *lines, ""])
