"""The command itself, the options that several commands share, and how a run is named."""

import os
import signal
import sys
import warnings
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from mtlib import __version__
from mtlib.checking import shortened
from mtlib.errors import ConfigurationError, MtlibError, StorageError
from mtlib.extensions import import_inherited, import_modules
from mtlib.workbook.processes import SCHEDULER, end_with

if TYPE_CHECKING:
    from mtlib import Run


class Commands(TyperGroup):
    """Commands whose errors of mtlib and of the system become one message on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        for stream in (sys.stdout, sys.stderr):  # a file's name need not be text that the terminal can show
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except MtlibError as error:
            typer.echo(f"mtlib: {error}", err=True)
            raise typer.Exit(error.exit_code) from None
        except BrokenPipeError:
            raise  # nobody reads any more: no message either
        except OSError as error:
            place = error.filename or _gone()
            typer.echo(f"mtlib: {place}{': ' if place else ''}{error.strerror or error}", err=True)
            _forget_stdout()
            raise typer.Exit(StorageError.exit_code) from None


def _forget_stdout() -> None:
    """Where stdout takes nothing, what it still holds goes nowhere: Python's flush at the end would change the code."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _gone() -> str:
    """What an error without a file's name is about: the current folder, if that is gone; else its text has to do."""
    try:
        os.getcwd()
    except OSError:
        return "the current folder"
    return ""


class Split(StrEnum):
    """A split of a corpus."""

    TRAIN = "train"
    DEV = "dev"
    TEST = "test"


app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

RunCorpusOption = Annotated[
    str | None, typer.Option("--corpus", help='"sample", "hub", a folder or a YAML file (default: the run\'s own)')
]
ResultsOption = Annotated[Path, typer.Option("--results", help="where runs and notebooks are kept")]
PresetOption = Annotated[str, typer.Option(help="smoke, tour, afternoon, gpu, laptop, base, paper ... or a YAML file")]
StudyCorpusOption = Annotated[
    str | None, typer.Option("--corpus", help='"sample", "hub", a folder or a YAML file (default: the preset\'s)')
]
FiguresOption = Annotated[Path, typer.Option("--figures", help="where figures are written, a folder a study")]
JobsOption = Annotated[int, typer.Option(min=0, help="jobs at the same time; 0: as many as there is room for")]
ThreadsOption = Annotated[int, typer.Option(min=0, help="cores of a job, on which results depend; 0: by the machine")]
ProfileOption = Annotated[str, typer.Option(help="where jobs run: default (here), slurm, a folder of profiles")]
MoreArgument = Annotated[list[str] | None, typer.Argument(help="options of Snakemake, behind --")]
ImportOption = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="MODULE",
        callback=lambda names: import_modules(names or []),
        is_eager=True,
        expose_value=False,
        help="a module, or .py file, with tasks, penalties or samplers of your own; may be given again",
    ),
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="a finished run: id, name, digits of its id, folder")]
AnyRunArgument = Annotated[str, typer.Argument(metavar="RUN", help="a run: id, name, digits of its id, or folder")]
Pairs = list[str]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"mtlib {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print it")] = False,
) -> None:
    """One encoder, many tasks."""
    import_inherited()
    if scheduler := os.environ.pop(SCHEDULER, None):
        if not scheduler.isdecimal():
            raise ConfigurationError(f"{SCHEDULER}: expected the number of a process, found {shortened(scheduler)}")
        end_with(int(scheduler), signal.SIGTERM)
    warnings.showwarning = lambda message, *_: typer.echo(f"warning: {message}", err=True)


def found_run(reference: str, results: Path, finished: bool = True) -> "Run":
    """The run of that id, name or folder.

    Raises CheckpointError for a folder that is no run's or, if it has to be finished, a run that is not; what
    `RunStore.find` raises.
    """
    import mtlib
    from mtlib.errors import CheckpointError

    folder, store = Path(reference), mtlib.RunStore(results)
    if os.path.isfile(folder / "config.json"):
        run = mtlib.Run(folder if folder.is_symlink() else folder.resolve())
        run.expect_own()
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
