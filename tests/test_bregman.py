"""Bregman proximal point: closed forms of the teacher and of one step, and what a real copy means."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny import TinyModel, step_of, tokens
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mtlib.errors import CheckpointError
from mtlib.objectives.bregman import Bregman
from mtlib.objectives.penalty import Step
from mtlib.objectives.smart import Smart


class Point(nn.Module):
    """f(x; theta) = theta: one output, one example, with a float and an integer buffer."""

    def __init__(self, value=0.0, dtype=torch.float32):
        super().__init__()
        self.theta = nn.Parameter(torch.full((1, 1), value, dtype=dtype))
        self.register_buffer("moment", torch.full((2,), value, dtype=dtype))
        self.register_buffer("hidden", torch.full((1,), value, dtype=dtype), persistent=False)
        self.register_buffer("count", torch.tensor(int(value)))

    def forward(self):
        return self.theta * 1

    def set(self, value):
        with torch.no_grad():
            for tensor in (self.theta, self.moment, self.hidden):
                tensor.fill_(value)
            self.count.fill_(int(value))


def point_step(model):
    logits = model()
    return Step(0, 0, "regression", torch.ones(1, 1), logits, logits, torch.zeros(1), None, run=lambda other: other())


def tensors(model):
    return {name: tensor.detach().clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


@settings(max_examples=25, deadline=None)
@given(beta=st.floats(0, 0.999), start=st.floats(-5, 5), constant=st.floats(-5, 5), updates=st.integers(0, 30))
def test_teacher_of_a_constant_student_is_its_closed_form(beta, start, constant, updates):
    model = Point(start)
    bregman = Bregman(weight=1, decay=beta).start(model, 100)
    model.set(constant)
    for number in range(updates):
        bregman.after_step(model, number)
    expected = constant + (start - constant) * beta**updates
    for name in ("theta", "moment", "hidden"):
        values = getattr(bregman.teacher(), name)
        torch.testing.assert_close(values, torch.full_like(values, expected), rtol=1e-5, atol=1e-5)
    assert bregman.teacher().count.item() == int(constant if updates else start)


def test_beta_zero_copies_to_the_bit():
    model = TinyModel()
    bregman = Bregman(weight=1, decay=0.0).start(model, 10)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    bregman.after_step(model, 0)
    for name, tensor in tensors(model).items():
        assert torch.equal(tensors(bregman.teacher())[name], tensor), name


@pytest.mark.parametrize("mu", [0.0, 0.3, 3.0])
def test_one_sgd_step_on_a_quadratic_is_its_closed_form(mu):
    # F(theta) = (theta - 2)^2 / 2 at theta = 1, teacher at 0.5, lr 0.1.
    model = Point(0.5)
    bregman = Bregman(weight=mu, decay=0.9).start(model, 10)
    model.set(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = point_step(model)
    loss = (step.logits - 2).square().sum() / 2 + bregman.weight * bregman(step)
    loss.backward()
    optimizer.step()
    assert model.theta.item() == pytest.approx(1 - 0.1 * ((1 - 2) + 2 * mu * (1 - 0.5)), rel=1e-6)
    bregman.after_step(model, 0)
    assert bregman.teacher().theta.item() == pytest.approx(0.1 * model.theta.item() + 0.9 * 0.5, rel=1e-6)


@pytest.mark.parametrize("kind", ["classification", "binary", "regression"])
def test_first_penalty_is_zero_without_dropout_and_positive_with_it(kind):
    model = TinyModel(kind, dropout=0.3)
    bregman = Bregman(weight=1, decay=0.9).start(model, 10)
    assert bregman(step_of(model.train(), *tokens())).item() > 0
    step = step_of(model.eval(), *tokens())
    assert bregman(step).item() == 0
    assert float(step.log["bregman/penalty"]) == 0


def test_teacher_aliases_nothing_of_the_student():
    model = TinyModel()
    bregman = Bregman(weight=1, decay=0.9).start(model, 10)
    before = tensors(model)
    student = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    teacher = {t.untyped_storage().data_ptr() for t in (*bregman.teacher().parameters(), *bregman.teacher().buffers())}
    assert not student & teacher
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    for name, tensor in tensors(bregman.teacher()).items():
        assert torch.equal(tensor, before[name]), name
    with torch.no_grad():
        for parameter in bregman.teacher().parameters():
            parameter.fill_(9)
    assert all((parameter == 7).all() for parameter in model.parameters())


def test_teacher_is_float32_in_eval_mode_without_gradient_and_stays_so():
    model = TinyModel(dropout=0.5).bfloat16().train()
    bregman = Bregman(weight=1, decay=0.5).start(model, 10)
    bregman.after_step(model, 0)
    model.train()
    teacher = bregman.teacher()
    assert not any(module.training for module in teacher.modules())
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad and p.dtype == torch.bfloat16 for p in model.parameters())


def test_slow_updates_of_a_half_precision_student_are_not_lost():
    model = Point(1.0, dtype=torch.bfloat16)
    bregman = Bregman(weight=1, decay=0.999).start(model, 10)
    model.set(2.0)
    bregman.after_step(model, 0)
    assert bregman.teacher().theta.item() == pytest.approx(1.001, rel=1e-6)


def test_gradient_reaches_the_student_alone_and_costs_one_forward_pass():
    model, (ids, mask) = TinyModel(), tokens(batch=8)
    bregman = Bregman(weight=1, decay=0.9).start(model, 10)
    with FlopCounterMode(display=False) as forward:
        step = step_of(model, ids, mask)
    with FlopCounterMode(display=False) as rest:
        run, modes = step.run, []
        step.run = lambda other: (modes.append(torch.is_grad_enabled()), run(other))[1]
        penalty = bregman(step)
        (step.logits.square().mean() + penalty).backward()
    assert modes == [False]
    assert all(p.grad is None for p in bregman.teacher().parameters())
    assert all(p.grad is not None for p in model.parameters() if p is not model.encoder.embeddings)
    # Clean forward 1, its backward 2, the teacher's forward 1.
    assert 1 + rest.get_total_flops() / forward.get_total_flops() == pytest.approx(4, rel=0.05)


def test_penalties_compose_over_one_clean_pass():
    model, (ids, mask) = TinyModel(), tokens()
    bregman = Bregman(weight=1, decay=0.9).start(model, 10)
    with torch.no_grad():
        model.head.weight.add_(0.1)
    passes = []
    model.register_forward_hook(lambda *args: passes.append(1))
    step = step_of(model, ids, mask)
    total = step.logits.square().mean() + 2 * Smart(weight=2)(step) + bregman(step)
    total.backward()
    assert len(passes) == 3  # clean, inner step, perturbed: the teacher is another model
    assert step.log["bregman/penalty"] > 0 and step.log["smart/penalty"] > 0


def test_schedule_of_the_smart_paper():
    bregman = Bregman(weight=1, decay=0.99, late_decay=0.999, switch_at=0.1).start(Point(), 50)
    assert [bregman.decay_at(k) for k in range(50)] == [0.99] * 5 + [0.999] * 45
    constant = Bregman(weight=1, decay=0.75).start(Point(), 50)
    assert {constant.decay_at(k) for k in range(50)} == {0.75}


def test_state_continues_exactly_and_start_leaves_the_value_alone():
    value = Bregman(weight=1, decay=0.9)
    model = TinyModel()
    first = value.start(model, 10)
    assert value.teacher() is None and value == Bregman(weight=1, decay=0.9)
    with torch.no_grad():
        model.head.weight.add_(1)
    first.after_step(model, 0)
    stored = {name: tensor.clone() for name, tensor in first.state().items()}
    second = value.start(model, 10)
    second.load_state(stored)
    for bregman in (first, second):
        bregman.after_step(model, 1)
    for name, tensor in first.state().items():
        assert torch.equal(tensor, second.state()[name]), name
    assert stored.keys() == tensors(model).keys()


def test_state_that_does_not_fit_is_refused_and_nothing_changes():
    bregman = Bregman(weight=1, decay=0.9).start(Point(1.0), 10)
    good = {name: tensor + 1 for name, tensor in bregman.state().items()}
    broken = [
        ({**good, "count": torch.zeros(2, dtype=torch.int64)}, r"count: expected \[\]"),
        ({**good, "theta": good["theta"].double()}, "float64"),
        ({k: v for k, v in good.items() if k != "moment"}, "missing .*moment"),
        ({**good, "extra": torch.zeros(1)}, "unexpected .*extra"),
    ]
    for state, message in broken:
        with pytest.raises(CheckpointError, match=message):
            bregman.load_state(state)
        assert all((tensor == 1).all() for tensor in bregman.state().values())


def test_use_before_start_is_refused():
    with pytest.raises(RuntimeError, match="start"):
        Bregman(weight=1, decay=0.9)(point_step(Point()))


def test_a_started_penalty_does_not_touch_the_model_it_copied():
    model = TinyModel().train()
    before, training = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    Bregman(weight=1, decay=0.9).start(model, 10)
    assert [module.training for module in model.modules()] == training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    "options",
    [
        {"decay": 1.0},
        {"decay": 1.5},
        {"decay": -0.1},
        {"decay": math.nan},
        {"decay": "0.9"},
        {"late_decay": 1.0},
        {"switch_at": 0.0},
        {"switch_at": 1.0},
        {"switch_at": math.nan},
        {"switch_at": 0.3},
        {"weight": -1.0},
        {"weight": math.nan},
        {"weight": math.inf},
        {"beta": 0.9},
    ],
)
def test_values_that_cannot_be_meant_are_refused(options):
    with pytest.raises(ValidationError, match=next(iter(options))):
        Bregman(**{"weight": 1, "decay": 0.9, **options})
