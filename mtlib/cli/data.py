"""`mtlib data`: what a corpus holds, and a corpus made of a CSV file of one's own."""

import os
from pathlib import Path
from typing import Annotated

import typer

from mtlib.cli.app import Commands, ImportOption, app
from mtlib.errors import ConfigurationError

data_app = typer.Typer(cls=Commands, no_args_is_help=True, help="Look at a corpus, or describe one of your own.")
app.add_typer(data_app, name="data")


@data_app.command("check")
def check_data(
    folder: Annotated[str, typer.Argument(help='"sample", "hub", a folder of CSV files, or a YAML file')],
    encoder: Annotated[str, typer.Option(help="whose tokens are counted")] = "minilm",
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK", help="one to check, again for more (default: sst, qqp and sts; of YAML, all)"),
    ] = None,
    imports: ImportOption = None,
) -> None:
    """Print counts, label balance, token lengths, leakage, and every fault with file and line."""
    from mtlib.data.report import check
    from mtlib.encoders import find_encoder

    _, tokenizer = find_encoder(encoder).load()
    report = check(folder, task or None, tokenizer)
    typer.echo(str(report))
    raise typer.Exit(report.exit_code)


@data_app.command("describe")
def describe(
    file: Annotated[Path, typer.Argument(help="a CSV file with a header; the separator is found")],
    task: Annotated[str, typer.Option(help="what the task is to be called (default: as the file)")] = "",
    text: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="the text's; of pairs, given twice")] = None,
    label: Annotated[str, typer.Option(metavar="COLUMN", help="the label's")] = "",
    dev: Annotated[str, typer.Option(metavar="FILE", help="a dev split; else it is taken from the file")] = "",
    test: Annotated[str, typer.Option(metavar="FILE", help="a test split; else as dev")] = "",
    base: Annotated[str, typer.Option(help='other tasks beside it: "sample", "hub" or a folder')] = "",
    output: Annotated[Path | None, typer.Option(help="the YAML file (default: TASK.yaml)")] = None,
) -> None:
    """Make a task of a CSV file: find separator, columns and labels, and write a YAML file that is a corpus."""
    from mtlib.data.plain import SEPARATORS, read_plain
    from mtlib.own_corpus import as_yaml, described
    from mtlib.training.files import write_atomic

    task = task or named_after(file)
    output = output or Path(f"{task}.yaml")
    require_yaml(output)
    if file.is_fifo():
        raise ConfigurationError(f"{file}: expected a file, which the YAML file can name, found a pipe")
    separator = read_plain(file).separator
    typer.echo(f"{file.name}: separated by {separator} ({SEPARATORS[separator]!r})")
    about = described(task, file.absolute(), text or [], label, **{"dev": dev, "test": test})
    folder = output.absolute().parent
    about = about.model_copy(
        update={"file": relative(file, folder)}
        | {part: relative(Path(name), folder) for part, name in (("dev", dev), ("test", test)) if name}
    )
    write_atomic(output, as_yaml({task: about}, based(base, folder)).encode())
    try:
        typer.echo(summary(output, task))
    except BaseException:  # an interrupt too
        output.unlink()
        raise
    typer.echo(f"written: {output}; next: mtlib train --preset tour --corpus {output}")


def named_after(file: Path) -> str:
    """The file's name as a task's; raises ConfigurationError where it can be none."""
    from mtlib.tasks import NAME

    if not NAME.fullmatch(file.stem):
        expected = "letters, digits and underscores, beginning with a letter"
        raise ConfigurationError(f"task name {file.stem[:60]!r}: expected {expected}; say another with --task NAME")
    return file.stem


def require_yaml(output: Path) -> None:
    """Raise ConfigurationError for a name that is none of a YAML file, of one that is there, or in a run's folder."""
    from mtlib.training.files import outside_runs
    from mtlib.yaml_files import ENDINGS, is_yaml

    if not is_yaml(output):
        raise ConfigurationError(f"--output {output}: expected a name that ends in {' or '.join(ENDINGS)}")
    outside_runs(output.absolute().parent)
    if output.exists():
        raise ConfigurationError(f"{output}: there is one already; --output names another")


def based(base: str, folder: Path) -> str:
    """A corpus to stand beside, from `folder`: a known one by its name, a folder by its path."""
    from mtlib.data.corpus import TITLES

    if not base or base in TITLES:
        return base
    path = relative(Path(base), folder)
    return os.path.join(".", path) if path in TITLES else path


def relative(path: Path, folder: Path) -> str:
    """A path from `folder`."""
    return os.path.relpath(path.absolute(), folder)


def summary(source: Path, name: str) -> str:
    """What a corpus says of one task: its kind, columns, classes and splits."""
    import mtlib

    corpus = mtlib.load_corpus(source)
    task = next(task for task in corpus.tasks if task.name == name)
    scale = f"numbers from {task.low:g} to {task.high:g}" if task.kind == "regression" else ""
    classes = ", ".join(f"{number} {word}" for number, word in enumerate(task.class_names))
    sizes = ", ".join(f"{len(frame)} {part}" for part, frame in corpus[name].items())
    return (
        f"task {name}: {task.kind} of {' and '.join(task.columns)}; "
        f"{task.label_column}: {scale or classes}\nsplits: {sizes}"
    )
