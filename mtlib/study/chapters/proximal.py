"""Notebook 05: do not run away from yourself."""

from functools import cached_property

import pandas as pd
from matplotlib.figure import Figure

from mtlib.study import comparisons, proximal
from mtlib.study.chapters.chapter import HALF, Chapter, differences, figure, table, trained
from mtlib.study.parts import ReportingHalf, System, task_scores
from mtlib.training.runs import Run


class Proximal(Chapter):
    """Tables 5 and 6 with the controls they lack, the schedule of the momentum, the teacher, and the rising loss."""

    @cached_property
    def start(self) -> Run:
        """The best MNRL model, where Table 6 starts."""
        return self.study.best_mnrl()

    @cached_property
    def base_runs(self) -> dict[str, Run]:
        """Table 5's runs by their settings."""
        ours, runs = self.rows(5, whole=True)
        names = [f"μ {r['mu']:g}, β {r['beta']:g}, halving {r['scheduler']}" for r in ours.to_dict("records")]
        return dict(zip(names, runs, strict=True))

    @cached_property
    def mnrl_runs(self) -> dict[str, Run]:
        """Table 6's runs by their settings."""
        ours, runs = self.rows(6, whole=True)
        names = [f"μ {r['mu']:g}, β {r['beta']:g}, {r['epochs']} epochs" for r in ours.to_dict("records")]
        return dict(zip(names, runs, strict=True))

    @cached_property
    def halving(self) -> list[str]:
        """Names of Table 5's runs that halve the learning rate."""
        return [name for name, run in self.base_runs.items() if run.experiment.schedule == "halve"]

    @cached_property
    def _controlled(self) -> tuple[dict[str, Run], list[tuple[str, str]]]:
        """The runs and their controls, and which are compared: further epochs, the penalty, then halving."""
        systems, chosen = {"MNRL": self.start}, []
        for number, runs in ((5, self.base_runs), (6, self.mnrl_runs)):
            for (name, run), row in zip(runs.items(), self.study.preset.grids[f"table_{number}"], strict=True):
                without = self.study.unpenalised(number, row)
                label = f"T{number} without penalty, {trained(without)}"
                chosen += [("MNRL", label)] if number == 6 and label not in systems else []
                chosen.append((label, f"T{number} {name}"))
                systems |= {label: without, f"T{number} {name}": run}
        for name in self.halving:
            if (constant := name.replace("yes", "no")) in self.base_runs:
                chosen.append((f"T5 {constant}", f"T5 {name}"))
        return systems, chosen

    @property
    def systems(self) -> dict[str, Run]:
        """The start, Tables 5 and 6 with their controls."""
        return self._controlled[0]

    @cached_property
    def momenta(self) -> dict[str, Run]:
        """`Study.momenta` by their momentum; the schedule is last."""
        return {f"β = {proximal.momentum(run)}": run for run in self.study.momenta()}

    @cached_property
    def momentum_scores(self) -> pd.DataFrame:
        """Each momentum's updates, what of the teacher is still its start, and scores on the reporting half."""
        rows = []
        for name, run in self.momenta.items():
            row = {"momentum": name, "updates": run.experiment.epochs * run.experiment.steps}
            scores = task_scores(run, ReportingHalf(), self.tasks)
            rows.append(row | {"share of the start": proximal.start_share(run)} | scores)
        return pd.DataFrame(rows)

    @cached_property
    def watched(self) -> dict[str, Run]:
        """Table 5's runs and their control."""
        without = next(run for name, run in self.systems.items() if name.startswith("T5 without"))
        return self.base_runs | {"Table 5 without penalty": without}

    @table("table_5")
    def table_5(self) -> pd.DataFrame:
        """From the base encoder."""
        return self.grid(5)

    @table("table_6")
    def table_6(self) -> pd.DataFrame:
        """From the best MNRL model."""
        return self.grid(6)

    @table("table_bregman_differences", f"The proximal penalty, {HALF}, {{corpus}}")
    def compared(self) -> pd.DataFrame:
        """What further epochs, the penalty and halving do."""
        return comparisons.pairs(*self._controlled, ReportingHalf(), self.tasks)

    @table("table_momentum", f"The schedule of β against constants, {HALF}, {{corpus}}")
    def schedules(self) -> pd.DataFrame:
        """The schedule of the momentum against each constant."""
        *constants, scheduled = self.momenta
        chosen = [(name, scheduled) for name in constants]
        return comparisons.pairs(self.momenta, chosen, ReportingHalf(), self.tasks)

    @table("table_teacher", f"Teacher against student after the last epoch, {HALF}, {{corpus}}")
    def taught(self) -> pd.DataFrame:
        """Each run's teacher against its student."""
        both: dict[str, System] = {}
        order = []
        for name, run in self.momenta.items():
            named = {f"{who}, {name}": system for who, system in proximal.student_and_teacher(run).items()}
            both |= named
            order.append(tuple(named))
        return comparisons.pairs(both, order, ReportingHalf(), self.tasks)

    @table("table_losses", "Rises of the total training loss between epochs, {corpus}")
    def rises(self) -> pd.DataFrame:
        """How often the total loss rose, and what halving makes of it."""
        runs = self.watched | self.mnrl_runs
        counts = pd.DataFrame([{"run": name} | proximal.rises(run) for name, run in runs.items()])
        rates = [run.history["learning_rate"].iloc[-1] for run in runs.values()]
        return counts.assign(**{"last learning rate": [f"{rate:g}" for rate in rates]})

    @figure("bregman_differences")
    def differences(self) -> Figure:
        """The comparison's intervals."""
        return differences(self.table("table_bregman_differences"), between="\n− ")

    @figure("student_and_teacher")
    def student_and_teacher(self) -> Figure:
        """Dev scores of both by epoch."""
        return proximal.teacher_figure(self.momenta)

    @figure("losses")
    def losses(self) -> Figure:
        """Training loss by epoch and what it is made of."""
        return proximal.loss_figure(self.watched)
