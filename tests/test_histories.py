"""Draws, rises, halvings and the fixed mix of tasks against hand-made histories; teachers against their students."""

from types import SimpleNamespace
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

import mtlib
from mtlib.errors import ConfigurationError
from mtlib.samplers import Annealed, Proportional, RoundRobin, Sampler
from mtlib.study import histories
from mtlib.study.eval_splits import Dev, task_scores

TASKS = ("sst", "qqp")


def made_up_run(totals=None, shares=None, each=None, penalty=0.0):
    """A run of two tasks whose history says how often each was drawn and what it lost."""
    shares = np.full(len(totals), 0.5) if shares is None else np.asarray(shares)
    each = np.column_stack([totals, totals]) if each is None else np.asarray(each, float)
    history = pd.DataFrame({"epoch": np.arange(len(shares)) + 1, "learning_rate": 1e-4})
    history["train_loss"] = shares * each[:, 0] + (1 - shares) * each[:, 1] + penalty
    for index, task in enumerate(TASKS):
        history[f"train_loss_{task}"] = each[:, index]
        history[f"draws_{task}"] = 100 * (shares if index == 0 else 1 - shares)
    return SimpleNamespace(history=history, experiment=SimpleNamespace(task_names=TASKS))


@pytest.mark.parametrize(
    "totals, rises, longest, halvings, most",
    [
        ([4, 3, 2, 1], 0, 0, 0, 0),
        ([1, 2, 3, 4], 3, 3, 0, 0),
        ([1, 2, 3, 4, 4], 3, 3, 1, 1),
        ([1, 2, 3, 2, 3, 4], 4, 2, 0, 1),
        ([1, 2, 3, 4, 5, 6, 7], 6, 6, 1, 1),
        ([1, 2, 3, 4, 5, 6, 7, 8], 7, 7, 2, 2),
        ([1, 2], 1, 1, 0, 0),
    ],
)
def test_rises_and_halvings(totals, rises, longest, halvings, most):
    found = histories.rises(made_up_run(totals))
    assert (found["rises"], found["longest"], found["halvings"], found["most"]) == (rises, longest, halvings, most)
    assert found["rises at fixed mix"] == rises


def test_a_total_that_rises_by_the_mix_alone_does_not_rise_at_a_fixed_mix():
    each = np.column_stack([[2.0, 1.9, 1.8, 1.7, 1.6], [0.5, 0.45, 0.4, 0.35, 0.3]])
    run = made_up_run(shares=[0.1, 0.3, 0.5, 0.7, 0.9], each=each, penalty=0.01)
    found = histories.rises(run)
    assert found["rises"] == 4 and found["halvings"] == 1 and found["rises at fixed mix"] == 0
    table = histories.losses(run)
    assert table["fixed mix"].to_numpy() == pytest.approx(each.mean(axis=1))
    assert table["penalty"].to_numpy() == pytest.approx(0.01)


def test_a_penalty_of_one_task_alone_does_not_move_the_fixed_mix():
    # both tasks lose 1 throughout; the first one's penalty of 2 is drawn less and less
    shares = np.array([0.8, 0.5, 0.2])
    run = made_up_run(shares=shares, each=np.ones((3, 2)), penalty=2 * shares)
    table = histories.losses(run)
    assert table["fixed mix"].tolist() == pytest.approx([1, 1, 1])
    assert table["penalty"].tolist() == pytest.approx([1.6, 1.0, 0.4])


@pytest.fixture(scope="module")
def taught(corpus, tmp_path_factory):
    """A finished run with a teacher that forgets at once: beta 0."""
    experiment = mtlib.experiment("smoke", penalties=[mtlib.Bregman(weight=0.5, decay=0.0)], precision="float32")
    return mtlib.fit(experiment, corpus, tmp_path_factory.mktemp("taught"), progress="none")


def test_a_teacher_with_beta_0_predicts_what_the_student_does(taught):
    both = histories.student_and_teacher(taught)
    for task in taught.experiment.tasks:
        pd.testing.assert_frame_equal(
            both["student"].predictions("dev", task), both["teacher"].predictions("dev", task)
        )
    scores = task_scores(both["student"], Dev())
    assert scores["mean"] == pytest.approx(taught.last_scores["mean"])


@pytest.mark.parametrize("late, updates", [(None, 20), (0.999, 20), (0.999, 25), (0.5, 7), (0.0, 10)])
def test_share_of_the_start_is_the_product_of_the_updates(late, updates):
    schedule = {} if late is None else {"late_decay": late, "switch_at": 0.3}
    penalty = mtlib.Bregman(weight=1.0, decay=0.9, **schedule)
    working = penalty.start(torch.nn.Linear(1, 1), updates)
    expected = np.prod([working.decay_at(number) for number in range(updates)])
    run = fake(penalties=(penalty,), steps=updates)
    assert histories.start_share(run) == pytest.approx(expected)


def test_a_run_without_a_teacher_has_no_share_of_the_start():
    with pytest.raises(ConfigurationError, match="Bregman"):
        histories.start_share(fake(penalties=(mtlib.Bregman(weight=0.0, decay=0.9),), steps=1))


def fake(history=None, **settings):
    return SimpleNamespace(history=history, experiment=SimpleNamespace(**settings))


def test_draws_are_counted_against_the_samplers_probabilities():
    sizes = {"sst": 10, "qqp": 60, "sts": 30}
    counts = pd.DataFrame({"epoch": [1, 2], "draws_sst": [1, 1], "draws_qqp": [4, 2], "draws_sts": [1, 3]})
    shared = {"task_names": ("sst", "qqp", "sts"), "epochs": 2, "steps_per_epoch": 6, "batch_size": 4}
    shared["step"] = "single"
    even = counts.assign(draws_sst=2, draws_qqp=2, draws_sts=2)
    runs = {
        "round robin": fake(even, sampler=RoundRobin(), **shared),
        "annealed": fake(counts, sampler=Annealed(), **shared),
    }
    table = histories.draws(runs["annealed"], sizes)
    assert (table.groupby("epoch")[["probability", "share"]].sum().round(12) == 1).all(axis=None)
    expected = {name: n / sum(sizes.values()) for name, n in sizes.items()}
    assert table[table["epoch"] == 1].set_index("task")["probability"].to_dict() == pytest.approx(expected)
    drawn = histories.drawn(runs, sizes).set_index(["run", "task"])
    assert drawn.loc["round robin", "expected"].tolist() == pytest.approx([4, 4, 4])
    assert drawn.loc["annealed", "batches"].to_dict() == {"qqp": 6, "sst": 2, "sts": 4}
    assert drawn.loc[("annealed", "sts"), "passes"] == 4 / 8 and drawn.loc[("annealed", "sst"), "passes"] == 2 / 3
    panels = {name: histories.draws(run, sizes) for name, run in runs.items()}
    panels["the report's data"] = histories.probabilities(Annealed(), {"sst": 8544, "qqp": 141505, "sts": 6040}, 10)
    figure = histories.sampling_plot(panels)
    assert [axes.get_title() for axes in figure.axes] == list(panels)
    line = next(line for line in figure.axes[2].get_lines() if line.get_label() == "SST-5")
    assert line.get_ydata()[[0, 4, 9]] == pytest.approx([0.0547, 0.1265, 0.2713], abs=5e-5)
    plt.close(figure)


def test_a_joint_run_s_draws_are_the_examples_of_its_parts():
    # 8 p = .8, 4.8 and 2.4: one, five and two of eight examples in each of six steps
    sizes = {"sst": 10, "qqp": 60, "sts": 30}
    shares = {f"draws_{task}": [6 * size / 100] for task, size in sizes.items()}  # what the history of joint steps has
    settings = {"epochs": 1, "steps_per_epoch": 6, "batch_size": 8, "step": "joint", "task_names": tuple(sizes)}
    run = fake(pd.DataFrame({"epoch": [1], **shares}), sampler=Proportional(), **settings)
    shares = histories.draws(run, sizes).set_index("task")["share"]
    assert shares.to_dict() == {"sst": 1 / 8, "qqp": 5 / 8, "sts": 2 / 8}
    drawn = histories.drawn({"joint": run}, sizes).set_index("task")
    assert drawn["batches"].to_dict() == {"qqp": 30 / 8, "sst": 6 / 8, "sts": 12 / 8}
    assert drawn["passes"].to_dict() == pytest.approx({"qqp": 30 / 60, "sst": 6 / 10, "sts": 12 / 30})


def test_what_smart_logged_is_the_logs():
    columns = {"smart/penalty": [0.3, 0.2, 0.1], "smart/radius": [1.0, 0.8, 0.9], "smart/skipped": [0.0, 0.5, 0.25]}
    found = histories.smart_log(fake(pd.DataFrame(columns), steps_per_epoch=4))
    assert found == {"radius": pytest.approx(0.9), "first penalty": 0.3, "last penalty": 0.1, "skipped": 3}
    skipped = histories.smart_log(fake(pd.DataFrame({"smart/skipped": [1.0, 1.0]}), steps_per_epoch=4))
    without = histories.smart_log(fake(pd.DataFrame({"epoch": [1]}), steps_per_epoch=4))
    assert (skipped.pop("skipped"), without.pop("skipped")) == (8, 0)
    assert np.isnan([*skipped.values(), *without.values()]).all()


class Counts(Sampler):
    """Numbers that do not add up to 1: one to three."""

    kind: Literal["counts"] = "counts"

    def probabilities(self, sizes, epoch, epochs):
        return np.array([2.0, 6.0])


def test_probabilities_are_those_that_are_drawn_by_and_add_up_to_1():
    table = histories.probabilities(Counts(), {"sst": 1, "qqp": 1}, 2)
    assert table["probability"].tolist() == [0.25, 0.75] * 2 and table["epoch"].tolist() == [1, 1, 2, 2]


def test_a_task_that_was_never_drawn_has_no_loss():
    run = made_up_run([2.0, 1.0], shares=[1.0, 1.0])
    run.history = run.history.drop(columns="train_loss_qqp")
    table = histories.losses(run)
    assert table["sst"].tolist() == table["total"].tolist() == [2.0, 1.0] and table["penalty"].tolist() == [0.0, 0.0]
    assert table[["qqp", "fixed mix"]].isna().all(axis=None)
    assert np.isnan(histories.rises(run)["rises at fixed mix"])
    plt.close(histories.loss_plot({"run": run}))


def test_ranking_is_drawn_with_its_chance_and_its_start():
    history = pd.DataFrame({"epoch": [1, 2], "train_loss": [1.5, 1.2], "dev_loss": [1.4, 1.3]})
    axes = histories.ranking_plot(SimpleNamespace(history=history), chance=1.61, start=1.6).axes[0]
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
    assert lines["dev, end of the epoch"] == [[0, 1.6], [1, 1.4], [2, 1.3]] and "chance, 1.61" in lines
    plt.close("all")


def test_losses_of_a_real_run_add_up(taught):
    table, history = histories.losses(taught), taught.history
    assert table["penalty"].to_numpy() == pytest.approx(0.5 * history["bregman/penalty"].to_numpy(), abs=1e-6)
    for figure in (histories.loss_plot({"run": taught}), histories.teacher_plot({"run": taught})):
        assert figure.axes[0].lines
