"""Joint steps: how a batch is shared out, which examples come when, what is minimised, and kills."""

from collections import Counter

import numpy as np
import pytest
import torch
from conftest import made_up_corpus
from hypothesis import given
from hypothesis import strategies as some
from run_helpers import CORPUS, after_step, encoder, tiny

import mtlib
from mtlib.data.batches import TokenizedCorpus
from mtlib.errors import CheckpointError, ConfigurationError
from mtlib.identity import said
from mtlib.objectives.aggregation import Aggregation
from mtlib.objectives.weighting import Uncertainty
from mtlib.samplers import Annealed, RoundRobin, apportioned
from mtlib.training.checkpoints import CheckpointStore
from mtlib.training.distributed import Ranks
from mtlib.training.joint import JointBatches, Part
from mtlib.training.loop import Training
from mtlib.training.runs import RunStore
from mtlib.training.start import Start
from mtlib.training.steps import backward, merged

SMALL = {"encoder": encoder(), "max_tokens": 32, "batch_size": 7, "epochs": 3, "steps_per_epoch": 6, "step": "joint"}
NO_DROPOUT = mtlib.Smart(weight=0.0)


def joint(**changes):
    return mtlib.experiment("smoke", **SMALL | changes)


def training_of(experiment, folder) -> Training:
    """A run built and not begun."""
    start = Start(experiment, CORPUS, RunStore(folder))
    training = Training(start, start.run(), "none", 1.0, False, Ranks())
    training.build()
    return training


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    return training_of(joint(penalties=[NO_DROPOUT], precision="float32"), tmp_path_factory.mktemp("built"))


# Shares


@given(some.lists(some.floats(0, 1), min_size=1, max_size=6).filter(sum), some.integers(0, 60))
def test_a_batch_is_shared_out_whole_and_nobody_goes_without(shares, more):
    shares = np.array(shares) / sum(shares)
    counts = apportioned(shares, len(shares) + more)
    assert counts.sum() == len(shares) + more and counts.min() >= 1
    assert (counts - shares * counts.sum() <= 1 + 1e-6).all()
    if (shares * counts.sum() >= 1).all():
        assert (np.abs(counts - shares * counts.sum()) < 1 + 1e-6).all()


def test_shares_by_hand():
    # 16 p = 2.02, 12.36, 1.62: floors 2, 12, 1 and the one left to the largest remainder; then 4.34, 7.61, 4.05
    assert apportioned([0.1265, 0.7723, 0.1012], 16).tolist() == [2, 12, 2]
    assert apportioned([0.2713, 0.4756, 0.2531], 16).tolist() == [4, 8, 4]
    assert apportioned([1.0, 0.0, 0.0], 4).tolist() == [2, 1, 1]
    with pytest.raises(ConfigurationError, match="3 tasks: found 2 examples"):
        apportioned([1.0, 0.0, 0.0], 2)


# Which examples, and when


@pytest.fixture(scope="module")
def splits(training):
    corpus = made_up_corpus(rows=31)
    return TokenizedCorpus.build(corpus, training.tasks, training.model.tokenizer, 32).train


@pytest.mark.parametrize("sampler", [RoundRobin(), Annealed()])
def test_every_example_comes_once_a_pass_whatever_the_shares(splits, sampler):
    experiment = joint(sampler=sampler, epochs=4, steps_per_epoch=11, batch_size=13)
    batches = JointBatches(experiment, splits)
    for place, name in enumerate(experiment.tasks):
        drawn = [batches.parts(number)[place].batch for number in range(experiment.steps)]
        assert [len(batch.rows) for batch in drawn] == np.repeat(batches.counts[:, place], 11).tolist()
        for epoch in range(1, 5):
            seen = Counter(row for batch in drawn[: 11 * epoch] for row in batch.rows.tolist())
            assert len(seen) == 31 or max(seen.values()) == 1, name
            assert max(seen.values()) - min(seen.values()) <= 1


def test_parts_are_a_function_of_the_step(splits):
    forwards, backwards = JointBatches(joint(), splits), JointBatches(joint(), splits)
    for number in reversed(range(joint().steps)):
        backwards.parts(number)
    other = JointBatches(joint(seed=1), splits)
    different = 0
    for number in range(joint().steps):
        for a, b, c in zip(forwards.parts(number), backwards.parts(number), other.parts(number), strict=True):
            assert a.batch.rows.tolist() == b.batch.rows.tolist() and (a.weight, a.seed) == (b.weight, b.seed)
            different += a.batch.rows.tolist() != c.batch.rows.tolist()
    assert different > 30
    assert sum(len(part.batch.rows) for part in forwards.parts(0)) == 7
    assert len({part.seed for part in forwards.parts(0)}) == 3


def test_a_batch_has_sentences_of_similar_length(splits):
    batches = JointBatches(joint(steps_per_epoch=30, batch_size=12, epochs=1), splits)
    lengths = splits["qqp"].lengths
    spread = np.mean([np.ptp(lengths[batches.parts(n)[1].batch.rows]) for n in range(30)])
    assert spread < np.mean([np.ptp(np.random.default_rng(n).choice(lengths, 4)) for n in range(200)]) / 2


@pytest.mark.parametrize("changes", [{}, {"step": "single", "conflicts": 2}])
def test_a_loss_that_compares_examples_needs_two_of_its_task_in_every_step(splits, changes):
    # five examples of three tasks are 2, 2 and 1, six are 2 each; a share of 0 is squared error alone
    with pytest.raises(ConfigurationError, match="2 or more of sts .* found 1 of 5 in epoch 1") as error:
        JointBatches(joint(batch_size=5, losses={"sts": "correlation"}, **changes), splits)
    assert error.value.exit_code == 64
    for size, share in ((6, 1.0), (5, 0.0)):
        losses = {"sts": {"kind": "correlation", "share": share}}
        assert JointBatches(joint(batch_size=size, losses=losses, **changes), splits).parts(0)


# What is minimised


def test_a_joint_step_s_gradient_is_the_tasks_own_by_their_shares(training):
    parts = training._parts(0)
    weights = [0.5, 0.3, 0.2]
    parts = [Part(part.batch, weight, part.seed) for part, weight in zip(parts, weights, strict=True)]
    log = backward(training, parts, 0)
    found = {name: p.grad.clone() for name, p in training.model.named_parameters() if p.grad is not None}
    total, losses = 0.0, {}
    for part in parts:
        task = part.batch.task
        loss = task.loss(training.model(task.name, part.batch.inputs), part.batch.labels)
        losses[task.name], total = loss.item(), total + part.weight * loss
    training.gradients.clear()
    total.backward()
    assert found.keys() == {name for name, p in training.model.named_parameters() if p.grad is not None}
    for name, p in training.model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(found[name], p.grad, rtol=1e-4, atol=1e-6, msg=name)
    assert log["train_loss"] == pytest.approx(total.item(), rel=1e-5)
    assert {name: log[f"train_loss_{name}"] for name in losses} == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("kind", ["pcgrad", "upgrad", "sum"])
def test_what_is_shared_gets_the_weighted_sum_and_each_head_its_own(tmp_path, kind):
    training = training_of(joint(penalties=[NO_DROPOUT], precision="float32", aggregate=kind), tmp_path)
    parts = training._parts(2)
    log = backward(training, parts, 2)
    found = {name: p.grad.clone() for name, p in training.model.named_parameters() if p.grad is not None}
    weights = [log.get(f"weight_{part.batch.task.name}", 1.0) for part in parts]
    assert kind == "sum" or max(weights) > 1.001, "some conflict"
    expected = {name: torch.zeros_like(grad) for name, grad in found.items()}
    for part, weight in zip(parts, weights, strict=True):
        task = part.batch.task
        training.gradients.clear()
        (part.weight * task.loss(training.model(task.name, part.batch.inputs), part.batch.labels)).backward()
        for name, parameter in training.model.named_parameters():
            if parameter.grad is not None:
                expected[name] += parameter.grad * (1.0 if name.startswith("heads.") else weight)
    assert found.keys() == {name for name, p in training.model.named_parameters() if "pooler" not in name}
    for name, grad in found.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_weights_from_the_gram_matrix_are_torchjd_s_of_the_gradients_themselves(tmp_path):
    from torchjd.aggregation import MGDA, AlignedMTL, UPGrad

    training = training_of(joint(penalties=[NO_DROPOUT], aggregate="pcgrad", precision="float32"), tmp_path)
    backward(training, training._parts(1), 1)
    rows = training.shared.rows.double()
    gramian = sum(training.shared.gramians().values())
    torch.testing.assert_close(gramian, rows @ rows.T, rtol=1e-4, atol=1e-7)
    size = gramian.trace().sqrt()
    for kind, method in {"upgrad": UPGrad(), "mgda": MGDA(), "aligned_mtl": AlignedMTL()}.items():
        ours = Aggregation.read(kind).start(3).weights(gramian) @ rows
        torch.testing.assert_close(ours, 3 * method(rows / size) * size, rtol=1e-3, atol=1e-5 * size.item(), msg=kind)


def test_what_parts_record_is_meant_by_their_weights():
    parts = [Part(None, weight, 0) for weight in (0.25, 0.75, 0.0)]
    logs = [{"a": 1.0, "b": 2.0}, {"a": 5.0}, {"c": 3.0}]
    assert merged(parts, logs) == {"a": 4.0, "b": 2.0, "c": 3.0}


def test_masks_differ_between_the_tasks_of_one_step(training, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "mtlib.training.loop.seeded", lambda *stream: seen.append(stream) or mtlib.randomness.seeded(*stream)
    )
    backward(training, training._parts(3), 3)
    assert len(seen) == len(set(seen)) == 6 and {number for *_, number in seen} == {3}


def run(experiment, folder):
    return mtlib.fit(experiment, CORPUS, folder, progress="none")


def weights_of(run) -> dict[str, torch.Tensor]:
    return run.model().state_dict()


def test_a_penalty_of_weight_zero_is_plain_training_to_the_bit(tmp_path):
    plain = run(joint(penalties=[NO_DROPOUT]), tmp_path)
    both = run(joint(penalties=[NO_DROPOUT, mtlib.Bregman(weight=0.0, decay=0.9)]), tmp_path)
    assert plain.id != both.id
    a, b = weights_of(plain), weights_of(both)
    assert all(torch.equal(a[name], b[name]) for name in a)
    history = plain.history
    assert history["examples"].tolist() == [42, 42, 42]
    np.testing.assert_allclose(history[[f"draws_{task}" for task in ("sst", "qqp", "sts")]], 2.0)


def test_one_task_is_plain_training_to_the_bit_whatever_aggregates(tmp_path):
    one = joint(tasks=("qqp",), epochs=1, precision="float32")
    plain = weights_of(run(one, tmp_path))
    for kind in Aggregation.kinds():
        other = weights_of(run(one.but(aggregate=kind), tmp_path))
        assert all(torch.equal(plain[name], other[name]) for name in plain), kind


def test_weights_that_stay_one_are_the_plain_sum_to_the_bit(tmp_path):
    plain = run(joint(epochs=2), tmp_path)
    a = weights_of(plain)
    for aggregate in (Uncertainty(learning_rate=0.0), "dwa"):
        other = run(joint(epochs=2, aggregate=aggregate), tmp_path)
        b = weights_of(other)
        assert all(torch.equal(a[name], b[name]) for name in a)
        assert (other.history.filter(like="weight_") == 1).all(axis=None)


def test_a_joint_run_learns_and_its_history_adds_up(tmp_path):
    smart = joint(penalties=[mtlib.Smart(weight=1.0, mode="ball")], learning_rate=0.01, sampler="proportional")
    history = run(smart, tmp_path).history
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
    tasks = history[["train_loss_sst", "train_loss_qqp", "train_loss_sts"]].mean(axis=1)
    np.testing.assert_allclose(history["train_loss"], tasks + history["smart/penalty"], rtol=1e-5)


# Identity and bad input


def test_single_steps_are_what_they_were():
    assert mtlib.experiment("smoke").step == "single"
    named = said(mtlib.experiment("smoke"))
    assert "step" not in named
    assert joint().digest != joint(step="single").digest and "joint" in joint().label


def test_a_run_that_knew_no_joint_steps_is_loaded(tmp_path):
    single = joint(step="single", epochs=1, steps_per_epoch=1)
    before = run(single, tmp_path)
    config = before.read("config.json")
    del config["experiment"]["step"]
    before.write_json("config.json", config)
    before.set_complete(1, before.read("status.json")["seal"])
    assert run(single, tmp_path).path == before.path


def test_a_run_whose_penalty_knew_fewer_fields_is_loaded(tmp_path):
    smart = joint(step="single", epochs=1, steps_per_epoch=1, penalties=[mtlib.Smart(weight=1.0)])
    before = run(smart, tmp_path)
    config = before.read("config.json")
    del config["experiment"]["penalties"][0]["steps"]
    before.write_json("config.json", config)
    before.set_complete(1, before.read("status.json")["seal"])
    assert run(smart, tmp_path).path == before.path
    config["experiment"]["penalties"][0]["weight"] = 2.0
    before.write_json("config.json", config)
    before.set_complete(1, before.read("status.json")["seal"])
    with pytest.raises(CheckpointError, match="config.json: edited after the run began: penalties: expected"):
        run(smart, tmp_path)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"batch_size": 2}, "expected a batch_size of at least 3, found 2"),
        ({"step": "joined"}, "step"),
        ({"steps": "joint"}, "unknown key 'steps'.*did you mean 'step'"),
    ],
)
def test_joint_steps_that_cannot_be_are_one_message(changes, match):
    with pytest.raises(ConfigurationError, match=match) as error:
        joint(**changes)
    assert error.value.exit_code == 64
    assert joint(batch_size=3).batch_size == 3


# Killed


@pytest.mark.parametrize(
    ("last", "aggregate"), [(4, "sum"), (9, "pcgrad"), (5, "gradvac"), (7, "famo"), (8, "dwa"), (2, "uncertainty")]
)
def test_a_killed_joint_run_resumes_to_the_same_bits(tmp_path, last, aggregate):
    penalties = [mtlib.Smart(mode="ball", weight=1.0)] if aggregate == "sum" else []
    settings = {"step": "joint", "sampler": "annealed", "batch_size": 5, "penalties": penalties}
    experiment = tiny("smart ball", aggregate=aggregate, **settings)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert experiment.child(whole) == 0
    assert experiment.child(killed, after_step(last)) < 0
    assert experiment.child(killed) == 0
    assert experiment.outcome(killed) == experiment.outcome(whole)


def test_what_an_aggregation_keeps_is_missed_on_resume(tmp_path):
    """A loop that forgets to save it: the run that resumes is refused with exit code 66."""

    def without(patch):
        save = CheckpointStore.save

        def leaving_out(self, step, tensors, state):
            return save(self, step, {name: t for name, t in tensors.items() if "aggregate." not in name}, state)

        patch.setattr(CheckpointStore, "save", leaving_out)
        after_step(2)(patch)

    experiment = tiny("smart ball", step="joint", aggregate="gradvac", penalties=[])
    assert experiment.child(tmp_path, without) < 0
    with pytest.raises(CheckpointError, match="missing aggregate.gradvac.cosines"):
        mtlib.fit(experiment.settings, CORPUS, tmp_path, progress="none")
