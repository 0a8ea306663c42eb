"""What runs say of texts as HTML, and the widgets over it: the models' own answers, and texts that stay texts."""

import html
import re

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from mtlib.errors import ConfigurationError
from mtlib.study import plots, tables, views
from mtlib.study.attributions import Attribution, integrated_gradients
from mtlib.study.neighbours import nearest
from mtlib.workbook import explorer

FIRST, SECOND = "red <b>cat</b> & dog", "big dog sleeps"


class OtherEncoder:
    """A run as it is, but for the encoder that it says it has."""

    def __init__(self, run, encoder):
        self.run, self.experiment = run, run.experiment.but(encoder=encoder)

    def __getattr__(self, name):
        return getattr(self.run, name)


@pytest.fixture
def loaded(run):
    return views.load({"a & b": run, "again": run})


def texts(view):
    """The text between tags."""
    return html.unescape(re.sub("<[^>]*>", "", view))


def test_answers_are_the_model_s_and_texts_are_no_html(run, loaded):
    view, model = views.answers(loaded, FIRST, SECOND), run.model()
    said = model.predict("sst", FIRST, precision="float32").iloc[0]
    similarity = model.predict("sts", (FIRST, SECOND), precision="float32")["prediction"].item()
    assert view.count(f"{said['label']} {said[f'p{said.prediction}']:.2f}") >= 2
    assert view.count(f"{similarity:.2f} of 5") == 2 and "a &amp; b" in view and "a & b" not in view
    for index, name in enumerate(model.task("sst").class_names):
        assert f'title="{name} {said[f"p{index}"]:.3f}"' in view
    assert "<script" not in view and "http" not in view


@pytest.mark.parametrize(
    "first, second, rows",
    [("x", "", ["SST-5first"]), ("", "x", ["SST-5second"]), ("x", "y", ["QQPboth", "SST-5first", "SST-5second"])],
)
def test_every_task_answers_what_it_can_read(loaded, first, second, rows):
    found = texts(views.answers(loaded, first, second).replace("<tr>", "\n"))
    assert [line for row in rows for line in found.splitlines() if line.startswith(row)]
    assert ("QQP" in found) == bool(first and second) and found.count("\n") == 1 + len(rows) + bool(first and second)


def test_words_are_the_texts_coloured_by_their_attributions(run, loaded):
    view = views.words(loaded, FIRST, SECOND, steps=4)
    found = integrated_gradients(run.model(), "sst", FIRST, steps=4)
    assert texts(view).count(FIRST) == 6 and "<b>cat" not in view
    for share in found.words["attribution"]:
        assert f'title="{share:+.3f}"' in view
    words = pd.DataFrame(
        {"text": 0, "start": [0, 4], "end": [3, 7], "word": ["red", "cat"], "attribution": [0.5, -0.25]}
    )
    shown = views.coloured(Attribution(words, "log p of x", -1.0, -1.25), ["red cat!"])
    grounds = re.findall(r"background: (#\w{6})(\w\w)", shown)
    assert grounds == [(views.FOR, "c8"), (views.AGAINST, "64")] and texts(shown).endswith("red cat!")
    assert "log p of x -1.00, -1.25 with every word hidden" in shown


def test_neighbours_are_marked_as_sentences_of_a_corpus(run, loaded, corpus):
    view = views.neighbours(loaded, corpus, FIRST, SECOND, number=2)
    near = nearest(run, "qqp", (FIRST, SECOND), corpus["qqp"].train, 2)
    for row in near.to_dict("records"):
        assert f"{row['cosine']:.2f} {row['name']} {row['text_a']} / {row['text_b']}" in texts(view)
    assert f'id="{tables.SENTENCES}"' in view


def test_a_panel_a_task_and_text_shows_how_answers_move(loaded):
    figure = views.perturbed(loaded, FIRST, SECOND)
    assert [axes.get_title() for axes in figure.axes] == ["QQP, both", "SST-5, first", "SST-5, second", "STS-B, both"]
    assert all(len(axes.get_lines()) == 6 for axes in figure.axes) and figure._suptitle is None
    plt.close(figure)


def test_what_no_task_reads_moves_no_answer(loaded):
    with pytest.raises(ConfigurationError, match="no task of these runs reads what was given"):
        views.perturbed(loaded, "")


def test_different_encoders_are_named(run, loaded):
    other = OtherEncoder(run, "some/bert")
    assert views.encoder_notice(loaded) == ""
    notice = views.encoder_notice({**loaded, "c": other})
    assert notice.startswith("Different encoders: tiny (a & b, again); bert (c).")
    mixed = {"a": loaded["again"], "c": views.Loaded(other)}
    for view in (views.answers, views.words):
        assert "Different encoders: tiny (a); bert (c)." in texts(view(mixed, FIRST))
    figure = views.perturbed(mixed, FIRST)
    assert "Different encoders" in figure.get_suptitle()
    plt.close(figure)


@pytest.fixture
def table(run):
    scores = pd.DataFrame(
        {"penalties": ["none", "smart-15", "none"], "mean": [0.5, 0.6, 0.4]}, ["base", "smart", "other"]
    )
    runs = {"base": run, "smart": run, "other": OtherEncoder(run, "some/bert")}
    return explorer.RunTable(runs, scores, ["smart", "base"])


def test_runs_are_ticked_and_their_curves_laid_over_each_other(table, monkeypatch):
    drawn, heard = [], []
    monkeypatch.setattr(plots, "learning_curves", lambda runs, columns: drawn.append(list(runs)) or plt.figure())
    table.listen(lambda: heard.append(list(table.ticked)))
    assert list(table.ticked) == ["base", "smart"] and table.notice.value == "" and table.curves.value
    table.boxes["other"].value = True
    assert drawn == heard == [["base", "smart", "other"]] and "Different encoders" in table.notice.value
    for box in table.boxes.values():
        box.value = False
    assert table.ticked == {} and table.curves.value == ""


def test_the_filter_hides_rows_and_leaves_them_ticked(table):
    table.filter.value = "SMART-"
    assert [name for name, row in table.rows.items() if row.layout.display != "none"] == ["smart"]
    assert list(table.ticked) == ["base", "smart"]
    table.filter.value = ""
    assert all(row.layout.display == "" for row in table.rows.values())


def test_typing_changes_the_answer_and_only_the_open_tab_is_computed(table, corpus, monkeypatch):
    asked = explorer.Explorer(table, corpus, FIRST)
    asked.texts[0].value = "green bird"
    before = asked.answers.value, asked.words.value
    assert "SST-5" in before[0] and "QQP" not in before[0] and "green" in texts(before[1])
    model = asked.loaded["base"].model()
    asked.texts[1].value = SECOND
    assert asked.answers.value != before[0] and "QQP" in asked.answers.value and "sleeps" in texts(asked.words.value)
    assert asked.loaded["base"].model() is model and not asked.near.value and not asked.moved.value
    asked.tab.selected_index = 1
    assert "duplicate" in asked.near.value or "different" in asked.near.value
    asked.tab.selected_index = 2
    assert asked.moved.value.startswith('<img src="data:image/png;base64,')
    table.boxes["base"].value = False
    assert list(asked.loaded) == ["smart"] and "base" not in asked.answers.value
    monkeypatch.setattr(views, "answers", lambda *_: integrated_gradients(model, "sst", ["a", "b"]))
    asked.texts[0].value = "x"
    assert "expected one input, found 2" in asked.notice.value
    asked.texts[0].value = asked.texts[1].value = " "
    assert "type a text" in asked.answers.value and asked.notice.value == ""


def test_where_nobody_types_a_line_stands_for_the_widget(table, corpus, monkeypatch):
    asked = explorer.Explorer(table, corpus, FIRST)
    for each in (table, asked):
        assert list(each._repr_mimebundle_()) == ["text/plain"]
    assert not asked.answers.value, "and nothing is computed"
    monkeypatch.setattr(explorer, "is_live", lambda: True)
    for each in (table, asked):
        assert "application/vnd.jupyter.widget-view+json" in each._repr_mimebundle_()
