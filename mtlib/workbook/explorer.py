"""Widgets over `mtlib.study.views`: runs to tick, and what they say of texts while these are typed.

Where nobody can type, in a notebook that the runner executes, each is a line that says what it would be: the same views
stand in cells of their own there.
"""

import asyncio
import base64
import html
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from mtlib.errors import MtlibError
from mtlib.study import plots, tables, views
from mtlib.study.cache import NO_CACHE, Cache
from mtlib.training import progress
from mtlib.training.runs import Run

PAUSE = 0.3
"""Seconds after the last key before what was typed is answered."""


def is_live() -> bool:
    """Whether somebody may be there to type: in a notebook, and not one that the runner executes."""
    return progress.in_notebook() and progress.kind("auto") == "bar"


class RunTable:
    """Runs to tick, a row each; below, the learning curves of those that are ticked, over each other.

    runs: by name. table: what is shown of them, a row a run under the same name, in the order of the rows.
    ticked: names of those that are ticked at first. columns: of the history, whose curves are drawn.
    """

    def __init__(
        self, runs: Mapping[str, Run], table: pd.DataFrame, ticked: Iterable[str], columns: Sequence[str] | None = None
    ) -> None:
        self.all, self.columns = dict(runs), columns
        self._listeners: list[Any] = []
        table = tables.pretty(table.loc[[name for name in table.index if name in runs]]).rename_axis(None)
        head, *rows = table.to_string().splitlines()
        narrow, ticked = widgets.Layout(width="26px"), set(ticked)
        self.boxes = {
            name: widgets.Checkbox(value=name in ticked, indent=False, layout=narrow, tooltip=name)
            for name in table.index
        }
        self.rows = {
            name: widgets.HBox([box, widgets.HTML(_code(row))], layout=widgets.Layout(flex="0 0 auto"))
            for (name, box), row in zip(self.boxes.items(), rows, strict=True)
        }
        self.filter = widgets.Text(placeholder="show only runs whose row has this in it", layout=_wide())
        self.notice, self.curves = widgets.HTML(), widgets.HTML()
        listed = widgets.VBox([*self.rows.values()], layout=widgets.Layout(max_height="260px", overflow="auto"))
        self.box = widgets.VBox([self.filter, widgets.HTML(_code("    " + head)), listed, self.notice, self.curves])
        texts = dict(zip(self.rows, rows, strict=True))
        self.filter.observe(lambda change: self._show_only(change["new"], texts), "value")
        for box in self.boxes.values():
            box.observe(lambda _: self._changed(), "value")
        self._changed()

    @property
    def ticked(self) -> dict[str, Run]:
        """The runs that are ticked, by name, in the order of the table."""
        return {name: self.all[name] for name, box in self.boxes.items() if box.value}

    def listen(self, function: Callable[[], None]) -> None:
        """Call `function` whenever other runs are ticked."""
        self._listeners.append(function)

    def _show_only(self, text: str, rows: Mapping[str, str]) -> None:
        for name, row in self.rows.items():
            row.layout.display = "" if text.lower() in rows[name].lower() else "none"

    def _changed(self) -> None:
        ticked = self.ticked
        self.notice.value = _warning(views.encoder_notice(ticked))
        self.curves.value = _picture(plots.learning_curves(ticked, self.columns)) if ticked else ""
        for function in self._listeners:
            function()

    def _repr_mimebundle_(self, **options: Any) -> dict:
        return _shown(self.box, f"In Jupyter, runs are ticked here; ticked: {', '.join(self.ticked)}", options)


class Explorer:
    """Two texts to type; what the ticked runs answer, and in tabs why, what is near, and how SMART's d moves it.

    Only the open tab is computed. corpus: whose training examples are searched, `pool` of each task.
    seed: of the pool and of d. cache: where vectors are kept.
    """

    TABS = ("Words", "Near in training", "Perturbed")

    def __init__(
        self,
        table: RunTable,
        corpus: Any,
        first: str,
        second: str = "",
        *,
        nearest: int = 5,
        pool: int = 2000,
        seed: int = 0,
        cache: Cache = NO_CACHE,
    ) -> None:
        self.table = table
        self.loaded: dict[Any, Any] = {}
        self._timer: Any = None
        self.texts = [
            widgets.Text(value=text, description=name, placeholder="type here", layout=_wide())
            for name, text in (("first", first), ("second", second))
        ]
        self.answers, self.words, self.near, self.moved, self.notice = (widgets.HTML() for _ in range(5))
        self.tab = widgets.Tab([self.words, self.near, self.moved], titles=self.TABS)
        self.box = widgets.VBox([*self.texts, self.notice, self.answers, self.tab])
        self.corpus, self.seed = corpus, seed
        self.near_options: dict[str, Any] = {"number": nearest, "pool": pool, "seed": seed, "cache": cache}
        for text in self.texts:
            text.observe(lambda _: self._soon(), "value")
        self.tab.observe(lambda _: self._soon(), "selected_index")
        table.listen(self._soon)
        if is_live():
            self.answer()

    def answer(self) -> None:
        """Ask the ticked runs, and show what they say."""
        runs, (first, second) = self._runs(), (text.value.strip() for text in self.texts)
        self.notice.value = "<i>asking ...</i>"
        try:
            if runs and (first or second):
                self.answers.value = views.answers(runs, first, second)
                self._explain(runs, first, second)
            else:
                self.answers.value = "<i>Tick a run, and type a text.</i>"
            self.notice.value = ""
        except MtlibError as error:
            self.notice.value = _warning(str(error))

    def _explain(self, runs: Mapping[str, views.Loaded], first: str, second: str) -> None:
        """What the open tab shows."""
        match self.tab.selected_index:
            case 1:
                self.near.value = views.neighbours(runs, self.corpus, first, second, **self.near_options)
            case 2:
                self.moved.value = _picture(views.perturbed(runs, first, second, seed=self.seed))
            case _:
                self.words.value = views.words(runs, first, second)

    def _runs(self) -> dict[str, views.Loaded]:
        """The ticked runs with their models; those of others are let go."""
        ticked = self.table.ticked
        self.loaded = {name: self.loaded.get(name) or views.Loaded(run) for name, run in ticked.items()}
        return self.loaded

    def _soon(self) -> None:
        """Answer after a pause in which nothing else changes; at once where no event loop runs."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return self.answer()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(PAUSE, self.answer)

    def _repr_mimebundle_(self, **options: Any) -> dict:
        return _shown(self.box, "In Jupyter, texts are typed here and answered as they are typed.", options)


def _shown(box: widgets.Widget, instead: str, options: dict) -> dict:
    return box._repr_mimebundle_(**options) if is_live() else {"text/plain": instead}


def _picture(figure: Figure) -> str:
    """The figure as HTML that needs no file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" style="max-width: 900px; width: 100%">'


def _wide() -> widgets.Layout:
    return widgets.Layout(width="98%")


def _code(text: str) -> str:
    return f'<code style="white-space: pre; font-size: 12px">{html.escape(text)}</code>'


def _warning(text: str) -> str:
    return f'<b style="color: #b00000">{html.escape(text)}</b>' if text else ""
