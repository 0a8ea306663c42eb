"""FreeLB: the path of the adversary by hand, and what it is at the ends of its options."""

import pytest
import torch
import torch.nn.functional as F
from tiny import TinyModel, linear_step, step_of, tokens

from mtlib.objectives.freelb import FreeLB, norm


def linear(outputs: int = 1, hidden: int = 6, batch: int = 3, kind: str = "regression"):
    """A linear model on tokens of length one, float64, with labels; and W, x, y."""
    g = torch.Generator().manual_seed(5)
    weight = torch.randn(outputs, hidden, generator=g, dtype=torch.float64, requires_grad=True)
    x = torch.randn(batch, 1, hidden, generator=g, dtype=torch.float64)
    step = linear_step(weight, x, kind=kind)
    step.labels = torch.randn(batch, generator=g, dtype=torch.float64)
    return step, weight, x, step.labels


def test_the_path_of_a_linear_model_is_the_one_by_hand():
    """Squared error of f = Wx: g is 2 e W / B, so every step goes along sign(e) W / |W|, whatever the size of e."""
    step, weight, x, y = linear()
    penalty = FreeLB(weight=1.0, steps=3, ascent=0.1, radius=100.0, initial=0.2)
    step.criterion = lambda logits: (logits.squeeze(-1) - y).square().mean()
    d = penalty.start_of_path(step)
    losses, w = [], weight.detach()
    for _ in range(3):
        error = ((x + d)[:, 0] @ w.T).squeeze(-1) - y
        losses.append(error.square().mean())
        d = d + 0.1 * error.sign()[:, None, None] * (w / w.norm())[None]
    clean = ((x[:, 0] @ w.T).squeeze(-1) - y).square().mean()
    torch.testing.assert_close(penalty(step).detach(), torch.stack(losses).mean() - clean)


def test_at_weight_one_the_clean_loss_falls_out_of_value_and_gradient():
    model, (ids, mask) = TinyModel().double(), tokens(padding=2)
    step = step_of(model, ids, mask)
    penalty = FreeLB(weight=1.0, steps=1, initial=0.3)
    total = step.loss(step.logits) + penalty(step)
    alone = F.cross_entropy(
        model(ids, mask, step.embeddings + penalty.start_of_path(step)), step.labels.long()
    )  # losses are float32
    torch.testing.assert_close(total, alone, rtol=1e-6, atol=1e-6, check_dtype=False)
    for mine, other in zip(
        torch.autograd.grad(total, list(model.parameters()), retain_graph=True, allow_unused=True),
        torch.autograd.grad(alone, list(model.parameters()), allow_unused=True),
        strict=True,
    ):
        if other is not None:
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_the_start_is_uniform_and_as_long_as_it_says():
    model, (ids, mask) = TinyModel(), tokens(batch=64, padding=3)
    step = step_of(model, ids, mask)
    d = FreeLB(weight=1.0, initial=0.7).start_of_path(step)
    numbers = mask.sum(1)[:, None, None] * 32
    scaled = d * numbers.sqrt() / 0.7
    real = scaled[mask.bool()]
    assert not d[mask == 0].any() and real.abs().max() <= 1
    for quarter in (-0.5, 0.0, 0.5):
        assert (real < quarter).double().mean().item() == pytest.approx((1 + quarter) / 2, abs=0.02)
    assert norm(d).mean().item() == pytest.approx(0.7 / 3**0.5, rel=0.05)


@pytest.mark.parametrize("radius", [0.05, 0.3])
def test_no_example_leaves_the_ball(radius):
    penalty = FreeLB(weight=1.0, steps=4, ascent=0.2, radius=radius, initial=0.0)
    step = step_of(TinyModel(), *tokens(padding=2))
    seen, forward = [], step.forward
    step.forward = lambda embeddings: seen.append((embeddings - step.embeddings).detach()) or forward(embeddings)
    penalty(step)
    assert len(seen) == 4 and not seen[0].any()
    assert all(norm(d).max() <= radius * (1 + 1e-5) for d in seen)
    torch.testing.assert_close(norm(seen[-1]).flatten(), torch.full((4,), radius))
    assert float(step.log["freelb/radius"]) == pytest.approx(radius, rel=1e-5)


def test_climbing_raises_the_loss():
    step = step_of(TinyModel().double(), *tokens())
    assert FreeLB(weight=1.0, steps=5, ascent=0.05, initial=0.0, radius=1.0)(step) > 0


def test_a_loss_without_a_gradient_leaves_d_where_it_is():
    step, weight, _, _ = linear()
    step.forward = lambda embeddings: embeddings.sum((1, 2))[:, None] * 0 + 1.0
    assert torch.isfinite(FreeLB(weight=1.0, steps=3)(step))
