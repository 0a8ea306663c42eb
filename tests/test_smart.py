"""SMART: closed forms, equality with the public implementation, the ablation, and what the inner step must not do."""

import math

import pytest
import torch
from pydantic import ValidationError
from smart_pytorch import SMARTLoss
from tiny import TinyModel, linear_step, step_of, tokens
from torch.utils.flop_counter import FlopCounterMode

from mtlib.objectives.divergences import symmetric_divergence
from mtlib.objectives.smart import Smart, inner_gradient
from mtlib.randomness import torch_generator

KINDS = ("classification", "binary", "regression")
MODES = ("rescaled", "projected", "ball")


def noise_of(x, number=0, seed=0):
    return torch.randn(x.shape, generator=torch_generator(seed, "smart", number), dtype=x.dtype)


def linear(batch=4, hidden=6, outputs=3):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(outputs, hidden, generator=generator, dtype=torch.float64)
    return weight, torch.randn(batch, 1, hidden, generator=generator, dtype=torch.float64)


def test_gradient_of_a_linear_map_is_its_closed_form():
    weight, x = linear()
    nu = 1e-3 * noise_of(x)
    g = inner_gradient(linear_step(weight, x), nu)
    torch.testing.assert_close(g, 2 * nu @ weight.T @ weight / (4 * 3), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("mode", MODES)
def test_modes_of_a_linear_map_follow_their_formulas(mode):
    weight, x = linear()
    smart = Smart(weight=1, mode=mode)
    z = noise_of(x)
    if mode == "ball":
        bound = 0.1 * x.abs().mean()
        nu = 0.01 * bound * z
    else:
        nu = 1e-5 * z
    g = 2 * nu @ weight.T @ weight / 12
    d = {
        "rescaled": lambda: (nu + 1e-3 * g) / ((nu + 1e-3 * g).abs().amax(-1, keepdim=True) + 1e-6),
        "projected": lambda: (nu + 1e-3 * g / g.abs().max()).clamp(-1e-5, 1e-5),
        "ball": lambda: torch.minimum(torch.maximum(nu + bound * g.sign(), -bound), bound),
    }[mode]()
    step = linear_step(weight, x)
    penalty = smart(step)
    torch.testing.assert_close(smart.perturbation(step), d, rtol=1e-7, atol=0)
    torch.testing.assert_close(penalty, (d[:, 0] @ weight.T).square().mean(), rtol=1e-7, atol=0)
    assert float(step.log["smart/penalty"]) == penalty.item()
    assert float(step.log["smart/radius"]) == pytest.approx((d.abs().max() / x.abs().mean()).item())
    assert step.log["smart/skipped"] == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 3])
def test_rescaled_equals_smart_pytorch_under_the_same_noise(kind, steps, padding, monkeypatch):
    model = TinyModel(kind).double()
    ids, mask = tokens(padding=padding)
    step = step_of(model, ids, mask)
    noise = noise_of(step.embeddings)
    monkeypatch.setattr(torch, "randn_like", lambda x, requires_grad: noise.clone().requires_grad_(requires_grad))
    public = SMARTLoss(
        step.forward, lambda a, b: symmetric_divergence(kind, a, b), num_steps=steps, step_size=1e-3, epsilon=1e-6
    )
    theirs = public(step.embeddings, step.logits)
    ours = Smart(weight=1, steps=steps)(step)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    parameters = list(model.parameters())
    gradients = [torch.autograd.grad(value, parameters, retain_graph=True) for value in (ours, theirs)]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_halving_d_quarters_the_penalty(kind):
    step = step_of(TinyModel(kind).double(), *tokens())
    d = Smart(weight=1, mode="ball", radius=1e-4).perturbation(step)
    whole, half = (
        symmetric_divergence(kind, step.forward(step.embeddings + size * d), step.logits) for size in (1, 0.5)
    )
    assert (whole / half).item() == pytest.approx(4, rel=1e-2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("direction", ["adversarial", "random"])
def test_d_is_zero_on_padding_constant_and_within_its_radius(kind, mode, direction):
    ids, mask = tokens(padding=3)
    step = step_of(TinyModel(kind), ids, mask)
    for steps in (1, 2):
        d = Smart(weight=1, mode=mode, direction=direction, steps=steps).perturbation(step)
        assert not d.requires_grad
        assert (d[mask == 0] == 0).all() and (d[mask == 1].abs().amax(-1) > 0).all()
        size = step.embeddings.abs()[mask == 1].mean().item()
        bound = {"rescaled": 1.0, "projected": 1e-5, "ball": 0.1 * size}[mode]
        assert d.abs().max().item() <= bound * (1 + 1e-6)
        assert d.abs().max().item() > 0.9 * bound


@pytest.mark.parametrize("mode", MODES)
def test_random_has_the_radius_of_adversarial_and_none_has_none(mode):
    step = step_of(TinyModel(), *tokens(padding=2))
    radii = {}
    for direction in ("adversarial", "random"):
        Smart(weight=1, mode=mode, direction=direction)(step)
        radii[direction] = float(step.log["smart/radius"])
    assert radii["random"] == pytest.approx(radii["adversarial"], rel=0.02)
    Smart(weight=1, direction="none", dropout="independent")(step)
    assert float(step.log["smart/radius"]) == 0


def test_the_adversary_beats_random_signs_of_the_same_size():
    step = step_of(TinyModel().double(), *tokens(batch=8))
    adversarial, random = (
        Smart(weight=1, mode="ball", radius=0.02, direction=direction)(step).item()
        for direction in ("adversarial", "random")
    )
    assert adversarial > 10 * random


def test_more_steps_climb_higher_in_the_projected_ball():
    step = step_of(TinyModel().double(), *tokens())
    values = [Smart(weight=1, mode="projected", epsilon=0.1, eta=0.02, steps=k)(step).item() for k in (1, 2, 4)]
    assert values[0] < values[1] < values[2]


def test_consistency_alone_compares_dropout_masks():
    model = TinyModel(dropout=0.3)
    consistency = Smart(weight=1, direction="none", dropout="independent")
    assert consistency(step_of(model, *tokens())).item() > 0
    assert consistency(step_of(model.eval(), *tokens())).item() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_flows_through_both_outputs(kind):
    model = TinyModel(kind).double()
    smart, parameters = Smart(weight=1, mode="ball"), list(model.parameters())
    step = step_of(model, *tokens())
    d = smart.perturbation(step)
    gradients = torch.autograd.grad(smart(step), parameters)

    def penalty():
        again = step_of(model, *tokens())
        return symmetric_divergence(kind, again.forward(again.embeddings + d), again.logits).item()

    direction = [torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) for i, p in enumerate(parameters)]
    slope = sum((g * v).sum() for g, v in zip(gradients, direction, strict=True)).item()
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, v in zip(parameters, direction, strict=True):
                p.add_(v, alpha=sign * 1e-6)
            values.append(penalty())
            for p, v in zip(parameters, direction, strict=True):
                p.sub_(v, alpha=sign * 1e-6)
    assert slope == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4)


def test_inner_step_leaves_gradients_of_parameters_alone():
    model = TinyModel()
    step = step_of(model, *tokens())
    for index, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, float(index))
    smart = Smart(weight=1, steps=2)
    smart.perturbation(step)
    smart(step)
    for index, parameter in enumerate(model.parameters()):
        assert (parameter.grad == index).all()


def flops(function):
    with FlopCounterMode(display=False) as counter:
        result = function()
    return counter.get_total_flops(), result


def test_one_step_costs_eight_forward_passes():
    model, (ids, mask) = TinyModel(), tokens(batch=8)
    forward, step = flops(lambda: step_of(model, ids, mask))
    inner, _ = flops(lambda: Smart(weight=1).perturbation(step))
    random, _ = flops(lambda: Smart(weight=1, direction="random").perturbation(step))
    whole, penalty = flops(lambda: Smart(weight=1)(step))
    backward, _ = flops((step.logits.square().mean() + penalty).backward)
    # The inner step is one forward pass and one gradient for d; weight gradients would make it 3.
    assert inner / forward == pytest.approx(2, rel=0.05)
    assert random == 0
    assert (forward + whole + backward) / forward == pytest.approx(8, rel=0.05)


def test_embeddings_are_looked_up_once():
    model = TinyModel()
    calls = []
    model.encoder.embeddings.word_embeddings.register_forward_hook(lambda *args: calls.append(1))
    Smart(weight=1, steps=3)(step_of(model, *tokens()))
    assert len(calls) == 1


def test_draws_are_a_function_of_seed_and_step():
    model, (ids, mask) = TinyModel(), tokens()

    def d(number, seed):
        return Smart(weight=1).perturbation(step_of(model, ids, mask, number, seed))

    torch.manual_seed(5)
    first = d(3, 7)
    torch.manual_seed(6)
    assert torch.equal(first, d(3, 7))
    assert not torch.equal(first, d(4, 7)) and not torch.equal(first, d(3, 8))


def test_works_without_gradient_mode():
    model = TinyModel()
    with torch.no_grad():
        step = step_of(model, *tokens())
        value = Smart(weight=1, mode="ball")(step)
    assert value.item() == pytest.approx(Smart(weight=1, mode="ball")(step_of(model, *tokens())).item(), rel=1e-6)


class BlowUp(torch.autograd.Function):
    """Identity whose gradient is not a number."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.nan


@pytest.mark.parametrize("mode", MODES)
def test_non_finite_inner_gradient_is_skipped_and_counted(mode):
    model, (ids, mask) = TinyModel(), tokens()
    step = step_of(model, ids, mask)
    step.forward = lambda embeddings: model(ids, mask, BlowUp.apply(embeddings))
    penalty = Smart(weight=1, mode=mode)(step)
    assert penalty.item() == 0 and not penalty.requires_grad
    assert step.log == {"smart/skipped": 1.0}
    (step.logits.square().mean() + 3 * penalty).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_zero_gradient_leaves_the_noise():
    weight, x = linear()
    step = linear_step(0 * weight, x)
    nu = 1e-5 * noise_of(x)
    d = Smart(weight=1, mode="projected").perturbation(step)
    torch.testing.assert_close(d, nu.clamp(-1e-5, 1e-5))


def test_float32_penalty_under_autocast():
    model = TinyModel()
    with torch.autocast("cpu", torch.bfloat16):
        step = step_of(model, *tokens())
        penalty = Smart(weight=1, mode="ball")(step)
    assert step.logits.dtype == torch.bfloat16 and penalty.dtype == torch.float32 and penalty > 0


@pytest.mark.parametrize("weight", [-1, -1e-9, math.nan, math.inf, "3", True, None])
def test_weights_that_cannot_be_meant_are_refused(weight):
    with pytest.raises(ValidationError, match="weight"):
        Smart(weight=weight)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"direction": "none"}, "always 0"),
        ({"direction": "none", "dropout": "shared"}, "always 0"),
        ({"direction": "none", "dropout": "independent", "epsilon": 1e-6}, "does not use epsilon"),
        ({"direction": "none", "dropout": "independent", "steps": 2}, "does not use steps"),
        ({"direction": "none", "dropout": "independent", "mode": "ball"}, "does not use mode"),
        ({"mode": "ball", "sigma": 0.0}, "no gradient"),
        ({"mode": "rescaled", "sigma": 0.0}, "no gradient"),
        ({"mode": "ball", "sigma": 1.0}, "small against 1"),
        ({"mode": "ball", "epsilon": 1e-5}, "uses radius, sigma, not epsilon"),
        ({"mode": "ball", "eta": 1e-3}, "not eta"),
        ({"mode": "rescaled", "radius": 0.1}, "not radius"),
        ({"mode": "projected", "radius": 0.1}, "not radius"),
        ({"mode": "ball", "radius": 0.0}, "greater than 0"),
        ({"mode": "ball", "radius": math.nan}, "finite"),
        ({"mode": "circle"}, "mode"),
        ({"steps": 0}, "steps"),
        ({"steps": 101}, "steps"),
        ({"steps": True}, "steps"),
        ({"epsilon": "1e-6"}, "epsilon"),
        ({"epsilonn": 1e-6}, "epsilonn"),
    ],
)
def test_combinations_that_cannot_work_are_refused_with_a_reason(options, reason):
    with pytest.raises(ValidationError, match=reason):
        Smart(weight=1, **options)


@pytest.mark.parametrize(
    "smart",
    [Smart(weight=15), Smart(weight=1, mode="ball"), Smart(weight=2, direction="none", dropout="independent")],
)
def test_a_dumped_penalty_is_the_same_penalty(smart):
    assert Smart(**smart.model_dump()) == smart and hash(Smart(**smart.model_dump())) == hash(smart)
    assert Smart.model_validate_json(smart.model_dump_json()) == smart
