"""The code in docs/penalties.md runs as printed, and does what its text says."""

import re
from pathlib import Path

import pytest
import torch
from tiny import TinyModel, step_of, tokens

from mtlib.objectives.divergences import symmetric_divergence

PAGE = Path(__file__).parent.parent / "docs" / "penalties.md"


@pytest.fixture(scope="module")
def blocks():
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def run(source):
    names = {"__name__": "page"}
    exec(compile(source, str(PAGE), "exec"), names)
    return names


@pytest.fixture(scope="module")
def rdrop(blocks):
    return run(blocks[0])["RDrop"]


def test_r_drop_is_half_the_divergence_of_two_dropout_masks(rdrop):
    model = TinyModel(dropout=0.3)
    step = step_of(model, *tokens())
    torch.manual_seed(3)
    value = rdrop(weight=1.0)(step)
    torch.manual_seed(3)
    again = step.forward(step.embeddings)
    assert value.item() == (symmetric_divergence("classification", again, step.logits) / 2).item() > 0
    assert float(step.log["rdrop/penalty"]) == value.item()
    assert rdrop(weight=1.0)(step_of(model.eval(), *tokens())).item() == 0


def test_r_drop_makes_two_masks_agree_when_it_is_minimised(rdrop):
    torch.manual_seed(0)
    model, penalty, (ids, mask) = TinyModel(dropout=0.2), rdrop(weight=1.0), tokens(batch=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    values = []
    for number in range(30):
        value = penalty(step_of(model, ids, mask, number))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert sum(values[-5:]) < sum(values[:5]) / 2


def test_r_drop_is_an_experiments_penalty_by_value_and_by_name(rdrop):
    from mtlib.experiments import Experiment

    by_value = Experiment(penalties=(rdrop(weight=1.0),))
    by_name = Experiment(penalties=({"kind": "rdrop", "weight": 1.0},))
    assert by_value == by_name and by_value.dropout == "independent"
    assert by_value.model_dump(mode="json")["penalties"] == [{"kind": "rdrop", "weight": 1.0, "dropout": "independent"}]


def test_the_penalty_of_a_bare_encoder_trains_it(blocks):
    names = run(blocks[1])
    assert names["step"].log["smart/penalty"] > 0
    assert all(parameter.grad is not None for parameter in names["head"].parameters())
    assert names["encoder"].embeddings.word_embeddings.weight.grad.abs().sum() > 0
    assert not names["encoder"].embeddings._forward_hooks
