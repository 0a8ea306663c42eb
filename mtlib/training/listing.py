"""The runs of a store as a table, filtered and sorted; and a run removed."""

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mtlib.checking import nearest, printable
from mtlib.errors import ConfigurationError, LockedError, MtlibError, UnknownKindError
from mtlib.experiments import Optimisation
from mtlib.identity import said
from mtlib.tasks import in_order
from mtlib.training.files import storage, sync_folder
from mtlib.training.runs import Run, RunStore

ALWAYS = ["run", "status", "corpus", "encoder", "seed", "steps", "seconds"]
LOSS = "dev_loss"
LAST = ["mean", "evenness", LOSS]
UNREAD = "cannot be read: "
"""What the status of a run that cannot be read begins with."""


def table(store: RunStore, sort: str = "", where: Iterable[tuple[str, str]] = ()) -> pd.DataFrame:
    """One row a run: id, status, corpus, encoder, seed, steps, seconds and scores.

    A run that cannot be read has a row that says why; of one whose penalty, sampler or task is not known here, what is
    known is in its row. where: columns, or fields of the experiment (`sampler`, `penalties`, `smart.weight`), and what
    they have to be: a corpus or an encoder by its name or by where it was found, a run that it starts from or learns
    from by its name; "none" where there is none. sort: a column; scores come largest first, a loss and the rest
    ascending, what has none last.
    Raises ConfigurationError for a column or a field that no run has.
    """
    rows, where = [_row(run) for run in store.all()], list(where)
    fields = {key for row, settings in rows for key in (*row, *settings)}
    if rows and (unknown := [key for key, _ in where if key not in fields]):
        raise ConfigurationError(f"--where {unknown[0]}: no run has it{nearest(unknown[0], sorted(fields))}")
    kept = [row for row, settings in rows if all(_fits(row | settings, *each) for each in where)]
    found = pd.DataFrame(kept)
    correlations = [name for name in found if name.endswith("_r") and name[:-2] in found]
    tasks = in_order(name for name in found if name not in ALWAYS + LAST + correlations)
    found = found[[name for name in [*ALWAYS, *tasks, *LAST, *correlations] if name in found]]
    if sort and len(found):
        if sort not in found:
            raise ConfigurationError(f"--sort {sort}: no run has it{nearest(sort, list(found))}")
        found = found.sort_values(sort, ascending=sort in (*ALWAYS, LOSS), kind="stable", ignore_index=True)
    return found


def remove(store: RunStore, run: Run, force: bool = False) -> int:
    """Delete a run's folder and what says that it is done, and return the bytes that this frees.

    The folder is moved aside first, so that a removal that is killed leaves no run that looks finished: what it leaves
    goes when the next run begins.
    Raises CheckpointError for a folder that is no run's; LockedError while a process trains it, and unless `force` for
    one that is called running, as on another machine; ConfigurationError for a link and, unless `force`, for one that
    others start from or are taught by.
    """
    if run.path.is_symlink():
        raise ConfigurationError(f"{run.path}: expected a run's own folder, found a link to {run.path.resolve()}")
    run.expect_own()
    if run.status == "running" and not force:
        raise LockedError(f"{run.id}: running; if no process trains it any more, --force removes it")
    if not force and (heirs := [other.id for other in store.all() if _needs(other, run)]):
        raise ConfigurationError(
            f"{run.id}: {', '.join(heirs)} started from it or was taught by it; --force removes it all the same"
        )
    with run.lock():
        freed = sum(path.lstat().st_size for path in run.path.rglob("*") if not path.is_dir())
        with storage("remove", run.path):
            for mark in store.folder.parent.glob("plans/*/*.done"):
                if f'"{run.id}"'.encode() in mark.read_bytes():
                    mark.unlink()
            doomed = run.path.with_name(f".tmp-{os.getpid()}-{run.id}")
            run.path.rename(doomed)
            sync_folder(run.path.parent)
            shutil.rmtree(doomed)
    return freed


def _needs(run: Run, parent: Run) -> bool:
    """Whether a run starts from another or, as far as its files tell, has it for a teacher.

    The SHA-256 of what a run with teachers starts from is one of several identities; so its parents' settings are
    compared, and the corpus where both trained on the same tasks.
    """
    try:
        if run.read("config.json").get("weights") == parent.identity:
            return True
        parents = run.experiment.parents if getattr(run.experiment, "teachers", ()) else ()
        if _settings(parent.experiment) not in map(_settings, parents):
            return False
        here, there = run.corpus, parent.corpus
        return here["tasks"] != there["tasks"] or here["fingerprint"] == there["fingerprint"]
    except (MtlibError, LookupError, TypeError):
        return False


def _settings(experiment: Optimisation) -> Any:
    """What an experiment says, but for names: an encoder is called by where it lies."""
    return said(experiment, but=("name", "encoder", "encoder_revision"))


def _row(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's row of the table, and its settings as they are stored."""
    row: dict[str, Any] = {"run": printable(run.id)}
    try:
        content = run.read("config.json")["experiment"]
        names = {"corpus": run.corpus["title"], "encoder": Path(content["encoder"]).name}
        row |= {"status": run.status, **{key: printable(name) for key, name in names.items()}}
        row |= {"seed": content["seed"], "steps": content["epochs"] * content["steps_per_epoch"]}
        if run.complete:
            row |= {"seconds": run.seconds, **run.scores}
        places = {
            "encoder": [content["encoder"]],
            "corpus": [run.corpus.get(key) for key in ("name", "kind", "source")],
        }
        settings = dict(_flat(content)) | {key: [row[key], *found] for key, found in places.items()}
        experiment = run.experiment
        settings["start_from"] = experiment.start_from and experiment.start_from.label
        settings["teachers"] = [each.label for each in getattr(experiment, "teachers", ())]
    except UnknownKindError as error:
        row["status"] = "".join(re.findall(r"unknown \w+ '[^']*'", str(error))[:1]) + ", see --import"
    except (MtlibError, LookupError, TypeError, AttributeError) as error:
        return {"run": row["run"], "status": printable(f"{UNREAD}{str(error).splitlines()[0][:200]}")}, {}
    return row, settings


def _flat(content: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Fields of an experiment: of the sampler, penalties and the like their kinds, and their own as `kind.field`."""
    for key, value in content.items():
        if key in ("sampler", "aggregate"):
            yield key, value["kind"]
            yield from ((f"{key}.{name}", field) for name, field in value.items())
        elif key in ("penalties", "averages"):
            yield key, [each["kind"] for each in value]
            yield from ((f"{each['kind']}.{name}", field) for each in value for name, field in each.items())
        elif key == "losses":
            yield key, [each["kind"] for each in value.values()]
        else:
            yield key, value


def _fits(row: Mapping[str, Any], key: str, text: str) -> bool:
    """Whether a field is what `text` says, or where it leads as a path from the current folder."""
    return _is(row, key, text) or _is(row, key, os.path.abspath(text))


def _is(row: Mapping[str, Any], key: str, text: str) -> bool:
    """Whether a field is what `text` says, the same number written otherwise included; of a list, whether it has it."""
    value = row.get(key)
    if isinstance(value, list):
        return any(_is({key: each}, key, text) for each in value or ["none"])
    try:
        return float(text) == value or str(value) == text
    except ValueError:
        return str(value).lower() == text.lower()
