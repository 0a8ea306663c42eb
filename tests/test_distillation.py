"""Distillation: the loss against its source, and teachers' outputs computed once and kept with their runs."""

import shutil
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import made_up_corpus, write_corpus

import mtlib
import mtlib.training.start
from mtlib.errors import CheckpointError, ConfigurationError, DataError
from mtlib.objectives.soft import soft_loss, softened
from mtlib.randomness import seeded
from mtlib.tasks import QQP, SST, STS
from mtlib.training import conflicts, distillation
from mtlib.training.loop import Training
from mtlib.training.start import Start

KINDS = {"classification": 5, "binary": 1, "regression": 1}
every_kind = pytest.mark.parametrize("kind", KINDS)


def outputs(kind: str, seed: int, teachers: int = 0) -> torch.Tensor:
    shape = (teachers, 6, KINDS[kind]) if teachers else (6, KINDS[kind])
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_of_classes_it_is_hintons_cross_entropy_up_to_the_targets_entropy():
    student, teachers, t = outputs("classification", 1), outputs("classification", 2, 3), 2.5
    q = (teachers / t).softmax(-1).mean(0)
    cross_entropy = F.cross_entropy(student / t, q)
    entropy = -(q * q.log()).sum(-1).mean()
    ours = soft_loss("classification", student, softened("classification", teachers, t), t)
    torch.testing.assert_close(ours, t**2 * (cross_entropy - entropy))


def test_one_logit_is_two_classes():
    student, teachers, t = outputs("binary", 1), outputs("binary", 2, 2), 1.7
    two = soft_loss(
        "classification",
        torch.cat([student, torch.zeros_like(student)], -1),
        softened("classification", torch.cat([teachers, torch.zeros_like(teachers)], -1), t),
        t,
    )
    torch.testing.assert_close(soft_loss("binary", student, softened("binary", teachers, t), t), two)


def test_a_regression_learns_the_teachers_mean():
    student, teachers = outputs("regression", 1), outputs("regression", 2, 3)
    ours = soft_loss("regression", student, softened("regression", teachers, 4.0), 4.0)
    torch.testing.assert_close(ours, (student - teachers.mean(0)).square().mean())


@every_kind
def test_of_one_teacher_that_agrees_it_is_zero_and_never_negative(kind):
    student = outputs(kind, 1)
    assert soft_loss(kind, student, softened(kind, student[None], 3.0), 3.0).item() == pytest.approx(0, abs=1e-12)
    assert soft_loss(kind, student, softened(kind, outputs(kind, 2)[None], 3.0), 3.0) > 0


@every_kind
def test_it_knows_no_order_of_teachers_or_examples_and_its_gradient_is_that_of_differences(kind):
    student, teachers = outputs(kind, 1).requires_grad_(), outputs(kind, 2, 3)
    targets, order = softened(kind, teachers, 2.0), torch.tensor([3, 1, 0, 5, 4, 2])
    torch.testing.assert_close(targets, softened(kind, teachers[[2, 0, 1]], 2.0))
    torch.testing.assert_close(
        soft_loss(kind, student, targets, 2.0), soft_loss(kind, student[order], targets[order], 2.0)
    )
    assert torch.autograd.gradcheck(lambda x: soft_loss(kind, x, targets, 2.0), (student,))


@pytest.mark.parametrize("temperature", [20.0, 200.0])
def test_at_a_high_temperature_it_matches_centred_logits(temperature):
    """Hinton et al., section 2.1: the gradient tends to (z - v) / classes for zero-mean logits, whatever T."""
    student, teacher = outputs("classification", 1).requires_grad_(), outputs("classification", 2)
    loss = soft_loss("classification", student, softened("classification", teacher[None], temperature), temperature)
    (gradient,) = torch.autograd.grad(loss, student)
    centred = [z - z.mean(-1, keepdim=True) for z in (student.detach(), teacher)]
    torch.testing.assert_close(
        gradient, (centred[0] - centred[1]) / 5 / 6, rtol=8 / temperature, atol=1 / temperature**2
    )


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """Two teachers, a plain run, a student, and one of soft share 0, on SST and STS."""
    folder, corpus = tmp_path_factory.mktemp("taught"), made_up_corpus((SST, STS))
    plain = mtlib.experiment("smoke", tasks=["sst", "sts"])
    teachers = [plain.but(seed=1), plain.but(seed=2, tasks=["sst"])]
    student = plain.but(teachers=teachers, seed=5)
    experiments = {"student": student, "nothing soft": student.but(soft_share=0.0), "plain": plain.but(seed=5)}
    runs = {name: mtlib.fit(each, corpus, folder, progress="none") for name, each in experiments.items()}
    return runs, teachers, corpus, folder


def test_teachers_are_trained_first_and_keep_what_they_said(taught):
    runs, teachers, corpus, folder = taught
    for experiment in teachers:
        teacher = mtlib.training.start.find(experiment, corpus, folder)
        assert teacher.complete
        kept = sorted(path.name.split("-")[0] for path in (teacher.path / "targets").glob("*.safetensors"))
        assert kept == list(experiment.tasks)
    frame = corpus["sst"].train
    said = distillation.teacher_outputs(teacher, "sst", frame, np.arange(60))
    expected = teacher.model().predict("sst", frame["text_a"].tolist(), precision="float32")
    probabilities = torch.from_numpy(said).double().softmax(-1).numpy()
    np.testing.assert_allclose(probabilities, expected[[f"p{k}" for k in range(5)]], atol=1e-5)


def test_what_is_kept_is_not_computed_again_but_what_is_damaged_is(taught, monkeypatch):
    runs, teachers, corpus, folder = taught
    teacher = mtlib.training.start.find(teachers[1], corpus, folder)
    frame, rows = corpus["sst"].train, np.arange(60)
    first = distillation.teacher_outputs(teacher, "sst", frame, rows)
    with monkeypatch.context() as patch:
        patch.setattr(distillation, "evaluated", lambda *_, **__: pytest.fail("computed again"))
        again = distillation.teacher_outputs(teacher, "sst", frame, rows)
    assert np.array_equal(first, again)
    (path,) = (teacher.path / "targets").glob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(bytes(data))
    assert np.array_equal(distillation.teacher_outputs(teacher, "sst", frame, rows), first)
    changed = frame.assign(text_a=[text + " new" for text in frame["text_a"]])
    assert not np.allclose(distillation.teacher_outputs(teacher, "sst", changed, rows), first)


def test_what_another_teacher_said_is_never_taken_for_its_own_nor_kept_elsewhere(taught, tmp_path):
    runs, teachers, corpus, folder = taught
    one, other = (mtlib.training.start.find(teacher, corpus, folder) for teacher in teachers)
    frame, rows = corpus["sst"].train, np.arange(60)
    first = distillation.teacher_outputs(other, "sst", frame, rows)
    (theirs,) = (one.path / "targets").glob("sst-*.safetensors")
    own = other.path / "targets" / theirs.name  # called after the texts, so the same for both
    own.write_bytes(theirs.read_bytes())
    assert np.array_equal(distillation.teacher_outputs(other, "sst", frame, rows), first)
    away = (other.path / "targets").rename(tmp_path / "targets")
    (other.path / "targets").symlink_to(away)
    with pytest.raises(CheckpointError, match="expected a place inside"):
        distillation.teacher_outputs(other, "sst", frame, rows)
    (other.path / "targets").unlink()
    away.rename(other.path / "targets")


def test_only_the_blocks_of_the_examples_that_are_drawn_are_computed(taught):
    runs, teachers, corpus, folder = taught
    teacher = mtlib.training.start.find(teachers[0], corpus, folder)
    large = made_up_corpus((SST, STS), rows=500)
    rows = np.array([3, 77, 401])
    said = distillation.teacher_outputs(teacher, "sts", large["sts"].train, rows)
    assert np.isfinite(said[rows]).all() and np.isfinite(said).sum() <= 3 * distillation.BLOCK


def companies(model, split, function, batch_size):
    """In place of every output the number of texts, and of tokens, that were computed beside it: [texts, 5]."""
    found = np.empty((len(split), 5), dtype=np.float32)
    for batch in split.evaluation_batches(examples=batch_size):
        tokens = batch.inputs["input_ids"]
        found[batch.rows] = [len(tokens), tokens.shape[1], tokens.sum(), *[0] * 2]
    return found


@pytest.mark.parametrize("earlier", [[], [range(0, 60, 7), [3, 59]], [range(60)]])
def test_what_is_computed_beside_a_text_does_not_depend_on_who_asks_first(taught, monkeypatch, tmp_path, earlier):
    runs, teachers, corpus, folder = taught
    teacher = mtlib.training.start.find(teachers[0], corpus, folder)
    frame, asked = corpus["sst"].train, np.array([0, 59])
    monkeypatch.setattr(distillation, "evaluated", companies)
    monkeypatch.setattr(distillation, "FOLDER", f"targets-{len(earlier)}")
    alone = distillation.teacher_outputs(teacher, "sst", frame, asked, keep=False)
    assert not (teacher.path / distillation.FOLDER).exists()
    for rows in earlier:
        distillation.teacher_outputs(teacher, "sst", frame, np.array(rows))
    assert np.array_equal(distillation.teacher_outputs(teacher, "sst", frame, asked)[asked], alone[asked])
    shutil.rmtree(teacher.path / distillation.FOLDER)


def test_a_replay_writes_nothing_and_comes_to_the_same_targets(taught):
    runs, teachers, corpus, folder = taught
    expected = runs["student"].at(10, corpus).fingerprint
    kept = [mtlib.training.start.find(each, corpus, folder).path / "targets" for each in teachers]
    for place in kept:
        shutil.rmtree(place)
    assert runs["student"].at(10, corpus).fingerprint == expected
    assert not any(place.exists() for place in kept)


def test_share_zero_is_plain_training_and_half_is_not(taught):
    runs, *_ = taught
    states = {name: run.model().state_dict() for name, run in runs.items()}
    same = {name: all(torch.equal(states["plain"][k], v) for k, v in state.items()) for name, state in states.items()}
    assert same == {"student": False, "nothing soft": True, "plain": True}


def test_the_loss_of_a_step_is_the_mixture(taught):
    runs, teachers, corpus, folder = taught
    seen, plain = runs["student"].at(1, corpus), runs["plain"].at(1, corpus)
    assert seen.batch["id"].tolist() == plain.batch["id"].tolist()
    teacher_runs = [mtlib.training.start.find(each, corpus, folder) for each in teachers]
    rows = corpus["sst"].train.index[corpus["sst"].train["id"].isin(seen.batch["id"])].to_numpy()
    order = [list(corpus["sst"].train["id"]).index(each) for each in seen.batch["id"]]
    said = [distillation.teacher_outputs(run, "sst", corpus["sst"].train, rows)[order] for run in teacher_runs]
    targets = softened("classification", torch.from_numpy(np.stack(said)), 2.0)
    model = plain.model.train()
    split = model.tokenize(SST, seen.batch["text_a"].tolist())
    inputs = split.batch(range(len(order))).inputs
    with torch.no_grad(), model.fixed():
        with seeded(5, "dropout/embeddings", 0):
            embeddings = model.embed_tokens(inputs)
        with seeded(5, "dropout", 0):
            logits = model("sst", inputs, embeddings)
    soft = soft_loss("classification", logits, targets, 2.0).item()
    assert seen.losses["total"] == pytest.approx((plain.losses["total"] + soft) / 2, rel=1e-3)


def test_a_student_may_log_conflicts_and_they_change_nothing_of_its_training(taught, tmp_path):
    runs, teachers, corpus, _ = taught
    short = runs["student"].experiment.but(epochs=1, steps_per_epoch=5, batch_size=4, precision="float32")
    experiments = [short, short.but(conflicts=2)]
    plain, logged = (mtlib.fit(e, corpus, tmp_path / str(e.conflicts), progress="none") for e in experiments)
    states = [run.model().state_dict() for run in (plain, logged)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    products = conflicts.read(logged)
    assert set(products["step"]) == {1, 3, 5} and np.isfinite(products["product"]).all()
    assert products.query("layer == 'all' and a == b")["product"].gt(0).all()


@pytest.mark.parametrize("source", ["in Python", "moved"])
def test_a_student_of_fewer_tasks_than_its_teacher_is_replayed_and_resumed(taught, tmp_path, source, monkeypatch):
    runs, teachers, *_ = taught
    given = where = made_up_corpus((SST, QQP, STS), rows=24)
    if source == "moved":
        where = write_corpus(tmp_path / "corpus")
        given = mtlib.load_corpus(where)
    student = mtlib.experiment("smoke", tasks=["sst"], teachers=[teachers[0].but(batch_size=4)], batch_size=4)
    end_epoch = Training._end_epoch

    def stopped(training):
        sys.exit(143) if training.experiment == student else end_epoch(training)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Training, "_end_epoch", stopped)
        mtlib.fit(student, given, tmp_path, progress="none")
    run = mtlib.training.start.find(student, given, tmp_path)
    assert run.status == "interrupted" and run.corpus["tasks"] == ["sst"]
    assert run.at(2, where).batch["id"].str.startswith("sst").all()
    assert mtlib.resume(run, where, progress="none").complete
    with pytest.raises(DataError, match="expected the task 'sts', found sst"):
        run.at(2, given.only(["sst"]))


def test_identity_is_that_of_the_teachers(taught):
    runs, teachers, corpus, folder = taught
    student, store = runs["student"].experiment, mtlib.RunStore(folder)
    assert Start(student, corpus, store).identity == runs["student"].identity
    others = [student.but(teachers=teachers[:1]), student.but(teachers=[teachers[0], teachers[1].but(seed=3)])]
    others += [student.but(soft_share=0.4), student.but(temperature=1.0)]
    identities = {Start(each, corpus, store).identity for each in others} | {runs["student"].identity}
    assert len(identities) == 5
    assert [each.label for each in student.needs()] == [each.label for each in teachers]
    assert mtlib.Experiment.model_validate(student.model_dump(mode="json")) == student


def test_a_teacher_without_a_common_task_is_refused():
    with pytest.raises(ConfigurationError, match="teachers: .* shares no task with sst"):
        mtlib.experiment("smoke", tasks=["sst"], teachers=[mtlib.experiment("smoke", tasks=["qqp"])])


@pytest.mark.parametrize("settings", [{"soft_share": 0.3}, {"temperature": 1.0}])
def test_what_changes_nothing_without_teachers_is_refused(settings):
    with pytest.raises(ConfigurationError, match=f"{next(iter(settings))}: .* changes nothing without teachers"):
        mtlib.experiment("smoke", **settings)
