"""What runs say of texts, as HTML for a notebook: answers beside each other, coloured words, near training examples.

A view takes runs by name and texts, and returns a string that holds no script and asks nothing of the network. Whatever
a text holds, it is text and no HTML. Runs of different encoders are never shown beside each other without a word on it.
"""

import html
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from mtlib.errors import ConfigurationError
from mtlib.model import MultitaskModel
from mtlib.study import tables
from mtlib.study.attributions import Attribution, integrated_gradients
from mtlib.study.cache import NO_CACHE, Cache
from mtlib.study.embeddings import ORDERED_COLOURS
from mtlib.study.neighbours import nearest
from mtlib.study.plots import PALETTE
from mtlib.study.probes import perturbed_answers, perturbed_plot
from mtlib.tasks import Task, in_order
from mtlib.training.runs import Run

FOR, AGAINST = PALETTE[0], PALETTE[1]
"""Colours of words that raise what is explained, and of those that lower it."""

PAPER = "background: #fff; color: #000; padding: 4px 8px; line-height: 1.7; font-family: sans-serif; font-size: 13px"
CELL = "text-align: left; vertical-align: top; max-width: 440px; padding: 3px 14px 3px 0; border-bottom: 1px solid #ddd"


class Loaded:
    """A finished run whose model stays in memory: what it says of one text after another costs no loading."""

    def __init__(self, run: Run):
        self.run, self.experiment, self.identity = run, run.experiment, run.identity

    @cached_property
    def _model(self) -> MultitaskModel:
        return self.run.model()

    def model(self) -> MultitaskModel:
        """The run's stored model, always the same object."""
        return self._model


def load(runs: Mapping[str, Run]) -> dict[str, Loaded]:
    """Runs by name, whose models are read when they are first asked something."""
    return {name: Loaded(run) for name, run in runs.items()}


def encoder_notice(runs: Mapping) -> str:
    """A sentence that says which runs have which encoder, where they do not all have the same; else ""."""
    by_encoder: dict[tuple, list[str]] = {}
    for name, run in runs.items():
        about = run.experiment
        by_encoder.setdefault((Path(about.encoder).name, about.encoder_revision), []).append(name)
    if len(by_encoder) < 2:
        return ""
    listed = "; ".join(f"{encoder} ({', '.join(names)})" for (encoder, _), names in by_encoder.items())
    return f"Different encoders: {listed}. What differs here is not the method alone."


def asked(model: MultitaskModel, first: str, second: str) -> Iterator[tuple[Task, str | tuple[str, str], str]]:
    """Every task of the model with what it reads of two texts (the second may be empty), and how that is called."""
    for task in (model.task(name) for name in in_order(task.name for task in model.tasks)):
        if task.is_pair and first and second:
            yield task, (first, second), "both"
        elif not task.is_pair:
            yield from ((task, text, which) for text, which in ((first, "first"), (second, "second")) if text)


def answers(runs: Mapping[str, Loaded], first: str, second: str = "") -> str:
    """A row a task and text, a column a run: the answer, and a bar of the probabilities of all classes.

    Tasks that read pairs answer where there are two texts; a run without a task has an empty cell.
    """
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for name, loaded in runs.items():
        model = loaded.model()
        for task, given, which in asked(model, first, second):
            row = model.predict(task.name, given, precision="float32").iloc[0]
            rows.setdefault((task.title or task.name, which), {})[name] = _answer(task, row)
    return _paper(_grid(rows, list(runs)), encoder_notice(runs))


def _answer(task: Task, row: pd.Series) -> str:
    if task.kind == "regression":
        share = min(1.0, max(0.0, (row["prediction"] - task.low) / (task.high - task.low)))
        said, parts = f"{row['prediction']:.2f} of {task.high:g}", [(share, FOR, ""), (1 - share, "#e4e4e4", "")]
    else:
        chances = [row[f"p{index}"] for index in range(len(task.class_names))]
        said = f"{task.class_names[int(row['prediction'])]} {max(chances):.2f}"
        colours = ORDERED_COLOURS if len(chances) == len(ORDERED_COLOURS) else ["#bbbbbb", *PALETTE]
        parts = list(
            zip(chances, [colours[i % len(colours)] for i in range(len(chances))], task.class_names, strict=True)
        )
    bar = "".join(
        f'<span title="{html.escape(f"{name} {share:.3f}")}" style="display: inline-block; height: 9px; '
        f'width: {170 * share:.1f}px; background: {colour}"></span>'
        for share, colour, name in parts
    )
    return f'<div>{html.escape(said)}</div><div style="white-space: nowrap; line-height: 9px">{bar}</div>'


def words(runs: Mapping[str, Loaded], first: str, second: str = "", *, steps: int = 32) -> str:
    """A row a task and text, a column a run: its words, blue where they raise what is explained, else orange.

    By integrated gradients; a row has one scale, so its runs can be compared, and a word's tooltip says its share.
    """
    found: dict[tuple[str, str], dict[str, Attribution]] = {}
    texts_of: dict[tuple[str, str], Any] = {}
    for name, loaded in runs.items():
        model = loaded.model()
        for task, given, which in asked(model, first, second):
            row = task.title or task.name, which
            texts_of[row] = given if task.is_pair else (given,)
            found.setdefault(row, {})[name] = integrated_gradients(model, task.name, given, steps=steps)
    rows = {}
    for row, attributions in found.items():
        scale = max((float(each.words["attribution"].abs().max()) for each in attributions.values()), default=0.0)
        rows[row] = {name: coloured(each, texts_of[row], scale) for name, each in attributions.items()}
    return _paper(_grid(rows, list(runs)), encoder_notice(runs))


def coloured(attribution: Attribution, texts: Sequence[str], scale: float | None = None) -> str:
    """The texts with every word on a ground of its attribution's colour; `scale` is that of the fullest colour."""
    about = attribution.words
    scale = scale or float(about["attribution"].abs().max() if len(about) else 0.0) or 1.0
    lines = [
        f"<i>{html.escape(attribution.target)} {attribution.answer:.2f}, "
        f"{attribution.hidden:.2f} with every word hidden</i>"
    ]
    for index, text in enumerate(texts):
        parts, end = [], 0
        for row in about[about["text"] == index].itertuples():
            share = min(1.0, abs(row.attribution) / scale)
            ground = f"{FOR if row.attribution > 0 else AGAINST}{round(200 * share):02x}"
            parts.append(html.escape(text[end : row.start]))
            parts.append(
                f'<span title="{row.attribution:+.3f}" style="background: {ground}; border-radius: 3px; '
                f'padding: 1px 2px">{html.escape(row.word)}</span>'
            )
            end = row.end
        lines.append("".join(parts) + html.escape(text[end:]))
    return "<br>".join(lines)


def neighbours(
    runs: Mapping[str, Loaded],
    corpus: Any,
    first: str,
    second: str = "",
    *,
    number: int = 5,
    pool: int | None = 2000,
    seed: int = 0,
    cache: Cache = NO_CACHE,
) -> str:
    """For every run, task and text the nearest training examples with their labels, nearest first.

    pool: examples of each task that are searched, None for all (`neighbours.nearest`). Their sentences are the
    corpus's: `make reference` cuts the table out.
    """
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for name, loaded in runs.items():
        for task, given, which in asked(loaded.model(), first, second):
            if task.name in corpus:
                options: dict[str, Any] = {"pool": pool, "seed": seed, "cache": cache}
                near = nearest(loaded, task.name, given, corpus[task.name].train, number, **options)
                rows.setdefault((task.title or task.name, which), {})[name] = _listed(near)
    return _paper(f'<div id="{tables.SENTENCES}">{_grid(rows, list(runs))}</div>', encoder_notice(runs))


def _listed(near: pd.DataFrame) -> str:
    lines = []
    for row in near.to_dict("records"):
        texts = " / ".join(html.escape(row[column]) for column in ("text_a", "text_b") if column in row)
        label = row.get("name", f"{row['label']:g}")
        lines.append(f"{row['cosine']:.2f} <b>{html.escape(label)}</b> {texts}")
    return "<br>".join(lines)


def perturbed(runs: Mapping[str, Loaded], first: str, second: str = "", *, seed: int = 0) -> Figure:
    """A figure of how every run's answers move under SMART's perturbation (`probes.perturbed_answers`).

    Raises ConfigurationError where no task of the runs reads what was given.
    """
    measured: dict[str, dict[str, pd.DataFrame]] = {}
    for name, loaded in runs.items():
        model = loaded.model()
        for task, given, which in asked(model, first, second):
            moved = perturbed_answers(model, task.name, given, seed=seed)
            measured.setdefault(f"{task.title or task.name}, {which}", {})[name] = moved
    if not measured:
        raise ConfigurationError("no task of these runs reads what was given: tasks of pairs want two texts")
    figure = perturbed_plot(measured)
    if notice := encoder_notice(runs):
        figure.suptitle(textwrap.fill(notice, 120), fontsize=7)
    return figure


def _grid(rows: Mapping[tuple[str, str], Mapping[str, str]], columns: Sequence[str]) -> str:
    head = "".join(f'<th style="{CELL}">{html.escape(name)}</th>' for name in ("task", "text", *columns))
    lines = []
    for (task, which), cells in rows.items():
        shown = [_whole(task), _whole(which), *(cells.get(name, "") for name in columns)]
        lines.append("<tr>" + "".join(f'<td style="{CELL}">{cell}</td>' for cell in shown) + "</tr>")
    return f'<table style="border-collapse: collapse; table-layout: auto"><tr>{head}</tr>{"".join(lines)}</table>'


def _whole(text: str) -> str:
    return f'<span style="white-space: nowrap">{html.escape(text)}</span>'


def _paper(body: str, notice: str = "") -> str:
    warned = f'<p style="color: #b00000"><b>{html.escape(notice)}</b></p>' if notice else ""
    return f'<div style="{PAPER}">{warned}{body}</div>'
