"""R-Drop: half the divergence of two dropout masks."""

import pytest
import torch
from tiny import TinyModel, step_of, tokens

from mtlib.errors import ConfigurationError
from mtlib.objectives.divergences import symmetric_divergence
from mtlib.objectives.rdrop import RDrop
from mtlib.objectives.smart import Smart


def test_it_is_half_the_divergence_of_two_dropout_masks():
    model = TinyModel(dropout=0.3)
    step = step_of(model, *tokens())
    torch.manual_seed(3)
    value = RDrop(weight=1.0)(step)
    torch.manual_seed(3)
    again = step.forward(step.embeddings)
    assert value.item() == (symmetric_divergence("classification", again, step.logits) / 2).item() > 0
    assert float(step.log["rdrop/penalty"]) == value.item()
    assert RDrop(weight=1.0)(step_of(model.eval(), *tokens())).item() == 0


@pytest.mark.parametrize("kind", ["classification", "binary", "regression"])
def test_consistency_without_an_adversary_is_twice_it(kind):
    model, values = TinyModel(kind, dropout=0.3), []
    step = step_of(model, *tokens())
    for penalty in (RDrop(weight=1.0), Smart(weight=1.0, direction="none", dropout="independent")):
        torch.manual_seed(3)
        values.append(penalty(step).item())
    assert 2 * values[0] == pytest.approx(values[1], rel=1e-6)


def test_of_two_classes_it_is_the_papers_two_directions_of_kl():
    """Equation 2 in torch's own kl_div, for logits that are given."""
    a, b = (torch.randn(6, 5, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (1, 2))
    step = step_of(TinyModel(), *tokens(batch=6))
    step.logits, step.forward = a, lambda embeddings: b
    log_p, log_q = a.log_softmax(-1), b.log_softmax(-1)
    kl = torch.nn.functional.kl_div
    both = kl(log_p, log_q.exp(), reduction="batchmean") + kl(log_q, log_p.exp(), reduction="batchmean")
    torch.testing.assert_close(RDrop(weight=1.0)(step), both / 2)


def test_two_masks_agree_when_it_is_minimised():
    torch.manual_seed(0)
    model, (ids, mask) = TinyModel(dropout=0.2), tokens(batch=8)
    optimizer, values = torch.optim.Adam(model.parameters(), lr=1e-3), []
    for number in range(30):
        value = RDrop(weight=1.0)(step_of(model, ids, mask, number))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert sum(values[-5:]) < sum(values[:5]) / 2


@pytest.mark.parametrize("dropout", ["off", "shared"])
def test_one_mask_for_both_passes_is_refused(dropout):
    with pytest.raises(ValueError, match="expected 'independent'"):
        RDrop(weight=1.0, dropout=dropout)


@pytest.mark.parametrize(
    "penalty", [RDrop(weight=1.0), Smart(weight=1.0, direction="none", dropout="independent")], ids=["rdrop", "smart"]
)
def test_a_model_in_which_nothing_drops_is_refused(penalty):
    assert penalty.start(TinyModel(dropout=0.1), steps=3) is penalty
    with pytest.raises(ConfigurationError, match=f"{penalty.label} compares two dropout masks.*always be 0"):
        penalty.start(TinyModel(dropout=0.0), steps=3)
