"""Finished runs in one file to pass on: scores, histories and predictions, without weights and without the corpus."""

import hashlib
import io
import json
import lzma
import platform
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pandas as pd

from mtlib.data.corpus import Corpus
from mtlib.errors import CheckpointError, ConfigurationError
from mtlib.training.files import (
    LONGEST_ID,
    encode_json,
    inside,
    make_folder,
    outside_runs,
    safe_name,
    storage,
    write_atomic,
)
from mtlib.training.runs import Run, RunStore
from mtlib.training.sealed import STATUS, sealed_files

ALWAYS = {"config.json", "history.csv", "scores.json"}
"""What the status of every finished run seals."""

ENVIRONMENT = "environment.json"
BESIDE = (ENVIRONMENT, STATUS)
"""Files of a bundled run that its status did not seal when it finished."""

SEALED = re.compile(r"(config|scores)\.json|(history|conflicts)\.csv|predictions/\w+-[\w.-]+\.csv")
"""Files that a run's status seals."""

LARGEST, ALL = 2**28, 2**30
"""Bytes of the largest file in a bundle, and of all of them."""

ENDING, MAGIC = ".tar.xz", b"\xfd7zXZ\0"
"""How the name of a bundle ends, and how its content begins."""

Files = dict[str, bytes]
"""A run's files by their names in its folder."""


def pack(runs: Iterable[Run], path: Path | str) -> Path:
    """Write finished runs to `path`, a .tar.xz, without weights and without labels; the same bytes for the same runs.

    Nor does it say on which machine, and in which folder, they were trained.

    Like files of different runs lie side by side, so that ids, which are the same in all, take room once.
    Raises ConfigurationError for no runs, for runs that no corpus can open together or whose folder has another name
    than theirs, and for a path that is no bundle's; CheckpointError for a run that is not finished, whose files changed
    since it was, or that finished before files were sealed.
    """
    _expect_bundle(Path(path))
    every = list(runs)
    found = {run.id: _stored(run) for run in every}
    if not found:
        raise ConfigurationError(f"{path}: expected finished runs to pack, found none; --results says where they are")
    _expect_together(every)
    members = sorted((name, run) for run, files in found.items() for name in files)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz", preset=9) as archive:
        for name, run in members:
            data = found[run][name]
            member = tarfile.TarInfo(f"{run}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    write_atomic(path, packed.getvalue())
    return Path(path)


def _expect_bundle(path: Path) -> None:
    """Raise ConfigurationError for a path at which anything but a bundle would be replaced."""
    outside_runs(path.absolute().parent)
    if not path.name.endswith(ENDING):
        raise ConfigurationError(f"{path}: expected a name that ends in {ENDING}")
    with storage("read", path):
        if path.exists() and not (path.is_file() and _beginning(path) == MAGIC):
            raise ConfigurationError(f"{path}: expected a new file or an earlier bundle, found something else")


def _beginning(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(len(MAGIC))


def _expect_together(runs: Iterable[Run]) -> None:
    """Raise ConfigurationError for runs that `unpack` could not bring back from one bundle."""
    seen: dict[str, Run] = {}
    for run in runs:
        if not run.id.endswith(f"-{run.identity[:8]}"):
            raise ConfigurationError(f"{run.path}: expected a folder NAME-{run.identity[:8]}: it was renamed or copied")
        tasks, fingerprint = ", ".join(map(str, run.corpus.get("tasks", []))), run.corpus["fingerprint"]
        other = seen.setdefault(tasks, run)
        if other.corpus["fingerprint"] != fingerprint:
            different = f"{other.id} and {run.id} were trained on different corpora"
            raise ConfigurationError(f"{different} of {tasks}: pack them in two bundles")


def unpack(path: Path | str, corpus: Corpus, results: Path | str = "results") -> list[Run]:
    """The runs in a bundle, added to `<results>/runs` with the labels of `corpus`; those that are there stay.

    Histories, scores and predictions have the SHA-256 that was sealed when the run finished, or nothing of the bundle
    is written. A run's corpus is from then on where `corpus` is.
    Raises CheckpointError for a file that is no bundle or is damaged, for another corpus than the runs were trained on,
    and where one of them was begun here and is not finished.
    """
    store = RunStore(results)
    found = {name: _restored(name, files, corpus) for name, files in _read(Path(path)).items()}
    runs = {
        name: store.open(name.rpartition("-")[0], json.loads(found[name]["config.json"])["identity"]) for name in found
    }
    for run in runs.values():
        _expect_not_begun(run)
    return [_added(runs[name], files) for name, files in found.items()]


def tasks_of(path: Path | str) -> list[str]:
    """Names of the tasks that the runs in a bundle were trained on: what `unpack` needs of a corpus.

    Raises CheckpointError for a file that is no bundle, or of runs that do not say.
    """
    named: dict[str, None] = {}
    for name, files in _read(Path(path)).items():
        try:
            named |= dict.fromkeys(map(str, json.loads(files["config.json"])["corpus"]["tasks"]))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{name}: expected a run that names its tasks ({str(error)[:200]})") from error
    return list(named)


def has_weights(run: Run) -> bool:
    """Whether the run's model is there, which it is not after `unpack`."""
    return (run.path / "model").is_dir()


def _stored(run: Run) -> Files:
    if not run.complete:
        raise CheckpointError(f"{run.path}: expected a finished run, found status {run.status!r}")
    if not ALWAYS <= run.sealed.keys():
        missing = ", ".join(sorted(ALWAYS - run.sealed.keys()))
        raise CheckpointError(
            f"{run.path / STATUS}: files: expected the SHA-256 of what is packed, found none of {missing}: a run that "
            "finished before files were sealed cannot be packed; remove it and train it again"
        )
    if odd := [name for name in run.sealed if name not in BESIDE and not SEALED.fullmatch(name)]:
        raise CheckpointError(f"{run.path / STATUS}: files: {odd[0][:200]!r} is no file that a run seals")
    with storage("read", run.path):
        files = {name: run.file(name) for name in (*BESIDE, *run.sealed)}
    files = {name: _without_labels(data) if "/" in name else data for name, data in files.items()}
    return _at(files, source="", host="")


def _at(files: Files, source: str, host: str) -> Files:
    """A run's files as of this machine, with the corpus in the folder `source`; its environment is sealed too."""
    config, status = (json.loads(files[name]) for name in ("config.json", STATUS))
    config["corpus"]["source"], status["host"] = source, host
    status.pop("started", None)
    encoded = encode_json(config)
    status["files"]["config.json"] = hashlib.sha256(encoded).hexdigest()
    status["files"][ENVIRONMENT] = hashlib.sha256(files[ENVIRONMENT]).hexdigest()
    return files | {"config.json": encoded, STATUS: encode_json(status)}


def _read(path: Path) -> dict[str, Files]:
    """The files of each run in a bundle, by its id; names that could lead anywhere else are refused."""
    found: dict[str, Files] = {}
    size = 0
    try:
        with storage("read", path), lzma.open(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                run, _, name = member.name.partition("/")
                size += member.size
                if not (member.isfile() and member.size <= LARGEST and (name in BESIDE or SEALED.fullmatch(name))):
                    raise CheckpointError(f"{path}: {member.name[:200]!r}: not a file of a bundled run")
                if size > ALL:
                    raise CheckpointError(f"{path}: expected at most {ALL} bytes in all")
                files, content = found.setdefault(safe_name(run, LONGEST_ID), {}), archive.extractfile(member)
                if name in files:
                    raise CheckpointError(f"{path}: {member.name!r} is there twice")
                files[name] = content.read() if content else b""
            while stream.read(2**20):
                pass  # a bundle that is cut off ends before its end
    except (tarfile.TarError, lzma.LZMAError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path}: expected runs as `mtlib pack` writes them ({error})") from error
    return found


def _restored(name: str, files: Files, corpus: Corpus) -> Files:
    """A run's files as they were stored, predictions with their labels, and with this machine and corpus' folder."""
    try:
        config, status, environment = (json.loads(files[each]) for each in ("config.json", STATUS, "environment.json"))
        identity, sealed, fingerprint = config["identity"], sealed_files(status, name), config["corpus"]["fingerprint"]
        tasks = [str(task) for task in config["corpus"]["tasks"]]
        whole = status["status"] == "complete" and {*sealed, *BESIDE} == {*files} and name.endswith(identity[:8])
        whole = whole and isinstance(status["pid"], int) and isinstance(status["step"], int)
        whole = whole and isinstance(status["seal"], str) and isinstance(environment, dict)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{name}: expected the files of a finished run ({str(error)[:200]})") from error
    if not whole:
        raise CheckpointError(f"{name}: expected the files of a finished run, found {sorted(files)}")
    for each, data in _labelled(name, files, sealed, _part(name, tasks, fingerprint, corpus)):
        if hashlib.sha256(data).hexdigest() != sealed[each]:
            raise CheckpointError(f"{name}/{each}: not what was sealed when the run finished")
        files[each] = data
    return _at(files, corpus.source, platform.node())


def _expect_not_begun(run: Run) -> None:
    if not run.complete and run.status != "new":
        raise CheckpointError(f"{run.path}: begun here, {run.status}; finish it, or remove it with `mtlib rm`")


def _added(run: Run, files: Files) -> Run:
    with run.lock():
        _expect_not_begun(run)
        run.sweep()
        for each in [] if run.complete else sorted(files, key=lambda each: (each == STATUS, each)):
            place = inside(run.path.parent, run.path / each)
            with storage("create", place.parent):
                make_folder(place.parent)
            write_atomic(place, files[each])
    return run


def _part(name: str, tasks: list[str], fingerprint: str, corpus: Corpus) -> Corpus:
    """The run's tasks of `corpus`, in the run's order, as its corpus' SHA-256 has them."""
    part = corpus.only(tasks) if {*tasks} <= {*corpus} else None
    if part is None or part.fingerprint != fingerprint:
        found = f"{part.fingerprint} in {corpus.name}" if part else f"{corpus.name} with {', '.join(corpus)}"
        raise CheckpointError(
            f"{name}: trained on another corpus: expected SHA-256 {fingerprint} of {', '.join(tasks)}, found {found}"
        )
    return part


def _labelled(name: str, files: Files, sealed: Mapping[str, str], corpus: Corpus) -> Iterator[tuple[str, bytes]]:
    """The sealed files as they were stored; predictions get their labels back."""
    for each, data in files.items():
        if each.startswith("predictions/"):
            split, _, task = Path(each).stem.partition("-")
            try:
                yield each, _with_labels(data, getattr(corpus[task], "test" if split == "test" else "dev"))
            except (KeyError, TypeError, ValueError) as error:
                raise CheckpointError(f"{name}/{each}: expected predictions of {', '.join(corpus)}") from error
        elif each in sealed:
            yield each, data


def _without_labels(data: bytes) -> bytes:
    return _csv(_table(data).drop(columns="label", errors="ignore"))


def _with_labels(data: bytes, split: pd.DataFrame) -> bytes:
    frame = _table(data)
    if "label" in split and len(frame) == len(split):
        frame.insert(1, "label", split["label"].to_numpy())
    return _csv(frame)


def _table(data: bytes) -> pd.DataFrame:
    """A table whose cells are the texts that stand in it, so that numbers come back to the same bytes."""
    return pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False)


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, lineterminator="\n").encode()
