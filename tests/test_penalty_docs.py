"""The code in docs/penalties.md runs as printed, and does what its text says."""

import pytest
import torch
from pages import ROOT, blocks, run
from tiny import TinyModel, step_of, tokens

from mtlib.objectives.divergences import symmetric_divergence

CODE = [block.code for block in blocks(ROOT / "docs" / "penalties.md") if block.language == "python"]


@pytest.fixture(scope="module")
def cutoff():
    return run(CODE[0])["Cutoff"]


def test_cutoff_is_half_the_divergence_without_some_tokens(cutoff):
    model, (ids, mask) = TinyModel(), tokens(padding=3)
    step = step_of(model, ids, mask)
    seen, forward = [], step.forward
    step.forward = lambda embeddings: seen.append(embeddings) or forward(embeddings)
    value = cutoff(weight=1.0, share=0.3)(step)
    erased = (seen[0] == 0).all(-1)
    assert erased.any() and not erased[mask == 0].any()
    torch.testing.assert_close(seen[0][~erased], step.embeddings[~erased], rtol=0, atol=0)
    assert value.item() == (symmetric_divergence("classification", forward(seen[0]), step.logits) / 2).item() > 0
    assert float(step.log["cutoff/penalty"]) == value.item()


def test_cutoff_erases_its_share_and_nothing_where_that_is_zero(cutoff):
    model, (ids, mask) = TinyModel(), tokens(batch=200)
    step = step_of(model, ids, mask)
    assert cutoff(weight=1.0, share=0.0)(step).item() == 0
    seen, forward = [], step.forward
    step.forward = lambda embeddings: seen.append(embeddings) or forward(embeddings)
    cutoff(weight=1.0, share=0.2)(step)
    assert (seen[0] == 0).all(-1).double().mean().item() == pytest.approx(0.2, abs=0.04)


def test_cutoff_is_an_experiments_penalty_by_value_and_by_name(cutoff):
    from mtlib.experiments import Experiment

    by_value = Experiment(penalties=(cutoff(weight=1.0),))
    by_name = Experiment(penalties=({"kind": "cutoff", "weight": 1.0},))
    assert by_value == by_name and by_value.dropout == "off"
    stored = {"kind": "cutoff", "weight": 1.0, "dropout": "off", "share": 0.1}
    assert by_value.model_dump(mode="json")["penalties"] == [stored]


def test_the_penalty_of_a_bare_encoder_trains_it():
    names = run(CODE[1])
    assert names["step"].log["smart/penalty"] > 0
    assert all(parameter.grad is not None for parameter in names["head"].parameters())
    assert names["encoder"].embeddings.word_embeddings.weight.grad.abs().sum() > 0
    assert not names["encoder"].embeddings._forward_hooks
