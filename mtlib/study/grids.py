"""The study's runs: what each row of the report's tables trains, at the size of a preset."""

import copy
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pandas as pd
import torch
import transformers

from mtlib.config import Experiment, Optimisation, Preset, experiment, label, preset, pretraining
from mtlib.data.corpus import Corpus, load_corpus
from mtlib.errors import ConfigurationError, MissingRunError
from mtlib.objectives.bregman import Bregman
from mtlib.objectives.smart import Smart
from mtlib.study import cards, ensembles
from mtlib.study.parts import ChoosingHalf
from mtlib.tasks import TASKS
from mtlib.training.device import Device
from mtlib.training.loop import fit
from mtlib.training.pretraining import pretrain
from mtlib.training.runs import Run, RunStore
from mtlib.training.start import Start, find

SCORES = ("qqp", "sst", "sts", "mean", "evenness")
WEIGHT = 15.0
SAMPLERS = ("round_robin", "proportional", "square_root", "annealed")
"""lambda of the report's best annealed + SMART run (Table 2), used wherever a table does not vary it."""


class Study:
    """Trains, or loads, the runs of a preset on one corpus; every notebook and the pipeline share them.

    preset: a preset's name. corpus: where `load_corpus` finds it; None is the preset's own.
    train: whether what is missing is trained; without it, it is a MissingRunError, or left out and noted in `missing`.
    tables: the folder of this study's tables, `<results>/tables/<preset>-<corpus>`; called: another name for <preset>.
    """

    def __init__(
        self,
        preset_name: str = "tour",
        corpus: str | None = None,
        results: str | Path = "results",
        *,
        seed: int = 0,
        progress: str = "auto",
        train: bool = True,
        called: str | None = None,
    ):
        self.preset_name, self.preset = preset_name, preset(preset_name)
        self.source = corpus or self.preset.corpus
        self.results, self.seed, self.progress = results, seed, progress
        self.train, self.missing = train, []
        self.home = self
        self.tables = Path(results) / "tables" / label(called or preset_name, self.source)

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus, read when it is first asked for."""
        return load_corpus(self.source)

    def about(self) -> str:
        """Versions, device, precision, threads, corpus and encoder, for the top of a notebook."""
        encoder = self.preset.experiment.get("encoder", "minilm")
        device = Device()
        return (
            f"torch {torch.__version__}, transformers {transformers.__version__}, pandas {pd.__version__}\n"
            f"{device.device}, {device.precision}, {torch.get_num_threads()} threads\n"
            f"preset: {self.preset_name}, corpus: {self.corpus.title}, encoder: {encoder}"
        )

    def experiment(self, name: str, **changes) -> Experiment:
        """The preset's experiment called `name` with `changes`, at this study's seed."""
        return experiment(self.preset, **{"name": name, "seed": self.seed, **changes})

    def run(self, name: str, **changes) -> Run:
        """The run of `experiment(name, **changes)`: trained, or loaded where an identical one is finished."""
        return self._carried_out(fit, self.experiment(name, **changes))

    def baseline(self) -> Run:
        """Round robin, no penalty: the report's baseline."""
        return self.run("baseline")

    def pretrained(self, name: str = "mnrl", **changes) -> Run:
        """The encoder after multiple negatives ranking on SST."""
        settings = pretraining(self.preset, **{"name": name, "seed": self.seed, **changes})
        return self._carried_out(pretrain, settings)

    def rankings(self) -> dict[str, Run]:
        """Pretraining at every K of the preset, beyond one pair a class with and without mask, all at equal pairs seen.

        The keys are such as "K = 5" and "K = 20, mask"; the preset's own pretraining is one of them.
        """
        every = ranking_fields(self.preset).items()
        return self.available({name: lambda fields=fields: self.pretrained(**fields) for name, fields in every})

    def samplers(self) -> dict[str, Run]:
        """The four samplers at equal steps, without penalty."""
        return {name.replace("_", " "): self.sampled(name) for name in SAMPLERS}

    def sampled(self, sampler: str) -> Run:
        """One sampler without penalty; round robin is the baseline."""
        return self.baseline() if sampler == "round_robin" else self.run(sampler.replace("_", "-"), sampler=sampler)

    def without_mnrl(self) -> Run:
        """What `best_mnrl` is without its pretraining."""
        return self.run("no-mnrl", **self.fields(4, self._best_mnrl_row()) | {"start_from": None})

    def unpenalised(self, number: int, row: Mapping[str, Any]) -> Run:
        """The control of a row of Table 5 or 6: its settings, no penalty, no halving."""
        changes = {"penalties": [Bregman(weight=0.0, decay=0.99)], "schedule": "constant"}
        return self.run(f"table-{number}-no-penalty", **self.fields(number, row) | changes)

    def momentum(self, penalty: Bregman) -> Run:
        """A row of Table 6 with another momentum, one of `momenta`."""
        name = f"momentum-{penalty.decay:g}-{penalty.late_decay or 'constant'}"
        return self.run(name, **self.fields(6, momentum_row(self.preset)) | {"penalties": [penalty]})

    def momenta(self) -> list[Run]:
        """One row of Table 6 with each of `momenta`: its own, the preset's, and last the SMART paper's schedule."""
        return [self.momentum(penalty) for penalty in momenta(self.preset)]

    def _carried_out(self, training: Callable[..., Run], settings: Optimisation) -> Run:
        """The finished run of `settings`, with its model card; MissingRunError where it may not be trained."""
        if self.train:
            run = training(settings, self.corpus, self.results, progress=self.progress)
            cards.ensure_card(run)
            return run
        run = find(settings, self.corpus, self.results)
        if not run.complete:
            raise MissingRunError(f"run {run.id} is not finished (status {run.status})")
        return run

    def available(self, makers: Mapping[str, Callable[[], Run]]) -> dict[str, Run]:
        """The runs that `makers` return. One that is missing and may not be trained is left out, noted in `missing`."""
        found = {}
        for name, make in makers.items():
            try:
                found[name] = make()
            except MissingRunError as error:
                if str(error) not in self.missing:
                    self.missing.append(str(error))
        return found

    def at(self, seed: int) -> Self:
        """The same study at another seed. What this one chose (the best row of Table 6) is not chosen again."""
        other = copy.copy(self)
        other.seed = seed
        return other

    def start(self) -> Start:
        """The encoder as every run without `start_from` finds it: its `fingerprint`, and `model()`."""
        return Start(self.experiment("start"), RunStore(self.results))

    def methods(self) -> dict[str, Run]:
        """The six methods of Table 7, by their names there."""
        return {name: make(self) for name, make in METHODS.items()}

    def best_bregman(self) -> Run:
        """The row of Table 6 with the best mean on the choosing half of dev."""
        rows = {str(row): row for row in self.preset.grids["table_6"]}
        return self.row(6, rows[self.best({name: self.home.row(6, row) for name, row in rows.items()})])

    def best(self, runs: Mapping[str, Run]) -> str:
        """The name of the run with the best mean on the choosing half of dev; of one alone nothing is read."""
        if len(runs) == 1:
            return next(iter(runs))
        return ensembles.best(ensembles.score_table(runs, ChoosingHalf(), next(iter(runs.values())).experiment.tasks))

    def best_mnrl(self) -> Run:
        """MNRL + annealed + SMART for 25 of the report's epochs (Table 4), where Table 6 starts."""
        return self.row(4, self._best_mnrl_row())

    def _best_mnrl_row(self) -> Mapping[str, Any]:
        rows = self.preset.grids["table_4"]
        return next((row for row in rows if row["epochs"] == 25), rows[0])

    def row(self, number: int, row: Mapping[str, Any]) -> Run:
        """The run of one row (settings as published, and `use`) of table `number`."""
        settings = {key: value for key, value in row.items() if key != "use"}
        name = f"table-{number}-" + "-".join(f"{value}" for value in settings.values())
        return self.run(name.replace("_", "-"), **self.fields(number, row))

    def fields(self, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
        """The experiment fields of one row of table `number`: for a control, change some and `run` them."""
        settings = {key: value for key, value in row.items() if key != "use"}
        return {**self._recipe(number, settings), **row.get("use", {})}

    def table(self, number: int) -> tuple[pd.DataFrame, list[Run]]:
        """Every row of table `number` that the preset has: settings as published, our scores, cost; and the runs."""
        rows = {str(row): row for row in self.preset.grids[f"table_{number}"]}
        runs = self.available({name: lambda row=row: self.row(number, row) for name, row in rows.items()})
        settings = [{key: value for key, value in rows[name].items() if key != "use"} for name in runs]
        table = pd.DataFrame([s | summary(run) for s, run in zip(settings, runs.values(), strict=True)])
        return table, list(runs.values())

    def _recipe(self, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
        """Experiment fields that a published row stands for."""
        annealed = {"sampler": "annealed"}
        if number == 1:
            return annealed | {"batch_size": row["batch_size"], "steps": row["steps"]}
        if number in (2, 3):
            return annealed | {"penalties": [Smart(weight=float(row["weight"]))]}
        if number == 4:
            smart = [Smart(weight=WEIGHT)]
            return annealed | {"epochs": row["epochs"], "penalties": smart, "start_from": self.pretrained().id}
        if number in (5, 6):
            bregman = [Bregman(weight=float(row["mu"]), decay=float(row["beta"]))]
            if number == 5:
                schedule = {"yes": "halve", "no": "constant"}[row["scheduler"]]
                return annealed | {"penalties": bregman, "schedule": schedule, "learning_rate": 1e-4}
            start = {"start_from": self.best_mnrl().id, "epochs": row["epochs"]}
            return annealed | start | {"penalties": bregman, "learning_rate": row["learning_rate"]}
        raise ConfigurationError(f"table {number}: expected 1 to 6, the tables that are grids of runs")


def summary(run: Run) -> dict[str, Any]:
    """A run's dev scores (all of dev, chosen epoch), the epoch, the training seconds, and its id."""
    epochs = f"{run.best_epoch}/{run.experiment.epochs}"
    return {name: run.scores[name] for name in SCORES} | {"epoch": epochs, "seconds": run.seconds, "run": run.id}


METHODS: dict[str, Callable[[Study], Run]] = {
    "baseline": Study.baseline,
    "baseline+SMART": lambda study: study.run("baseline-smart", penalties=[Smart(weight=WEIGHT)]),
    "annealed": lambda study: study.run("annealed", sampler="annealed"),
    "annealed+SMART": lambda study: study.run("annealed-smart", sampler="annealed", penalties=[Smart(weight=WEIGHT)]),
    "MNRL+annealed+SMART": Study.best_mnrl,
    "MNRL+Bregman": Study.best_bregman,
}
"""The methods of Table 7: how a study makes each."""


def ranking_fields(chosen: Preset) -> dict[str, dict[str, Any]]:
    """The pretraining fields of each of `Study.rankings`, by its name there."""
    own = pretraining(chosen)
    found = {}
    for size in chosen.choices["ranking_sizes"]:
        changes = {"batch_size": size, "steps": max(1, round(own.steps * own.batch_size / size))}
        policies = ("keep", "mask") if size > TASKS[own.task].classes else (own.false_negatives,)
        for policy in policies:
            name = f"K = {size}, {policy}" if len(policies) > 1 else f"K = {size}"
            found[name] = {"name": f"mnrl-{size}-{policy}", "false_negatives": policy, **changes}
    return found


def momentum_row(chosen: Preset) -> Mapping[str, Any]:
    """The row of Table 6 at which momenta are compared: 10 epochs, mu 1, beta .75 where the preset has it."""
    rows = chosen.grids["table_6"]
    return next((row for row in rows if (row["epochs"], row["mu"], row["beta"]) == (10, 1, 0.75)), rows[0])


def momenta(chosen: Preset) -> list[Bregman]:
    """The row's own momentum, the preset's, and last the SMART paper's schedule, all at the row's mu."""
    row = momentum_row(chosen)
    weight, decays = float(row["mu"]), (row["beta"], *chosen.choices["decays"])
    constant = [Bregman(weight=weight, decay=float(decay)) for decay in decays]
    return [*constant, Bregman(weight=weight, decay=0.99, late_decay=0.999, switch_at=0.1)]
