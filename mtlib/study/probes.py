"""Measurements on a model: SMART's penalty by radius, how adversarial its d is, the ranking loss, a linear probe.

Is SMART's d an adversary, or only noise? The measures put a penalty's own arithmetic to a trained model.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mtlib.data.batches import Batch, TokenizedSplit
from mtlib.data.corpus import Corpus
from mtlib.errors import ConfigurationError
from mtlib.model import MultitaskModel
from mtlib.objectives.penalty import Dropout, Step
from mtlib.objectives.ranking import class_distinct_batch, multiple_negatives_ranking_loss
from mtlib.objectives.smart import Smart, inner_gradient, mean_size
from mtlib.prediction import answers, inputs_of
from mtlib.randomness import seeded
from mtlib.study.cache import NO_CACHE, Cache, inference
from mtlib.study.embeddings import sentence_vectors
from mtlib.study.eval_splits import Stored
from mtlib.study.plots import PALETTE, entries, panels, styles, title_of
from mtlib.tasks import TASKS, in_order
from mtlib.training.pretraining import DEV_BATCHES

RADII = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def dev_batches(model: MultitaskModel, corpus: Corpus, number: int, size: int = 16) -> list[Batch]:
    """The first `number` batches of `size` dev examples of each of the model's tasks."""
    batches = []
    for task in model.tasks:
        frame = corpus[task.name].dev.head(number * size).reset_index(drop=True)
        split = TokenizedSplit(task, frame, model.tokenizer, model.max_tokens)
        starts = range(0, len(frame), size)
        batches += [split.batch(range(start, min(start + size, len(frame)))) for start in starts]
    return batches


def clean_step(model: MultitaskModel, batch: Batch, number: int = 0, seed: int = 0, dropout: Dropout = "off") -> Step:
    """The step that a penalty sees of `batch`, outside training: its clean pass done, without gradient.

    dropout: "off" runs every pass in evaluation mode; "shared" gives all passes one mask, "independent" each its own.
    The model is left in the mode (train or eval) that this needs.
    """
    model.train(dropout != "off")
    passes = iter(range(1_000_000))

    def forward(embeddings: torch.Tensor) -> torch.Tensor:
        with seeded(seed, "adversary", number, 0 if dropout == "shared" else next(passes)):
            return model(batch.task.name, batch.inputs, embeddings)

    with torch.no_grad(), seeded(seed, "adversary/embeddings", number):
        x = model.embed_tokens(batch.inputs)
    with torch.no_grad():
        logits = forward(x)
    mask = batch.inputs["attention_mask"]
    return Step(number, seed, batch.task.kind, mask, x, logits, batch.labels, forward)


def penalty_by_radius(
    model: MultitaskModel, batches: Sequence[Batch], radii: Sequence[float] = RADII, seed: int = 0
) -> pd.DataFrame:
    """SMART's penalty against the radius of d, in the l-inf ball, for an adversarial and a random d; float32.

    radii: in units of mean|x|, the mean size of the embeddings.
    Returns one row for each dropout policy (off, independent), direction, radius and batch: `task`, `batch`,
    `dropout`, `direction`, `radius`, `size` (|d|_inf) and `penalty`. Direction "none", radius 0, is there where
    dropout is independent: what the two dropout masks alone make. The model stays in evaluation mode.
    """
    cases = [(direction, radius) for direction in ("adversarial", "random") for radius in radii]
    rows = []
    for dropout in ("off", "independent"):
        smarts = [Smart(weight=1, mode="ball", radius=r, direction=d, dropout=dropout) for d, r in cases]
        if dropout == "independent":
            smarts.append(Smart(weight=1, direction="none", dropout=dropout))
        with inference(model, "float32"):
            for about, step in _steps(model, batches, dropout, seed):
                size = float(mean_size(step))
                for smart in smarts:
                    case = {"dropout": dropout, "direction": smart.direction, "radius": smart.radius or 0.0}
                    relative, penalty = _measured(smart, step)
                    rows.append(about | case | {"size": relative * size, "penalty": penalty})
    return pd.DataFrame(rows)


def published_forms(model: MultitaskModel, batches: Sequence[Batch], seed: int = 0) -> pd.DataFrame:
    """How much of an adversary each mode of SMART is at its default values, the report's for the published modes.

    Computed in float64 on a copy on the CPU, dropout off. Returns one row for each mode, direction and batch: `task`,
    `batch`, `mode`, `direction`, `radius` (|d|_inf / mean|x|) and `penalty`; for the adversarial d also `cosine`, of d
    with the inner gradient g, and in mode "rescaled" `share`, the gradient's part of d: |eta g| / |nu + eta g|.
    """
    modes = [(mode, direction) for mode in ("rescaled", "projected", "ball") for direction in ("adversarial", "random")]
    rows = []
    for about, step in _steps(copy.deepcopy(model).cpu().double(), batches, "off", seed):
        for mode, direction in modes:
            smart = Smart(weight=1, mode=mode, direction=direction)
            radius, penalty = _measured(smart, step)
            row = about | {"mode": mode, "direction": direction, "radius": radius, "penalty": penalty}
            rows.append(row | _alignment(smart, step))
    return pd.DataFrame(rows)


def _steps(model: MultitaskModel, batches: Sequence[Batch], dropout: Dropout, seed: int) -> Iterator[tuple[dict, Step]]:
    """The clean step of every batch, numbered within its task; the model is in evaluation mode afterwards."""
    counts: dict[str, int] = {}
    for batch in batches:
        number = counts[batch.task.name] = counts.get(batch.task.name, -1) + 1
        about = {"task": batch.task.name, "batch": number}
        yield about, clean_step(model, batch.to(model.device), number, seed, dropout)
    model.eval()


@torch.no_grad()
def _measured(smart: Smart, step: Step) -> tuple[float, float]:
    """One penalty's logged radius and value; NaN where its inner gradient was not finite."""
    step.log.clear()
    smart(step)
    radius, penalty = (float(step.log.get(f"smart/{name}", math.nan)) for name in ("radius", "penalty"))
    return radius, penalty


@torch.no_grad()
def _alignment(smart: Smart, step: Step) -> dict[str, float]:
    """How far d follows the gradient: cosine, and the gradient's share of a rescaled d."""
    alignment = {"cosine": math.nan, "share": math.nan}
    if smart.direction == "adversarial":
        nu = smart.noise(step)
        g, d = inner_gradient(step, nu), smart.perturbation(step)
        alignment["cosine"] = float(F.cosine_similarity(d.flatten(), g.flatten(), dim=0, eps=0.0))
        if smart.mode == "rescaled":
            alignment["share"] = float((smart.eta * g).norm() / (nu + smart.eta * g).norm())
    return alignment


def perturbed_answers(
    model: MultitaskModel, task: str, inputs: str | tuple[str, str], radii: Sequence[float] = RADII, seed: int = 0
) -> pd.DataFrame:
    """How the answer to one text, or one pair, moves with d in the l-inf ball; float32, dropout off.

    d is SMART's: its own inner maximisation in mode "ball" on this one input, beside random signs of the same size.
    radii: in units of mean|x|, the mean size of the input's embeddings. Columns: `direction` ("none" at radius 0, then
    "adversarial" and "random"), `radius`, and those of `prediction.answers`.
    Raises ConfigurationError for an unknown task, and for inputs that are not one that it reads.
    """
    known = model.task(task)
    if len(given := inputs_of(known, inputs)) != 1:
        raise ConfigurationError(f"task {task}: expected one input, found {len(given)}")
    cases, logits = [("none", 0.0)], []
    with torch.no_grad(), inference(model, "float32"):
        step = clean_step(model, model.tokenize(known, given).batch([0]).to(model.device), seed=seed)
        logits.append(step.logits)
        for direction in ("adversarial", "random"):
            for radius in radii:
                d = Smart(weight=1, mode="ball", radius=radius, direction=direction).perturbation(step)
                if d is not None:
                    cases.append((direction, radius))
                    logits.append(step.forward(step.embeddings + d))
    return pd.DataFrame(cases, columns=["direction", "radius"]).join(answers(known, torch.cat(logits).float().cpu()))


def perturbed_plot(tables: Mapping[str, Mapping[str, pd.DataFrame]]) -> Figure:
    """How answers move with the radius of d: a panel a title, a colour a run; SMART's d solid, random signs dashed.

    tables: of `perturbed_answers`, by panel and run. Of classes it shows the probability of what the run answers
    without d (dotted), of a regression the prediction.
    """
    figure, places = panels(len(tables), columns=2, height=2.0)
    looks = styles(dict.fromkeys(name for measured in tables.values() for name in measured))
    for axes, (title, measured) in zip(places, tables.items(), strict=True):
        for name, table in measured.items():
            value = "prediction" if "p0" not in table else f"p{table.loc[0, 'prediction']:.0f}"
            axes.axhline(table.loc[0, value], color=looks[name]["color"], linestyle=":", linewidth=0.8)
            for direction, line in (("adversarial", "-"), ("random", "--")):
                rows = table[table["direction"] == direction]
                label = name if direction == "adversarial" else None
                axes.plot(rows["radius"], rows[value], linestyle=line, label=label, **looks[name])
            if value != "prediction":
                axes.set_ylim(-0.03, 1.03)
        axes.set(title=title, xscale="log", xlabel=r"radius, $|d|_\infty$ / mean $|x|$")
        axes.set_ylabel("prediction" if value == "prediction" else "probability of the answer")
    handles, labels = entries(places)
    handles += [Line2D([], [], color="#555555", linestyle=line) for line in ("--", ":")]
    labels += ["random signs", "answer at d = 0"]
    figure.legend(handles, labels, loc="outside upper center", ncols=min(5, len(handles)))
    return figure


COLOURS = {"adversarial": PALETTE[1], "random": PALETTE[0]}
FORM_MARKERS = {"rescaled": "*", "projected": "P"}
"""Markers of the published forms, whose radius is not chosen."""


def penalty_plot(measured: pd.DataFrame, published: pd.DataFrame | None = None) -> Figure:
    """Penalty against radius, both logarithmic, a panel a task: adversarial and random d, dropout off and independent.

    measured: a table of `penalty_by_radius`; lines are means over batches, the dotted level is what two dropout masks
    alone make. published: a table of `published_forms`; stars stand at the radius that each published form really has.
    """
    tasks = in_order(measured["task"].unique())
    figure, places = panels(len(tasks), columns=3, height=2.4, sharey=True)
    for axes, task in zip(places, tasks, strict=True):
        _curves(axes, measured[measured["task"] == task])
        if published is not None:
            _points(axes, published[(published["task"] == task) & published["mode"].isin(FORM_MARKERS)])
        axes.set(title=title_of(task), xscale="log", yscale="log", xlabel=r"radius, $|d|_\infty$ / mean $|x|$")
    places[0].set_ylabel("penalty")
    handles, labels = places[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, handlelength=3)
    return figure


def _curves(axes: Axes, rows: pd.DataFrame) -> None:
    for (policy, direction), group in rows.groupby(["dropout", "direction"], sort=False):
        if direction == "none":
            axes.axhline(group["penalty"].mean(), color="#777777", linestyle=":", label="two dropout masks, d = 0")
            continue
        means = group.groupby("radius")["penalty"].mean()
        style = {"linestyle": "-" if policy == "off" else "--", "marker": "o" if policy == "off" else "s"}
        axes.plot(means.index, means, color=COLOURS[direction], label=f"{direction}, dropout {policy}", **style)


def _points(axes: Axes, rows: pd.DataFrame) -> None:
    for (mode, direction), group in rows.groupby(["mode", "direction"], sort=False):
        style = {"color": COLOURS[direction], "marker": FORM_MARKERS[mode], "linestyle": "", "markersize": 8}
        style |= {"markerfacecolor": "none" if direction == "random" else COLOURS[direction]}
        axes.plot(group["radius"].mean(), group["penalty"].mean(), label=f"{mode}, {direction}", **style)


def chance_loss(settings: Any, corpus: Corpus) -> float:
    """The ranking loss of equal vectors under a pretraining's settings: log of the columns a row is ranked against.

    That is log K unless columns are masked; then it is the mean over rows, for classes that repeat as evenly as K
    allows: those that the corpus' dev has, as in `ranking_loss`.
    """
    pairs, classes = settings.batch_size, corpus[settings.task].dev["label"].nunique()
    if settings.false_negatives == "keep":
        return float(np.log(pairs))
    repeats = np.array([pairs // classes + (index < pairs % classes) for index in range(classes)])
    return float((repeats * np.log(pairs - repeats + 1)).sum() / pairs)


def ranking_loss(source: Any, settings: Any, corpus: Corpus) -> float:
    """The ranking loss of `source` (a run, or `AsFound`) on the dev batches that a pretraining of `settings` scores."""
    dev, losses = corpus[settings.task].dev, []
    with torch.inference_mode(), inference(source.model(), settings.precision) as model:
        split = TokenizedSplit(TASKS[settings.task], dev, model.tokenizer, model.max_tokens)
        for number in range(DEV_BATCHES):
            rows = class_distinct_batch(split.labels, 0, number, settings.batch_size, dev["text_a"].tolist())
            batch = split.batch(np.concatenate(rows)).to(model.device)
            a, b = model.encode(batch.inputs).split(settings.batch_size)
            labels = batch.labels[: settings.batch_size]
            loss = multiple_negatives_ranking_loss(a, b, settings.scale, labels, settings.false_negatives)
            losses.append(loss.item())
    return float(np.mean(losses))


def linear_probe(source: Any, corpus: Corpus, task: str = "sst", cache: Cache = NO_CACHE) -> Stored:
    """Dev predictions of a linear classifier of the sentence vectors of `source` (a run, or `AsFound`).

    Logistic regression on the standardised vectors of train, no setting chosen: what a head could read without moving
    the encoder. The vectors are kept in `cache`.
    """
    train, dev = corpus[task].train, corpus[task].dev
    vectors = [sentence_vectors(source, frame["text_a"], cache) for frame in (train, dev)]
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    classifier.fit(vectors[0], train["label"].to_numpy())
    return Stored({("dev", task): dev[["id", "label"]].assign(prediction=classifier.predict(vectors[1]))})
