"""Notebook 03: is it the adversary or the noise?"""

from functools import cached_property

import pandas as pd
from matplotlib.figure import Figure

import mtlib
from mtlib.study import ablation, comparisons, figures, perturbation, tables
from mtlib.study.chapters.chapter import HALF, Chapter, differences, figure, table
from mtlib.study.grids import WEIGHT, summary
from mtlib.study.measured import measured
from mtlib.study.parts import ReportingHalf
from mtlib.training.runs import Run


class Adversary(Chapter):
    """SMART in its published form with its controls, as an adversary with a radius, and taken apart."""

    @cached_property
    def systems(self) -> dict[str, Run]:
        """Table 7's rows with and without SMART, and their controls."""
        return ablation.systems(self.study)

    @cached_property
    def form(self) -> dict[str, Run]:
        """The published form and its control, annealed."""
        return {"published form": self.systems["annealed+SMART"], "control": self.systems["annealed, no dropout"]}

    @cached_property
    def balls(self) -> dict[str, Run]:
        """The ball at every radius of the preset."""
        radii = self.study.preset.choices["radii"]
        return {f"ball {radius:g}": ablation.ball(self.study, radius) for radius in radii}

    @cached_property
    def ladders(self) -> dict[str, dict[str, Run]]:
        """The four runs of each mode of the preset, by "rescaled" or such as "ball 0.1": the radius that did best."""
        radius, found = ablation.best_radius(self.study), {}
        for mode in self.study.preset.choices["ablation"]:
            size = radius if mode == "ball" else None
            found[mode if size is None else f"{mode} {size:g}"] = ablation.ladder(self.study, mode, size)
        return found

    @cached_property
    def rungs(self) -> dict[str, pd.DataFrame]:
        """For each mode every rung against the one before it."""
        return {
            mode: comparisons.pairs(ladder, ablation.RUNGS, ReportingHalf(), self.tasks)
            for mode, ladder in self.ladders.items()
        }

    @cached_property
    def published(self) -> pd.DataFrame:
        """`perturbation.forms` on the trained baseline."""
        return self._measured(perturbation.forms)

    @cached_property
    def by_radius(self) -> pd.DataFrame:
        """`perturbation.by_radius` on the trained baseline."""
        return self._measured(perturbation.by_radius)

    def _measured(self, measure) -> pd.DataFrame:
        run, number, seed = self.systems["baseline"], self.study.preset.choices["probe_batches"], self.study.seed

        def compute() -> pd.DataFrame:
            model = run.model()
            return measure(model, perturbation.dev_batches(model, self.study.corpus, number), seed)

        on = [run.identity, self.study.corpus.fingerprint, number, seed, mtlib.__version__]
        return measured(self.cache / "measures", measure.__name__, on, compute)

    @table("table_2")
    def table_2(self) -> pd.DataFrame:
        """Weights of the penalty."""
        return self.grid(2, ablation.realised)

    @table("table_3")
    def table_3(self) -> pd.DataFrame:
        """Weights of the penalty, trained for longer."""
        return self.grid(3, ablation.realised)

    @table("table_smart", "SMART and its controls on dev, {corpus}, beside Table 7")
    def controls(self) -> pd.DataFrame:
        """Scores on all of dev, beside the report's."""
        ours = pd.DataFrame([{"method": name} | summary(run) for name, run in self.systems.items()])
        return tables.beside_paper(ours, 7, keep_unrun=False)

    @table("table_smart_differences", f"SMART, {HALF}, {{corpus}}")
    def compared(self) -> pd.DataFrame:
        """For each sampler SMART against plain training, no dropout against it, and SMART against no dropout."""
        chosen = []
        for name in ("baseline", "annealed"):
            chosen += [(name, f"{name}+SMART"), (name, f"{name}, no dropout"), (f"{name}, no dropout", f"{name}+SMART")]
        return comparisons.pairs(self.systems, chosen, ReportingHalf(), self.tasks)

    @table("table_published_forms", "SMART's modes on the trained baseline, {corpus}")
    def forms(self) -> pd.DataFrame:
        """What each mode's perturbation is, mean over batches."""
        means = self.published.groupby(["task", "mode", "direction"], sort=False).mean()
        return means.drop(columns="batch").reset_index()

    @table("table_ball", "The adversary's radius, on dev, {corpus}")
    def ball(self) -> pd.DataFrame:
        """The published form, its control and the balls on all of dev."""
        weights = {"published form": WEIGHT, "control": 0.0}
        own = self.study.preset.choices["ball_weight"]
        runs = self.form | self.balls
        rows = [{"form": name, "weight": weights.get(name, own)} | _numbers(run) for name, run in runs.items()]
        return pd.DataFrame(rows)

    @table("table_ball_differences", f"The ball, {HALF}, {{corpus}}")
    def ball_compared(self) -> pd.DataFrame:
        """Every ball against the control and against the published form."""
        chosen = [(name, ball) for name in ("control", "published form") for ball in self.balls]
        return comparisons.pairs(self.form | self.balls, chosen, ReportingHalf(), self.tasks)

    @table("table_ablation", "SMART taken apart, on dev, {corpus}")
    def ablation(self) -> pd.DataFrame:
        """The ladder of each mode on all of dev."""
        ladders = self.ladders.items()
        runs = [({"mode": mode, "variant": rung}, run) for mode, ladder in ladders for rung, run in ladder.items()]
        return pd.DataFrame([names | _numbers(run) for names, run in runs])

    @table("table_ablation_differences", f"Each step's merit, {HALF}, {{corpus}}")
    def merits(self) -> pd.DataFrame:
        """`rungs` as one table; Holm's correction is within a mode."""
        return pd.concat([found.assign(mode=mode) for mode, found in self.rungs.items()], ignore_index=True)

    @figure("figure_3")
    def figure_3(self) -> Figure:
        """Dev scores by epoch for the weights of Table 3."""
        ours, runs = self.rows(3)
        weights = zip(ours["weight"], runs, strict=True)
        return figures.score_by_epoch({f"λ = {weight:g}": run.history for weight, run in weights})

    @figure("penalty_by_radius")
    def penalty_by_radius(self) -> Figure:
        """The penalty against its radius on the trained baseline."""
        return perturbation.penalty_figure(self.by_radius, self.published)

    @figure("ablation")
    def ablation_differences(self) -> Figure:
        """Intervals of each step's merit."""
        return differences(self.table("table_ablation_differences"), before="mode")


def _numbers(run: Run) -> dict:
    return ablation.realised(run) | summary(run)
