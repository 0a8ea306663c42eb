"""The conflict log: what it holds, that it changes nothing, that a killed run's is an uninterrupted one's."""

import itertools
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from run_helpers import CORPUS, after_step, encoder, tiny

import mtlib
from mtlib.errors import CheckpointError, ConfigurationError
from mtlib.randomness import seeded
from mtlib.study import conflict
from mtlib.training import steps
from mtlib.training.conflicts import NAME, ConflictLog, read
from mtlib.training.runs import RunStore

SMALL = {"encoder": encoder(), "max_tokens": 32, "batch_size": 6, "epochs": 2, "steps_per_epoch": 6, "seed": 3}


def run(folder, **changes):
    return mtlib.fit(mtlib.experiment("smoke", **SMALL | changes), CORPUS, folder, progress="none")


@pytest.fixture(scope="module")
def surgery(tmp_path_factory):
    """A run with PCGrad that logs every other step, and the weights that TorchJD gave at each step."""
    seen = {}
    noted = steps._noted
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            steps, "_noted", lambda parts, w: seen.setdefault(len(seen) + 1, w.numpy()) is None or noted(parts, w)
        )
        return run(tmp_path_factory.mktemp("surgery"), step="joint", aggregate="pcgrad", conflicts=2), seen


def projected(gramian: np.ndarray) -> np.ndarray:
    """PCGrad's algorithm 1 on the Gram matrix alone; tasks come in the order that torch draws."""
    tasks = len(gramian)
    total = np.zeros(tasks)
    for i in range(tasks):
        own = np.eye(tasks)[i]
        for j in torch.randperm(tasks).tolist():
            if j != i and (against := own @ gramian[j]) < 0:
                own[j] -= against / gramian[j, j]
        total += own
    return total


def test_pcgrad_s_weights_follow_from_the_log(surgery):
    run, given = surgery
    logged = {step: matrix.to_numpy() for step, layer, matrix in conflict.gramians(run) if layer == "all"}
    assert list(logged) == [1, 3, 5, 7, 9, 11] and len(given) == 12
    for step, gramian in logged.items():
        with seeded(run.experiment.seed, "aggregate", step - 1):
            np.testing.assert_allclose(projected(gramian), given[step], rtol=0, atol=1e-6)
    assert max(np.abs(given[step] - 1).max() for step in logged) > 0.01, "some conflict"


def test_layers_add_up_to_the_whole(surgery):
    log = read(surgery[0])
    assert set(log["layer"]) == {"all", "encoder.embeddings", "encoder.encoder.layer.0"}
    assert (log["step"].value_counts() == 3 * 6).all()
    parts = log[log["layer"] != "all"].groupby(["step", "a", "b"])["product"].sum()
    whole = log[log["layer"] == "all"].set_index(["step", "a", "b"])["product"]
    pd.testing.assert_series_equal(parts.sort_index(), whole.sort_index(), rtol=1e-12)
    for _, _, matrix in conflict.gramians(surgery[0]):
        assert np.linalg.eigvalsh(matrix.to_numpy()).min() > -1e-4 * np.trace(matrix)


@pytest.mark.parametrize("changes", [{}, {"step": "joint"}, {"step": "joint", "aggregate": "upgrad"}])
def test_logging_changes_nothing_of_the_training(tmp_path, changes):
    plain, logged = run(tmp_path, **changes), run(tmp_path, conflicts=3, **changes)
    a, b = (each.model().state_dict() for each in (plain, logged))
    assert plain.id != logged.id and all(torch.equal(a[name], b[name]) for name in a)
    same = plain.history.columns.difference(["seconds"])
    pd.testing.assert_frame_equal(plain.history[same], logged.history[same])
    assert not (plain.path / NAME).exists() and read(logged)["step"].unique().tolist() == [1, 4, 7, 10]
    assert NAME in logged.read("status.json")["files"]


@pytest.mark.parametrize(("last", "changes"), [(5, {}), (8, {"step": "joint", "aggregate": "gradvac"})])
def test_a_killed_run_s_log_is_an_uninterrupted_one_s(tmp_path, last, changes):
    experiment = tiny("smart ball", penalties=[], conflicts=2, **changes)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert experiment.child(whole) == 0 and experiment.child(killed, after_step(last)) < 0
    (begun,) = RunStore(killed).all()
    found = read(begun)
    more = found.assign(step=99)
    begun.write_frame(NAME, pd.concat([found, more]))  # as if the kill had come between log and checkpoint
    assert experiment.child(killed) == 0
    assert experiment.outcome(killed) == experiment.outcome(whole)


@pytest.mark.parametrize("damage", ["gone", "cut", "short", "lines", "row", "other", "words"])
def test_a_log_that_lacks_something_is_refused(tmp_path, damage):
    experiment = tiny("smart ball", penalties=[], conflicts=2)
    assert experiment.child(tmp_path, after_step(6)) < 0
    (begun,) = RunStore(tmp_path).all()
    path = begun.path / NAME
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    elif damage == "short":
        begun.write_frame(NAME, read(begun).query("step != 3"))
    elif damage == "lines":  # the last step's row of the whole encoder
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    elif damage == "row":
        begun.write_frame(NAME, read(begun).drop(index=3))
    else:
        path.write_bytes(b"epoch,score\n1,0.5\n" if damage == "other" else path.read_bytes() + b"x,y,z,z,w\n")
    with pytest.raises(CheckpointError, match=NAME) as error:
        mtlib.fit(experiment.settings, CORPUS, tmp_path, progress="none")
    assert error.value.exit_code == 66


def test_fewer_examples_than_tasks_cannot_be_compared():
    with pytest.raises(ConfigurationError, match="at least 3, found 2") as error:
        mtlib.experiment("smoke", batch_size=2, conflicts=10)
    assert error.value.exit_code == 64


def test_a_task_alone_has_nothing_to_be_compared_with():
    with pytest.raises(ConfigurationError, match="conflicts: expected two or more tasks to compare, found sst alone"):
        mtlib.experiment("smoke", tasks=["sst"], conflicts=10)


def made_up_log(tasks, steps=4) -> SimpleNamespace:
    """A run whose log has gradients of random directions; the first task's are zero at the first step."""
    rows, random = [], np.random.default_rng(1)
    for step in range(1, steps + 1):
        gradients = random.normal(size=(len(tasks), 3))
        gradients[0] *= step > 1
        for (i, a), (j, b) in itertools.combinations_with_replacement(enumerate(tasks), 2):
            product = gradients[i] @ gradients[j]
            rows += [{"step": step, "layer": layer, "a": a, "b": b, "product": product} for layer in ("x", "all")]
    frame = pd.DataFrame(rows)
    return SimpleNamespace(read_frame=lambda *_, **__: frame, experiment=SimpleNamespace(task_names=tuple(tasks)))


def test_steps_without_a_cosine_do_not_count_as_no_conflict():
    run = made_up_log(["sst", "sts"])
    cosines = conflict.cosines(run).query("layer == 'x'")["cosine"]
    assert cosines.isna().tolist() == [True, False, False, False]
    assert conflict.conflict_table(run).loc["x", "sst, sts"] == pytest.approx((cosines < 0).sum() / 3)
    assert conflict.conflict_table(made_up_log(["sst", "sts"], steps=1)).isna().all(axis=None)


def test_ten_pairs_of_five_tasks_are_drawn():
    tasks = [mtlib.register(mtlib.Task(f"made_up_{n}", "binary", ("a",), "label")).name for n in range(5)]
    figure = conflict.conflict_plot(made_up_log(tasks))
    assert len(figure.axes) == 2 * 10 + 1
    plt.close(figure)


def test_cosines_tables_and_figure(surgery):
    run, _ = surgery
    table = conflict.cosines(run)
    assert len(table) == 6 * 3 * 3 and table["cosine"].abs().max() <= 1 + 1e-5
    assert table["pair"].unique().tolist() == ["qqp, sst", "qqp, sts", "sst, sts"]
    whole = {step: matrix for step, layer, matrix in conflict.gramians(run) if layer == "all"}[3]
    row = table.query("step == 3 and layer == 'all' and pair == 'sst, sts'").iloc[0]
    a, b = whole.loc["sst", "sst"], whole.loc["sts", "sts"]
    assert row["cosine"] == pytest.approx(whole.loc["sst", "sts"] / np.sqrt(a * b))
    assert row["ratio"] == pytest.approx(np.sqrt(a / b))
    shares = conflict.conflict_table(run)
    assert shares.shape == (3, 3) and shares.to_numpy().min() >= 0 and shares.to_numpy().max() <= 1
    assert shares.loc["all", "sst, sts"] == (table.query("layer == 'all' and pair == 'sst, sts'")["cosine"] < 0).mean()
    means = conflict.mean_cosines(run).set_index("pair").loc["SST-5 and STS-B"]
    logged = table.query("layer == 'all' and pair == 'sst, sts'")["cosine"]
    assert means["cosine"] == pytest.approx(logged.mean()) and means["n"] == len(logged) == 6
    assert logged.min() <= means["low"] < means["cosine"] < means["high"] <= logged.max()
    figure = conflict.conflict_plot(run)
    top, below = figure.axes[0], figure.axes[3]
    assert [text.get_text() for text in below.get_yticklabels()] == ["embeddings", "layer 1"]
    assert top.get_ylabel() == "cosine, whole encoder" and len(figure.axes) == 7


def test_what_is_due():
    log = ConflictLog(4, ["a", "b"])
    assert [number for number in range(10) if log.due(number)] == [0, 4, 8]
    log.add(4, {"x": torch.tensor([[1.0, -2.0], [-2.0, 9.0]]), "y": torch.eye(2)})
    assert [(row["step"], row["layer"], row["a"], row["b"], row["product"]) for row in log.rows[-3:]] == [
        (5, "all", "a", "a", 2.0),
        (5, "all", "a", "b", -2.0),
        (5, "all", "b", "b", 10.0),
    ]
