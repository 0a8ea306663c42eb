"""Figures: they show what they are given, are the same bytes every time, and can be told apart by everyone."""

import hashlib
import json
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from systems import system

from mtlib.errors import StorageError
from mtlib.study import plots
from mtlib.study.statistics import compare
from mtlib.tasks import TASKS, Task


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def history(shift=0.0):
    epochs = np.arange(1, 6)
    scores = {"sst": 0.5 - 0.1 / epochs + shift, "qqp": 0.88 - 0.1 / epochs, "sts": 0.93 - 0.1 / epochs}
    frame = pd.DataFrame({"epoch": epochs, "step": epochs * 10, "train_loss": 1 / epochs, **scores})
    return frame.assign(mean=frame[["sst", "qqp", "sts"]].mean(axis=1), evenness=0.5, seconds=1.0)


def test_saved_figures_are_the_same_bytes_every_time(tmp_path):
    digests = []
    for _ in range(2):
        figure = plots.learning_curves({"λ = 10": history(), "λ = 15": history(0.01)})
        paths = plots.save(figure, "f", tmp_path)
        assert [path.suffix for path in paths] == [".pdf", ".png"]
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])
        assert b"CreationDate" not in paths[0].read_bytes()
    assert digests[0] == digests[1]


def test_a_folder_that_cannot_be_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        plots.save(plots.learning_curves(history()), "f", tmp_path / "file")


def test_one_run_has_a_line_a_task_and_several_a_panel():
    figure = plots.learning_curves(SimpleNamespace(history=history()))
    names = [text.get_text() for text in figure.axes[0].texts]
    assert sorted(names) == ["Mean", "QQP", "SST-5", "STS-B"]
    assert figure.axes[0].get_lines()[-1].get_ydata() == pytest.approx(history()["mean"].to_numpy())
    figure = plots.learning_curves({"a": SimpleNamespace(history=history()), "b": history(0.01)})
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert list(panels) == ["QQP", "SST-5", "STS-B", "Mean"]
    for line, shift in zip(panels["SST-5"].get_lines(), (0, 0.01), strict=True):
        assert line.get_ydata() == pytest.approx(history(shift)["sst"].to_numpy())
    assert all(axes.get_ylabel() and axes.get_xlabel() for axes in figure.axes)
    assert len(plots.learning_curves({"a": history()}, ["mean"]).axes) == 1


def test_differences_are_filled_where_they_are_resolved():
    systems = {"a": system(1), "b": system(2, skill=0.95, noise=0.5), "c": system(3)}
    table = compare(systems, [("a", "b"), ("a", "c")], draws=2000)
    panels = plots.differences(table, ["mean", "sst"]).axes
    assert [axes.get_title() for axes in panels] == ["Mean", "SST-5"]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["b − a", "c − a"]
    seen = set()
    for task, axes in zip(["mean", "sst"], panels, strict=True):
        shown = table[table["task"] == task]
        dots = [line for line in axes.get_lines() if line.get_marker() == "o"]
        assert [float(dot.get_xdata()[0]) for dot in dots] == shown["difference"].tolist()
        assert [float(dot.get_ydata()[0]) for dot in dots] == [0, 1]
        filled = [dot.get_markerfacecolor() != "white" for dot in dots]
        assert filled == (shown["resolved"] == "yes").tolist()
        seen |= set(filled)
    assert seen == {True, False}


def test_one_pair_alone_has_a_row_a_task():
    table = compare({"a": system(1), "b": system(2)}, [("a", "b")], draws=200)
    (axes,) = plots.differences(table).axes
    assert axes.get_title() == "b − a"
    assert [label.get_text() for label in axes.get_yticklabels()] == [*map(plots.title_of, table["task"])]
    dots = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert [float(dot.get_xdata()[0]) for dot in dots] == table["difference"].tolist()


def test_learning_curves_of_runs_with_other_tasks_have_all_of_them():
    one = pd.DataFrame({"epoch": [1, 2], "sst": [0.2, 0.4], "mean": [0.2, 0.4]})
    for runs in ({"one": one, "all": one.assign(qqp=0.6)}, {"all": one.assign(qqp=0.6), "one": one}):
        figure = plots.learning_curves(runs)
        assert {axes.get_title(): len(axes.get_lines()) for axes in figure.axes} == {"QQP": 1, "SST-5": 2, "Mean": 2}
        assert {text.get_text() for text in figure.legends[0].get_texts()} == {"one", "all"}


def test_learning_curves_ring_the_stored_epoch_and_say_how_many_examples_score_one():
    history = pd.DataFrame({"epoch": [1, 2, 3], "sst": [0.2, 0.4, 0.3], "mean": [0.3, 0.5, 0.4]})
    runs = {
        name: SimpleNamespace(history=history, best_epoch=epoch, experiment=SimpleNamespace(dev_limit=500))
        for name, epoch in {"a": 2, "b": 3}.items()
    }
    for axes, column in zip(plots.learning_curves(runs).axes, ("sst", "mean"), strict=True):
        rings = [line for line in axes.get_lines() if line.get_markerfacecolor() == "none"]
        assert [tuple(ring.get_xydata()[0]) for ring in rings] == [(2, history[column][1]), (3, history[column][2])]
        assert axes.get_ylabel().endswith(", ≤ 500 of dev")
    (axes,) = plots.learning_curves(history).axes
    assert axes.get_ylabel() == "dev score" and len(axes.get_lines()) == 2


def test_cost_shows_every_run_and_names_those_that_are_asked_for():
    scores = pd.DataFrame(
        {"mean": [0.7, 0.8, 0.75], "seconds": [10.0, 300.0, 40.0], "penalty": ["none", "SMART", "none"]}
    )
    scores.index = ["baseline", "best", "other"]
    figure = plots.cost(scores, "penalty", ["baseline", "best"])
    (axes,) = figure.axes
    drawn = np.concatenate([points.get_offsets() for points in axes.collections])
    assert sorted(map(tuple, drawn)) == sorted(zip(scores["seconds"], scores["mean"], strict=True))
    assert [text.get_text() for text in axes.texts] == ["baseline", "best"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["none", "SMART"]


def test_labels_are_spread_apart_and_otherwise_left_alone():
    assert plots.spread(np.array([0.1, 0.5, 0.9]), 0.1) == pytest.approx([0.1, 0.5, 0.9])
    assert plots.spread(np.array([0.5, 0.5]), 0.1) == pytest.approx([0.45, 0.55])
    crowded = plots.spread(np.sort(np.random.default_rng(0).uniform(0, 0.3, 8)), 0.08)
    assert np.diff(crowded).min() >= 0.08 - 1e-12


def test_palette_is_told_apart_with_colour_blindness():
    """The tasks' colours stay apart under Viénot, Brettel and Mollon's (1999) deuteranopia and protanopia."""
    matrices = {
        "protan": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        "deutan": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    }
    colours = [plots.TASK_COLOURS[name] for name in ("sst", "qqp", "sts", "mean")]
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colours]) ** 2.2
    for matrix in matrices.values():
        seen = np.clip(rgb @ np.array(matrix).T, 0, 1) ** (1 / 2.2)
        distances = np.linalg.norm(seen[:, None] - seen[None], axis=2)[np.triu_indices(4, 1)]
        assert distances.min() > 0.2, json.dumps(distances.round(2).tolist())


def test_tasks_of_one_s_own_have_colours_that_no_other_has(monkeypatch):
    names = ("news", "topic", "toxic")
    for name in names:
        monkeypatch.setitem(TASKS, name, Task(name, "binary", ("text",), "label"))
    colours = [plots.colour_of(name) for name in (*plots.TASK_COLOURS, *names)]
    assert len(set(colours)) == len(colours)
