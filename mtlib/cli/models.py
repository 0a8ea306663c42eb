"""`mtlib evaluate`, `predict`, `card` and `export`: what a finished run's model is worth, says and is."""

import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtlib.cli.app import ImportOption, ResultsOption, RunArgument, RunCorpusOption, Split, app, found_run
from mtlib.cli.texts import answer
from mtlib.errors import CheckpointError, ConfigurationError, DataError

if TYPE_CHECKING:
    from mtlib import MultitaskModel, Run


@app.command()
def evaluate(
    run: RunArgument,
    corpus: RunCorpusOption = None,
    split: Split = Split.DEV,
    results: ResultsOption = Path("results"),
    imports: ImportOption = None,
) -> None:
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
    texts: Annotated[list[str] | None, typer.Argument(help="texts for --task, of pairs two by two; -: stdin")] = None,
    task: Annotated[str | None, typer.Option(help="answer texts, as CSV on stdout, instead of a split")] = None,
    file: Annotated[Path | None, typer.Option("--from", metavar="FILE", help="a CSV file of texts for --task")] = None,
    text: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="of FILE: the text's; of pairs two")] = None,
    calibrated: Annotated[bool, typer.Option(help="probabilities at a temperature fitted on half of dev")] = False,
    corpus: RunCorpusOption = None,
    split: Annotated[Split | None, typer.Option(help="what is predicted without --task (default: test)")] = None,
    output: Annotated[Path | None, typer.Option(help="folder of its predictions (default: predictions)")] = None,
    results: ResultsOption = Path("results"),
    imports: ImportOption = None,
) -> None:
    """Answer texts with a finished run's model; or write its predictions of a split, as CSV and for submission.

    mtlib predict RUN --task sst "A lovely film."   (or --from reviews.csv, or - and a text a line on stdin)

    mtlib predict RUN   writes SPLIT-TASK.csv with probabilities, and the CS224N submission files.
    """
    from mtlib.study.submissions import FILES, submission
    from mtlib.training.files import make_folder, outside_runs, storage, write_atomic

    if task is not None:
        if corpus or split or output:
            raise ConfigurationError("--corpus, --split and --output are of a split; answers to texts go to stdout")
        if text and not file:
            raise ConfigurationError("--text names columns of a file: expected --from FILE too")
        return answer(_answering(run, results), task, texts or [], file, text or [], calibrated)
    if texts or file or text or calibrated:
        raise ConfigurationError("texts, --from, --text and --calibrated need --task TASK")
    split, output = split or Split.TEST, outside_runs(output or Path("predictions"))
    frames = predicted(run, corpus, split, results)
    with storage("create", output):
        make_folder(output.absolute())
    for task, frame in frames.items():
        files = {f"{split}-{task}.csv": frame.to_csv(index=False, lineterminator="\n")}
        if task in FILES:
            files[f"{FILES[task].name}-{split}-output.csv"] = submission(frame, task)
        for name, written in files.items():
            write_atomic(output / name, written.encode())
            typer.echo(f"{output / name}: {len(frame)} predictions")


@app.command()
def card(
    run: RunArgument,
    results: ResultsOption = Path("results"),
    imports: ImportOption = None,
) -> None:
    """Write the model card of a finished run, README.md in its model folder, anew."""
    from mtlib.storage import expect_folder
    from mtlib.study.model_card import write_card

    found = found_run(run, results)
    expect_folder(found.path / "model")
    typer.echo(write_card(found))


@app.command()
def export(
    run: RunArgument,
    output: Annotated[Path | None, typer.Option(help="folder to write (default: RUN-TASK or RUN-onnx)")] = None,
    task: Annotated[str | None, typer.Option(help="one task, as transformers' own sequence classifier")] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="all tasks, as ONNX")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="as ONNX, in 8 bits too")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="print size, speed and scores of every form")] = False,
    corpus: RunCorpusOption = None,
    results: ResultsOption = Path("results"),
    imports: ImportOption = None,
) -> None:
    """Write a finished run's model for use without mtlib, or compare the forms that it can be used in."""
    if sum([task is not None, onnx or int8, compare]) != 1:
        raise ConfigurationError("expected --task TASK, --onnx (with --int8), or --compare, one of the three")
    if corpus and not compare or output and compare:
        raise ConfigurationError("--corpus is of --compare, which prints and has no --output")
    found = found_run(run, results) if onnx or int8 else _answering(run, results)
    if compare:
        return typer.echo(compared(found, corpus))
    model = calibrated_where_it_can_be(found)
    if task is not None:
        written = model.export(task, output or Path(f"{found.id}-{task}"))
    else:
        written = model.export_onnx(output or Path(f"{found.id}-onnx"), int8)
    size = sum(path.stat().st_size for path in ([written] if written.is_file() else written.iterdir()))
    typer.echo(f"{written}: {size / 1e6:.1f} MB")


def calibrated_where_it_can_be(run: "Run") -> "MultitaskModel":
    """The run's model with its temperatures; as it is where the run has no dev predictions to fit them on."""
    from mtlib.study.calibration import calibrated

    return calibrated(run) if run.experiment.task_names and hasattr(run.experiment, "tasks") else run.model()


def compared(run: "Run", source: str | None) -> str:
    """The forms' table, on the reporting half of dev of the run's own corpus unless told."""
    from mtlib.study.formats import table
    from mtlib.training.fit import corpus_of

    corpus = corpus_of(run, source)
    typer.echo(f"{run.id} on {corpus.title}, reporting half of dev", err=True)
    return table(run.model(), corpus).to_string(index=False, float_format=lambda value: f"{value:.3f}", na_rep="")


def _answering(reference: str, results: Path) -> "Run":
    """The finished run that `found_run` finds; raises CheckpointError for a pretraining, whose heads are untrained."""
    run = found_run(reference, results)
    if not hasattr(run.experiment, "tasks"):
        trains = "a pretraining trains the encoder alone, and its heads know nothing"
        raise CheckpointError(f"{run.path}: {trains}: expected a run of the tasks, such as one that started from it")
    return run


def predicted(reference: str, source: str | None, split: Split, results: Path) -> dict:
    """Predictions of a finished run by task; raises DataError when the corpus has no such split."""
    from mtlib.data.batches import TokenizedSplit
    from mtlib.device import Device
    from mtlib.prediction import predictions
    from mtlib.training.evaluation import predict_all
    from mtlib.training.fit import corpus_of
    from mtlib.training.progress import kind

    run = _answering(reference, results)
    device = Device(run.experiment.precision)
    corpus, model = corpus_of(run, source), run.model()
    typer.echo(f"{run.id} on {corpus.title}, {split}", err=True)
    if corpus.fingerprint != run.corpus["fingerprint"]:
        warnings.warn(f"{corpus.title} is not what the run was trained on ({run.corpus['title']})", stacklevel=2)
    corpus.expect_labels_of(model.tasks)
    frames = {task: getattr(corpus[task.name], split) for task in model.tasks}
    if missing := [task.name for task, frame in frames.items() if frame is None]:
        raise DataError(f"{corpus.title}: expected a {split} split of every task, found none of {missing[0]}")
    splits = {task.name: TokenizedSplit(task, frames[task], model.tokenizer, model.max_tokens) for task in model.tasks}
    shown = partial(predictions, progress=kind("auto") == "bar")
    with device.autocast():
        return predict_all(model.to(device.device), splits, shown)
