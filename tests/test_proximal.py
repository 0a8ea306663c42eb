"""Rises, halvings and the fixed mix of tasks against hand-made histories; teachers' predictions against the model."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import mtlib
from mtlib.study import proximal
from mtlib.study.parts import Dev, task_scores

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
    return SimpleNamespace(history=history, experiment=SimpleNamespace(tasks=TASKS))


@pytest.mark.parametrize(
    "totals, rises, longest, halvings, most",
    [
        ([4, 3, 2, 1], 0, 0, 0, 1),
        ([1, 2, 3, 4], 3, 3, 1, 1),
        ([1, 2, 3, 2, 3, 4], 4, 2, 0, 1),
        ([1, 2, 3, 4, 5, 6, 7], 6, 6, 2, 2),
        ([1, 2], 1, 1, 0, 0),
    ],
)
def test_rises_and_halvings(totals, rises, longest, halvings, most):
    found = proximal.rises(made_up_run(totals))
    assert (found["rises"], found["longest"], found["halvings"], found["most"]) == (rises, longest, halvings, most)
    assert found["rises at fixed mix"] == rises


def test_a_total_that_rises_by_the_mix_alone_does_not_rise_at_a_fixed_mix():
    each = np.column_stack([[2.0, 1.9, 1.8, 1.7], [0.5, 0.45, 0.4, 0.35]])
    run = made_up_run(shares=[0.1, 0.4, 0.6, 0.9], each=each, penalty=0.01)
    found = proximal.rises(run)
    assert found["rises"] == 3 and found["halvings"] == 1 and found["rises at fixed mix"] == 0
    table = proximal.losses(run)
    assert table["fixed mix"].to_numpy() == pytest.approx(each.mean(axis=1) + 0.01)
    assert table["penalty"].to_numpy() == pytest.approx(0.01)


@pytest.fixture(scope="module")
def taught(corpus, tmp_path_factory):
    """A finished run with a teacher that forgets at once: beta 0."""
    experiment = mtlib.experiment("smoke", penalties=[mtlib.Bregman(weight=0.5, decay=0.0)], precision="float32")
    return mtlib.fit(experiment, corpus, tmp_path_factory.mktemp("taught"), progress="none")


def test_a_teacher_with_beta_0_predicts_what_the_student_does(taught):
    both = proximal.student_and_teacher(taught)
    for task in taught.experiment.tasks:
        pd.testing.assert_frame_equal(
            both["student"].predictions("dev", task), both["teacher"].predictions("dev", task)
        )
    scores = task_scores(both["student"], Dev(), taught.experiment.tasks)
    assert scores["mean"] == pytest.approx(taught.last_scores["mean"])
    assert proximal.momentum(taught) == "0" and proximal.start_share(taught) == 0


@pytest.mark.parametrize("late, updates", [(None, 20), (0.999, 20), (0.999, 25), (0.5, 7)])
def test_share_of_the_start_is_the_product_of_the_updates(late, updates):
    penalty = mtlib.Bregman(weight=1.0, decay=0.9, late_decay=late, switch_at=0.3)
    working = penalty.start(torch.nn.Linear(1, 1), updates)
    expected = np.prod([working.decay_at(number) for number in range(updates)])
    run = SimpleNamespace(experiment=mtlib.experiment("smoke", penalties=[penalty], epochs=1, steps=updates))
    assert proximal.start_share(run) == pytest.approx(expected)


def test_losses_of_a_real_run_add_up(taught):
    table, history = proximal.losses(taught), taught.history
    assert table["penalty"].to_numpy() == pytest.approx(0.5 * history["bregman/penalty"].to_numpy(), abs=1e-6)
    for figure in (proximal.loss_figure({"run": taught}), proximal.teacher_figure({"run": taught})):
        assert figure.axes[0].lines
