"""Divergences: closed forms, invariants, and the digits that the usual pair of KL sums loses."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlib.objectives.divergences import symmetric_divergence

WIDTH = {"classification": 3, "binary": 1, "regression": 1}
KINDS = list(WIDTH)
logits = st.lists(st.floats(-30, 30, width=32), min_size=6, max_size=6)


def pair(kind, values, others):
    width = WIDTH[kind]
    return [torch.tensor(v[: 2 * width]).reshape(2, width) for v in (values, others)]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(values=logits, others=logits)
def test_zero_on_itself_symmetric_and_never_negative(kind, values, others):
    a, b = pair(kind, values, others)
    assert symmetric_divergence(kind, a, a) == 0
    assert symmetric_divergence(kind, a, b) >= 0
    assert torch.equal(symmetric_divergence(kind, a, b), symmetric_divergence(kind, b, a))


def test_values_by_hand():
    # p = (3/4, 1/4), q = (1/4, 3/4): 2 * (1/2) * log 3.
    a = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    assert symmetric_divergence("classification", a, a.flip(-1)).item() == pytest.approx(math.log(3), rel=1e-12)
    # sigmoid(log 3) = 3/4, sigmoid(0) = 1/2: (1/4) log 3.
    one = a[:, :1]
    assert symmetric_divergence("binary", one, 0 * one).item() == pytest.approx(math.log(3) / 4, rel=1e-12)
    # (9 + 1) / 2.
    outputs = torch.tensor([[3.0], [1.0]])
    assert symmetric_divergence("regression", outputs, torch.zeros(2, 1)).item() == 5


@settings(deadline=None)
@given(values=logits, others=logits)
def test_one_logit_is_a_two_class_softmax(values, others):
    a, b = (torch.tensor(v, dtype=torch.float64).unsqueeze(-1) for v in (values, others))
    two = symmetric_divergence("classification", F.pad(a, (1, 0)), F.pad(b, (1, 0)))
    torch.testing.assert_close(symmetric_divergence("binary", a, b), two, rtol=1e-9, atol=1e-12)


def test_equals_the_two_kl_sums_where_those_have_digits():
    a, b = torch.randn(2, 8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    sums = F.kl_div(p, q, reduction="batchmean", log_target=True) + F.kl_div(
        q, p, reduction="batchmean", log_target=True
    )
    torch.testing.assert_close(symmetric_divergence("classification", a, b), sums)


def test_keeps_digits_for_close_outputs_where_kl_sums_lose_them():
    a = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    b = a + 1e-5 * torch.randn(64, 5, generator=torch.Generator().manual_seed(1))
    exact = symmetric_divergence("classification", a.double(), b.double()).item()
    usual = sum(F.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="batchmean").item() for s, t in ((a, b), (b, a)))
    assert symmetric_divergence("classification", a, b).item() == pytest.approx(exact, rel=1e-2)
    assert abs(usual / exact - 1) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_reaches_both_sides_and_matches_finite_differences(kind):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(3, WIDTH[kind], dtype=torch.float64, generator=generator).requires_grad_() for _ in "ab")
    assert torch.autograd.gradcheck(lambda a, b: symmetric_divergence(kind, a, b), (a, b))


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_outputs_stay_finite(kind):
    a = torch.full((2, WIDTH[kind]), 1e4)
    a[:, 0] = -1e4
    a.requires_grad_()
    value = symmetric_divergence(kind, a, -a.detach())
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(a.grad).all()


@pytest.mark.parametrize("kind", KINDS)
def test_float32_under_autocast_and_float64_kept(kind):
    a, b = torch.randn(2, 4, WIDTH[kind], generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        half = symmetric_divergence(kind, a.bfloat16(), b.bfloat16())
        double = symmetric_divergence(kind, a.double(), b.double())
    assert half.dtype == torch.float32 and double.dtype == torch.float64
    assert torch.equal(half, symmetric_divergence(kind, a.bfloat16().float(), b.bfloat16().float()))
    assert torch.equal(double, symmetric_divergence(kind, a.double(), b.double()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(4,), (1, 5), (4, 1, 1), (3, 5)])
def test_unequal_shapes_are_refused(kind, shape):
    with pytest.raises(ValueError, match="one shape"):
        symmetric_divergence(kind, torch.zeros(4, WIDTH[kind] + 7), torch.zeros(shape))


def test_softmax_of_one_logit_and_unknown_kind_are_refused():
    with pytest.raises(ValueError, match="at least 2 outputs"):
        symmetric_divergence("classification", torch.zeros(4, 1), torch.zeros(4, 1))
    with pytest.raises(ValueError, match="'ranking'"):
        symmetric_divergence("ranking", torch.zeros(4, 1), torch.zeros(4, 1))
