"""What the pipeline trains: every run as a named point, with the points it starts from or chooses between."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mtlib.config import Experiment, Preset, label, nearest
from mtlib.errors import ConfigurationError
from mtlib.study import ablation, sweeps
from mtlib.study.grids import METHODS, SAMPLERS, Study, momenta, ranking_fields
from mtlib.training.files import make_folder, safe_name, storage, write_json
from mtlib.training.runs import Run

READS: dict[str, tuple[str, ...]] = {
    "00_data": ("experiment.encoder", "experiment.encoder_revision", "experiment.max_tokens"),
    "01_baseline": (),
    "02_annealing": (),
    "03_smart": ("choices.probe_batches",),
    "04_mnrl": (),
    "05_bppo": (),
    "06_ensemble": ("seeds",),
    "07_tsne": ("choices.tsne_perplexities", "choices.tsne_iterations"),
    "08_confusion": (),
    "09_explore": (),
}
"""The notebooks of the pipeline, and what each reads of a preset beyond the runs it shows."""

Make = Callable[[Study], Run]


@dataclass(frozen=True)
class Wanted:
    """One run that a notebook shows: how a study makes it; `name` where the run's own would not do."""

    make: Make
    name: str | None = None


@dataclass(frozen=True)
class Point:
    """One run to be trained.

    after: names of the points it starts from or chooses between. fields: what is trained, resolved, as JSON values.
    Where a choice decides, they are those of its first candidate, and `chosen between` names the candidates.
    """

    name: str
    make: Make
    after: tuple[str, ...]
    fields: dict[str, Any]

    @property
    def is_experiment(self) -> bool:
        """Whether it has scores; a pretraining has none."""
        return self.fields["kind"] == Experiment.__name__

    @property
    def text(self) -> str:
        """The fields as one line of JSON."""
        return json.dumps(self.fields, sort_keys=True)


@dataclass(frozen=True)
class Sketched:
    """What stands for a run that was not trained: equal ids are equal runs."""

    id: str
    name: str
    fields: dict[str, Any]


class Sketch(Study):
    """A study that trains nothing and reads no corpus: it notes the runs it is asked for.

    Asked to choose, it takes the candidate at `pick`: what two picks make different, the choice decides.
    """

    def traced(self, make: Make, pick: int) -> tuple[Sketched, "Sketch"]:
        """The run that `make` makes, and a copy of this sketch with all runs it asked for in `noted`."""
        sketch = self.at(self.seed)
        sketch.home, sketch.pick, sketch.noted, sketch.between = sketch, pick, [], []
        return make(sketch), sketch

    def _carried_out(self, training, settings) -> Sketched:
        fields = settings.model_dump(mode="json", exclude={"name"}) | {"kind": type(settings).__name__}
        self.noted.append(Sketched(digest(fields), settings.name, fields))
        return self.noted[-1]

    def best(self, runs: Mapping[str, Sketched]) -> str:
        """One of them."""
        if len(runs) > 1:
            self.between += [run.id for run in runs.values()]
        return list(runs)[self.pick]


class Plan:
    """The points of a preset, or of a sweep's file, and the stages that show them.

    points: by name, each after those it needs. stages: the names of the points of each notebook; a sweep has none.
    """

    def __init__(self, name: str):
        self.name, self.sweep = name, sweeps.read(name) if sweeps.is_sweep(name) else None
        self.sketch = Sketch(self.sweep.preset if self.sweep else name)
        self.preset = self.sketch.preset
        self.points: dict[str, Point] = {}
        self.stages: dict[str, tuple[str, ...]] = {}
        self._named: dict[str, str] = {}
        if self.sweep:
            for called, make in sweeps.runs(self.sweep):
                self._add(Wanted(make, called))
            return
        for first in (*map(Wanted, ablation.SYSTEMS.values()), *_samplers()):
            self._add(first)  # a row of a grid that is one of these goes by this name: grids change, these do not
        wanted = wanted_by_stage(self.preset)
        self.stages = {stage: tuple(dict.fromkeys(map(self._add, wanted.get(stage, [])))) for stage in READS}
        self.stages["09_explore"] = tuple(each.name for each in self.points.values() if each.is_experiment)

    def _add(self, wanted: Wanted) -> str:
        """The name of the wanted point, a new one or an equal one; what it needs has to be there."""
        run, sketch = self.sketch.traced(wanted.make, pick=0)
        other, _ = self.sketch.traced(wanted.make, pick=-1)
        if run.id != other.id:
            fields = run.fields | {"chosen between": [self._named[each] for each in sketch.between]}
            run = replace(run, id=digest(fields), fields=fields)
        if run.id not in self._named:
            needed = dict.fromkeys(self._named[each.id] for each in sketch.noted[:-1])
            self._named[run.id] = name = self._free(wanted.name or run.name, run.fields["seed"])
            self.points[name] = Point(name, wanted.make, tuple(needed), run.fields)
        return self._named[run.id]

    def _free(self, name: str, seed: int) -> str:
        name = safe_name(name if seed == self.sketch.seed or self.sweep else f"{name}-seed-{seed}")
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        return name if name not in self.points else next(each for each in numbered if each not in self.points)

    def point(self, name: str) -> Point:
        """The point called `name`; raises ConfigurationError when there is none."""
        if name not in self.points:
            raise ConfigurationError(f"preset {self.name}: unknown point {name!r}{nearest(name, self.points)}")
        return self.points[name]

    def reads(self, stage: str) -> str:
        """The parts of the preset that a notebook reads beside its runs, as one line of JSON."""
        content, found = self.preset.model_dump(mode="json"), {}
        for key in READS[stage]:
            part, _, entry = key.partition(".")
            found[key] = content[part].get(entry) if entry else content[part]
        return json.dumps(found, sort_keys=True)


def digest(fields: Mapping[str, Any]) -> str:
    """What tells different fields apart: the first digits of their SHA-256."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def train_point(name: str, preset: str, corpus: str | None, results: str | Path = "results") -> Run:
    """Train one point, or load it; then write its marker, `<results>/points/<preset>-<corpus>/<name>.json`.

    Raises ConfigurationError for an unknown point, LockedError while another process trains the same run.
    """
    plan = Plan(preset)
    study = Study(plan.sketch.preset_name, corpus or (plan.sweep and plan.sweep.corpus), results)
    run = plan.point(name).make(study)
    path = Path(results) / "points" / label(preset, study.source) / f"{name}.json"
    with storage("create", path.parent):
        make_folder(path.parent.absolute())
    write_json(path, {"run": run.id, "identity": run.identity})
    return run


def wanted_by_stage(preset: Preset) -> dict[str, list[Wanted]]:
    """What each notebook shows, in an order in which it can be trained."""
    baseline, mnrl = Wanted(Study.baseline), Wanted(Study.pretrained)
    start = [mnrl, Wanted(Study.best_mnrl)]
    methods = [Wanted(make) for name, make in METHODS.items() if make is not Study.best_bregman]
    home = [mnrl, *methods, *_table(preset, 6)]  # whichever row is best, it is one of them
    return {
        "01_baseline": [baseline],
        "02_annealing": [*_samplers(), *_table(preset, 1)],
        "03_smart": [*_table(preset, 2), *_table(preset, 3), *_smart(preset)],
        "04_mnrl": [*start, *_rankings(preset), *_table(preset, 4), Wanted(Study.without_mnrl)],
        "05_bppo": [*start, *_table(preset, 5), *_table(preset, 6), *_proximal(preset)],
        "06_ensemble": [*home, *_repeats(preset, methods)],
        "07_tsne": [mnrl],
        "08_confusion": home,
    }


def _table(preset: Preset, number: int) -> list[Wanted]:
    rows = preset.grids.get(f"table_{number}", [])
    return [Wanted(lambda study, row=row: study.row(number, row)) for row in rows]


def _samplers() -> list[Wanted]:
    return [Wanted(partial(Study.sampled, sampler=name)) for name in SAMPLERS]


def _rankings(preset: Preset) -> list[Wanted]:
    return [
        Wanted(lambda study, fields=fields: study.pretrained(**fields)) for fields in ranking_fields(preset).values()
    ]


def _smart(preset: Preset) -> Iterator[Wanted]:
    yield from map(Wanted, ablation.SYSTEMS.values())
    for radius in preset.choices["radii"]:
        yield Wanted(partial(ablation.ball, radius=radius))
    for mode in preset.choices["ablation"]:
        for name in ablation.LADDER:
            chosen = mode == "ball" and name in ("random", "adversarial")
            yield Wanted(partial(_rung, name=name, mode=mode, chosen=chosen), f"best-ball-{name}" if chosen else None)


def _rung(study: Study, name: str, mode: str, chosen: bool) -> Run:
    return ablation.rung(study, name, mode, ablation.best_radius(study) if chosen else None)


def _proximal(preset: Preset) -> Iterator[Wanted]:
    for number in (5, 6):
        for row in preset.grids.get(f"table_{number}", []):
            yield Wanted(partial(Study.unpenalised, number=number, row=row))
    for penalty in momenta(preset):
        yield Wanted(partial(Study.momentum, penalty=penalty))


def _repeats(preset: Preset, methods: Iterable[Wanted]) -> Iterator[Wanted]:
    if len(preset.seeds) > 1:
        every = [Wanted(Study.pretrained), *methods, Wanted(Study.best_bregman, "best-bregman")]
        for seed in preset.seeds:
            for wanted in every:
                yield replace(wanted, make=lambda study, make=wanted.make, seed=seed: make(study.at(seed)))
