"""The runs that the notebooks need: their `runs` cells, read without training, as jobs in dependency order."""

import contextlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nbformat import NotebookNode

from mtlib.errors import ConfigurationError, MtlibError
from mtlib.experiments import Optimisation
from mtlib.presets import experiment, label, preset, project_root
from mtlib.training.files import make_folder, safe_name, storage, write_json
from mtlib.workbook.notebooks import find_stage, with_preset
from mtlib.workbook.parameters import Parameter, load_notebook, parameters_of, tagged

if TYPE_CHECKING:
    from mtlib.study.study import Study

TOGETHER = 0.03
"""Below this dial runs take seconds, less than the start of a process: those of a notebook are trained in one job."""

METHOD = "method"
"""Tag of cells before `runs` that a plan leaves out, for they compute: the method by hand, its picture."""

ROUNDS = 10
"""How often notebooks that ask for one another's runs are read, at most, until no answer changes."""

Asked = dict[str, Optimisation]
"""Experiments by the names of their rows: what a notebook asks for."""


@dataclass(frozen=True)
class _Question:
    """A notebook with values of its parameters."""

    path: Path
    values: dict[str, Any]

    @property
    def key(self) -> tuple[Path, str]:
        return self.path, json.dumps(self.values, sort_keys=True, default=repr)


class _Answers:
    """What notebooks ask for, each read once; those that ask for one another's runs again, until no answer changes.

    open: notebooks whose cells are running, the outermost first. unsettled: those whose answer rests on one that was
    not whole yet.
    """

    def __init__(self) -> None:
        self._files: dict[Path, tuple[NotebookNode, dict[str, Parameter]]] = {}
        self._found: dict[tuple[Path, str], Asked] = {}
        self._open: list[_Question] = []
        self._unsettled: dict[tuple[Path, str], _Question] = {}

    def notebook(self, path: Path) -> tuple[NotebookNode, dict[str, Parameter]]:
        """The notebook and its parameters."""
        path = path.resolve()
        if path not in self._files:
            notebook = load_notebook(path)
            self._files[path] = notebook, parameters_of(notebook, path.name)
        return self._files[path]

    def of(self, path: Path, values: Mapping[str, Any]) -> Asked:
        """What the notebook asks for; nothing, yet, where it is asked while it is read."""
        defaults = {name: each.default for name, each in self.notebook(path)[1].items()}
        question = _Question(path.resolve(), defaults | dict(values))
        places = [place for place, each in enumerate(self._open) if each.path == question.path]
        if places and places[-1] == len(self._open) - 1:
            return {}
        if places:
            self._unsettled |= {each.key: each for each in self._open[places[0] :]}
            return self._found.get(question.key, {})
        if question.key not in self._found:
            self._read(question)
            if not self._open:
                self._settle()
        if question.key in self._unsettled:
            self._unsettled |= {each.key: each for each in self._open}
        return self._found[question.key]

    def _read(self, question: _Question) -> None:
        self._open.append(question)
        try:
            self._found[question.key] = _execute(question.path, self.notebook(question.path)[0], question.values)
        finally:
            self._open.pop()

    def _settle(self) -> None:
        before = None
        for _ in range(ROUNDS):
            digests = {key: {each.digest for each in self._found[key].values()} for key in self._unsettled}
            if digests == before or not digests:
                self._unsettled.clear()
                return
            before = digests
            for question in list(self._unsettled.values()):
                self._read(question)
        names = sorted({path.name for path, _ in self._unsettled})
        raise ConfigurationError(f"{', '.join(names)}: they ask for each other's runs, ever more of them")


_answers: ContextVar[_Answers | None] = ContextVar("what notebooks ask for", default=None)


@contextlib.contextmanager
def _answering() -> Iterator[_Answers]:
    """The answers of the plan, or of the notebook, that is being read; new ones outside of any."""
    token = _answers.set(_answers.get() or _Answers())
    try:
        yield cast(_Answers, _answers.get())
    finally:
        _answers.reset(token)


def _execute(path: Path, notebook: NotebookNode, values: Mapping[str, Any]) -> Asked:
    """The experiments that the notebook's cell tagged `runs` names, with these values of its parameters.

    Its code cells up to that one are run in this process, those tagged `method` left out, with `train = False`. A
    notebook without such a cell asks for nothing. Raises ConfigurationError for a cell that fails, and where `runs` is
    not a dict from names to experiments.
    """
    if not tagged(notebook, "runs"):
        return {}
    from IPython.core.inputtransformer2 import TransformerManager

    space: dict[str, Any] = {"__name__": "__plan__"}
    for number, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        tags = cell.metadata.get("tags", [])
        if METHOD in tags:
            continue
        source = TransformerManager().transform_cell(cell.source)
        with contextlib.redirect_stdout(io.StringIO()):
            _run_cell(source, space, f"{path.name}, code cell {number + 1}")
        if "parameters" in tags:
            space |= dict(values) | {"train": False}
        if "runs" in tags:
            break
    runs = space.get("runs")
    if not isinstance(runs, dict) or not all(isinstance(each, Optimisation) for each in runs.values()):
        raise ConfigurationError(f"{path.name}: its cell tagged `runs` has to make `runs`, names and experiments")
    return runs


def _run_cell(source: str, space: dict[str, Any], where: str) -> None:
    try:
        exec(compile(source, where, "exec"), space)
    except MtlibError as error:
        raise type(error)(f"{where}: {error}") from error
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"{where}: {type(error).__name__}: {str(error)[:500]}") from error


def runs_of(study: "Study", *stages: str) -> Asked:
    """The runs that these notebooks ask for at the study's preset, corpus and seed; without names, all but the caller.

    So a notebook that shows what others trained says so in its own `runs` cell, and nothing is defined twice. Of
    different ones that are called alike, the later gets its notebook's name before its own. Notebooks may ask for one
    another's.
    """
    runs: Asked = {}
    with _answering() as answers:
        for path in [find_stage(stage) for stage in stages or study.preset.only] or notebooks():
            given = {"preset": study.preset_name, "corpus": study.source, "seed": study.seed}
            known = answers.notebook(path)[1]
            values, _ = with_preset(path.stem, known, {key: each for key, each in given.items() if key in known})
            for name, settings in answers.of(path, values).items():
                different = name in runs and runs[name] != settings
                runs.setdefault(f"{path.stem}: {name}" if different else name, settings)
    return runs


def notebooks() -> list[Path]:
    """The notebooks of the project, in order."""
    return sorted((project_root() / "notebooks").glob("[!.]*.ipynb"))


@dataclass(frozen=True)
class Stage:
    """One notebook: its file, the values of its parameters, the digests of the runs it shows."""

    notebook: Path
    parameters: dict[str, Any]
    digests: tuple[str, ...]


@dataclass
class Plan:
    """Everything that `make run` does for one preset and corpus.

    stages: notebooks by name. experiments: each one once, by the first digits of its digest, ancestors before those
    that start from them. jobs: digests by the name of the job that trains them, in order. basis: the preset's own
    experiment, whose encoder, tasks and sizes notebooks read beside their parameters.
    """

    preset: str
    corpus: str = ""
    file: str = ""
    stages: dict[str, Stage] = field(default_factory=dict)
    experiments: dict[str, Optimisation] = field(default_factory=dict)
    jobs: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        chosen = preset(self.preset, self.corpus)
        self.corpus = chosen.corpus
        self.basis = experiment(chosen)
        self.together = chosen.dial < TOGETHER and not self.file
        paths = {path.stem: path for path in notebooks()}
        if self.file:
            paths = {"sweep": Path(__file__).with_name("sweep.ipynb")}
        elif unknown := [stage for stage in [*chosen.notebooks, *chosen.only] if stage not in paths]:
            raise ConfigurationError(f"preset {self.preset}: notebooks: there is no {unknown[0]!r}: {', '.join(paths)}")
        elif chosen.only:
            paths = {stage: path for stage, path in paths.items() if stage in chosen.only}
        with _answering() as answers:
            for stage, path in paths.items():
                self._add(stage, path, answers)

    def _add(self, stage: str, path: Path, answers: _Answers) -> None:
        known = answers.notebook(path)[1]
        given = {"corpus": self.corpus} | ({"file": self.file} if self.file else {"preset": self.preset})
        if missing := [key for key in given if key not in known]:
            raise ConfigurationError(f"{path.name}: expected the parameters {', '.join(given)}, found no {missing[0]}")
        if not re.fullmatch(r"[\w.-]+", stage):
            raise ConfigurationError(f"{path.name}: expected a name of letters, digits, '.', '_' and '-'")
        values, _ = with_preset(stage, known, given)
        shown = [self._planned(stage, each) for each in answers.of(path, values).values()]
        self.stages[stage] = Stage(path, values, tuple(dict.fromkeys(shown)))

    def _planned(self, stage: str, settings: Optimisation) -> str:
        """The digest of an experiment, after adding it and its ancestors to the jobs."""
        digest = settings.digest[:16]
        if digest not in self.experiments:
            for parent in settings.parents:
                self._planned(stage, parent)
            self.experiments[digest] = settings
            job = stage if self.together else f"{settings.label}-{digest[:8]}"
            self.jobs.setdefault(job, []).append(digest)
        return digest

    @property
    def name(self) -> str:
        """`<preset>-<corpus>`, or of a sweep `<file>-<corpus>`: what its folders are called."""
        return label(self.file or self.preset, self.corpus)

    def after(self, job: str) -> Iterator[str]:
        """Digests that have to be trained, by other jobs, before this one can begin."""
        own = self.jobs[job]
        for digest in own:
            for needed in self.experiments[digest].needs():
                if (other := needed.digest[:16]) not in own:
                    yield other

    def write(self, path: Path, figures: str | Path, content: str, **facts: Any) -> Path:
        """Write the plan that the Snakefile reads to `path`, and every experiment to the folder of that name; `path`.

        content: fingerprint of the corpus. A run's mark is called by what was trained on what, and a job trains only
        what is not marked as done; so jobs that have nothing left to train are not in the plan. facts: what else
        stands in it.
        """
        folder = path.parent / self.name
        with storage("create", folder):
            make_folder(folder.absolute())
        files, marks = {}, {}
        for digest, settings in self.experiments.items():
            files[digest] = folder / f"{safe_name(settings.label)}-{digest}-{content[:8]}.json"
            marks[digest] = str(files[digest].with_suffix(".done"))
            if not files[digest].is_file():
                write_json(files[digest], settings.model_dump(mode="json"))
        jobs, stages = {}, {}
        for job, digests in self.jobs.items():
            if left := [digest for digest in digests if not Path(marks[digest]).is_file()]:
                jobs[job] = {
                    "experiments": [str(files[digest]) for digest in left],
                    "done": [marks[digest] for digest in left],
                    "after": sorted({marks[digest] for digest in self.after(job)}),
                    "labels": [self.experiments[digest].label for digest in left],
                    "work": sum(work(self.experiments[digest]) for digest in left),
                }
        for name, stage in self.stages.items():
            stages[name] = {
                "notebook": os.path.relpath(stage.notebook),
                "parameters": [f"{key}={_as_text(value)}" for key, value in stage.parameters.items()],
                "after": [marks[digest] for digest in stage.digests],
            }
        about = {"name": self.name, "preset": self.preset, "corpus": self.corpus, "basis": self.basis.digest}
        about |= {"figures": str(figures), "content": content, **facts}
        write_json(path, about | {"jobs": jobs, "stages": stages})
        return path


def work(settings: Optimisation) -> int:
    """Roughly how long it trains, in steps without a penalty: each that has a weight is taken to be one pass more."""
    return settings.steps * (1 + sum(penalty.weight > 0 for penalty in getattr(settings, "penalties", ())))


def _as_text(value: Any) -> str:
    """What `Parameter.parse` reads as that value: a text as it stands, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
