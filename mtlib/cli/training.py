"""`mtlib train`, `runs`, `rm`, `pack`, `unpack` and `replay`: runs made, listed, removed, passed on, looked into."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mtlib.cli.app import (
    AnyRunArgument,
    ImportOption,
    Pairs,
    ResultsOption,
    RunCorpusOption,
    StudyCorpusOption,
    app,
    found_run,
    pairs,
)
from mtlib.errors import ConfigurationError

if TYPE_CHECKING:
    from mtlib.experiments import Experiment, Optimisation
    from mtlib.presets import Preset

SAID = ("name", "seed", "sampler", "penalties", "start_from", "teachers", "weight", "mode", "radius", "direction")
"""Fields, of penalties too, that the name of a run tells by itself."""


@app.command()
def train(
    experiments: Annotated[list[Path] | None, typer.Argument(help="experiments in JSON, as a plan writes them")] = None,
    preset: Annotated[str | None, typer.Option(help="a preset or a YAML file (default: tour)")] = None,
    corpus: StudyCorpusOption = None,
    changes: Annotated[
        Pairs | None,
        typer.Option("--set", metavar="KEY=VALUE", help="a field, or smart.weight=5 and the like"),
    ] = None,
    results: ResultsOption = Path("results"),
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="continue this run, by id, name or folder, as it was begun")
    ] = None,
    allow_inexact: Annotated[bool, typer.Option(help="continue a run begun elsewhere, though not bit by bit")] = False,
    done: Annotated[bool, typer.Option("--done", hidden=True, help="mark each file's run beside it")] = False,
    imports: ImportOption = None,
) -> None:
    """Train, or continue the identical run that was interrupted, or load the one that is finished."""
    import mtlib
    from mtlib.training.files import write_json

    options = {"allow_inexact": allow_inexact}
    if sum(map(bool, (experiments, preset or changes, resume))) > 1:
        raise ConfigurationError("expected --preset and --set, or experiments, or --resume, one of the three")
    if resume:
        runs = [mtlib.resume(found_run(resume, results, finished=False), corpus, **options)]
    else:
        chosen = mtlib.preset(preset or "tour", corpus or "")
        to_train = [read_file(path) for path in experiments or []] or [changed(chosen, changes, results)]
        needed = [each for experiment in to_train for each in (experiment, *experiment.needs())]
        tasks = list(dict.fromkeys(task for each in needed for task in each.task_names))
        source = mtlib.load_corpus(chosen.corpus, tasks)
        if changes:
            require_there(to_train[0], {key for key, _ in pairs(changes, "--set")}, source, results)
        runs, files = [], experiments or []
        for number, experiment in enumerate(to_train):
            runs.append(mtlib.fit(experiment, source, results, **options))
            if done:
                mark = {"run": runs[-1].id, "identity": runs[-1].identity}
                write_json(files[number].with_suffix(".done"), mark)
    for run in runs:
        shown = ", ".join(f"{name} {score:.3f}" for name, score in run.scores.items())
        typer.echo(f"{run.id}: {shown}; {run.seconds:.0f} s, stored in {run.path}")


def read_file(path: Path) -> "Optimisation":
    """The experiment, or pretraining, in a JSON file."""
    import json

    from mtlib.experiments import read_experiment

    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path}: expected an experiment in JSON ({str(error)[:200]})") from None
    return read_experiment(content, str(path))


def changed(preset: "str | Preset", changes: list[str] | None, results: Path) -> "Experiment":
    """A preset's experiment with `--set KEY=VALUE`, keys as a sweep has them; it is called after what they change.

    The value of `start_from` is a run, by id, name or folder, that of `teachers` one or several, between commas.
    """
    import mtlib
    from mtlib.experiments import safe_label
    from mtlib.presets import Preset, dotted
    from mtlib.workbook.parameters import parse_scalar

    given = pairs(changes, "--set")
    fields = {key: parse_scalar(text) for key, text in given}
    for key, text in given:
        if key == "start_from" and fields[key]:
            fields[key] = found_run(text, results).experiment
        elif key == "teachers" and fields[key]:
            fields[key] = [found_run(name.strip(), results).experiment for name in text.split(",")]
    basis = preset if isinstance(preset, Preset) else mtlib.preset(preset)
    chosen = mtlib.experiment(basis, **dotted(basis.fields({}), fields))
    unsaid = [f"{key}-{text}" for key, text in given if key.rpartition(".")[2] not in SAID]
    if fields.get("name") or not unsaid:
        return chosen
    return chosen.but(name=safe_label("-".join([chosen.label, *unsaid])))


def require_there(experiment: Any, given: set[str], corpus: Any, results: Path) -> None:
    """Raise ConfigurationError where a run that `--set` names is of another corpus, or elsewhere.

    For it would be trained anew, and its weights not be those of the run.
    """
    from mtlib.training.start import find

    named = {"start_from": filter(None, [experiment.start_from]), "teachers": experiment.teachers}
    for key in given & named.keys():
        for each in named[key]:
            if not find(each, corpus, results).complete:
                expected = f"expected a run in {results} that was trained on {corpus.title}"
                raise ConfigurationError(f"--set {key}: {each.label}: {expected}, as this one is to be (--corpus)")


@app.command()
def runs(
    sort: Annotated[str, typer.Option(help="a column: scores come largest first")] = "",
    where: Annotated[
        Pairs | None, typer.Option(metavar="KEY=VALUE", help="a column or setting, such as sampler=annealed")
    ] = None,
    results: ResultsOption = Path("results"),
    imports: ImportOption = None,
) -> None:
    """List the runs there are, with their status and scores."""
    import mtlib

    store = mtlib.RunStore(results)
    table = store.table(sort, pairs(where, "--where"))
    if not len(table):
        typer.echo(f"no run has {', '.join(where)}" if where and store.all() else f"no runs yet in {store.folder}")
        return
    typer.echo(listed(table))


@app.command("rm")
def remove(
    run: AnyRunArgument,
    force: Annotated[bool, typer.Option("--force", help="even if others start from it, or it seems to run")] = False,
    results: ResultsOption = Path("results"),
) -> None:
    """Delete a run: its model, scores and predictions."""
    from mtlib.training import listing

    found = found_run(run, results, finished=False)
    freed = listing.remove(found.store, found, force)
    typer.echo(f"{found.id}: removed, {freed / 1e6:.1f} MB freed")


@app.command()
def pack(
    file: Annotated[Path, typer.Argument(help="the bundle to write, a .tar.xz")],
    runs: Annotated[list[str] | None, typer.Argument(help="finished runs (default: all of them)")] = None,
    results: ResultsOption = Path("results"),
    imports: ImportOption = None,
) -> None:
    """Write finished runs to one file: scores, histories and predictions, without weights and labels."""
    import mtlib
    from mtlib.training.bundles import pack

    every = [run for run in mtlib.RunStore(results).all() if run.complete]
    chosen = list({run.id: run for run in (found_run(name, results) for name in runs)}.values()) if runs else every
    size = pack(chosen, file).stat().st_size
    typer.echo(f"{file}: {len(chosen)} runs, {size / 1e6:.1f} MB")


@app.command()
def unpack(
    file: Annotated[Path, typer.Argument(help="a bundle that `mtlib pack` wrote")],
    corpus: Annotated[str, typer.Option(help='what they were trained on: "sample", "hub", a folder or a YAML file')],
    results: ResultsOption = Path("results"),
    imports: ImportOption = None,
) -> None:
    """Add the runs in a bundle, whose notebooks then need no training; the labels come from the corpus."""
    import mtlib
    from mtlib.training.bundles import tasks_of, unpack

    source = mtlib.load_corpus(corpus, tasks_of(file) or None)
    for run in unpack(file, source, results):
        typer.echo(f"{run.id}: {run.path}")


@app.command()
def replay(
    run: AnyRunArgument,
    step: Annotated[int, typer.Option(min=1, help="the optimizer step, counted from 1")],
    corpus: RunCorpusOption = None,
    results: ResultsOption = Path("results"),
    allow_inexact: Annotated[bool, typer.Option(help="though the bits cannot be those that were trained")] = False,
    imports: ImportOption = None,
) -> None:
    """Print a step of a run once more: its batch, losses and gradients, computed anew to the same bits."""
    found = found_run(run, results, finished=False)
    seen = found.at(step, corpus, allow_inexact=allow_inexact)
    batch = seen.batch.to_string(index=False, max_colwidth=48)
    typer.echo(
        f"{found.id}: step {step} of {found.experiment.steps}, {seen.task}, learning rate {seen.learning_rate:g}\n"
        f"SHA-256 of weights, moments and teachers before it: {seen.fingerprint}\n\n{batch}\n"
    )
    for title, values in (("loss", seen.losses), ("recorded", seen.log), ("norm of the gradient", seen.gradients)):
        if values:
            typer.echo("\n  ".join([f"{title}:", *(f"{name} {value:.6g}" for name, value in values.items())]))


def listed(table: Any, width: int = 120) -> str:
    """The table as text of at most `width` columns: what does not fit is cut from the middle of the runs' ids.

    Runs that cannot be read follow below it, with the reason.
    """
    from mtlib.training.listing import UNREAD

    is_unread = table["status"].str.startswith(UNREAD)
    below = [f"{run}: {status}" for run, status in table.loc[is_unread, ["run", "status"]].to_numpy()]
    table = table[~is_unread].dropna(axis="columns", how="all")
    if not len(table):
        return "\n".join(below)
    digits = {"seconds": "{:.0f}", "seed": "{:.0f}", "steps": "{:.0f}"}
    shown = table.drop(columns=[name for name in table if str(name).endswith("_r")])
    for name in shown.select_dtypes("number"):
        style = digits.get(name, "{:.3f}")
        shown[name] = ["" if value != value else style.format(value) for value in shown[name]]
    shown = shown.fillna("")
    room = width - sum(max(map(len, [name, *shown[name]])) + 1 for name in shown if name != "run")
    shown["run"] = [_cut(name, max(room, 24)) for name in shown["run"]]
    return "\n".join([*(line.rstrip() for line in shown.to_string(index=False).splitlines()), *below])


def _cut(text: str, length: int) -> str:
    half = length // 2
    return text if len(text) <= length else f"{text[: length - half - 1]}…{text[-half:]}"
