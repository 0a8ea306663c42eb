"""Methods beyond the report: at zero all of them are plain training, and on a quadratic they have its gradient."""

import pytest
import torch
from conftest import made_up_corpus
from tiny import linear_step

import mtlib
from mtlib.errors import ConfigurationError
from mtlib.objectives.correlation import Correlation
from mtlib.objectives.freelb import FreeLB
from mtlib.objectives.ordinal import Ordinal
from mtlib.objectives.rdrop import RDrop
from mtlib.objectives.soft import soft_loss
from mtlib.study import beyond
from mtlib.tasks import SST, STS, TASKS, Task


def quadratic():
    """f(x) = x W^T against y, squared error: W [1, 6], x [5, 6], y [5], and its step, float64."""
    g = torch.Generator().manual_seed(2)
    weight = torch.randn(1, 6, generator=g, dtype=torch.float64, requires_grad=True)
    x, y = torch.randn(5, 1, 6, generator=g, dtype=torch.float64), torch.randn(5, generator=g, dtype=torch.float64)
    step = linear_step(weight, x)
    step.labels = y
    return weight, x, y, step


def gradient_of_error(weight, x, y):
    """d/dW of mean (x W^T - y)^2, x [5, 1, 6]: (2/B) sum e x."""
    e = (x[:, 0] @ weight.T).squeeze(-1) - y
    return 2 * (e[:, None] * x[:, 0]).mean(0, keepdim=True)


def test_freelb_has_the_gradient_of_its_path():
    weight, x, y, step = quadratic()
    penalty = FreeLB(weight=1.0, steps=2, ascent=0.1, radius=9.0, initial=0.2)
    w, d = weight.detach(), penalty.start_of_path(step)
    e = ((x + d)[:, 0] @ w.T).squeeze(-1) - y
    path = [d, d + 0.1 * e.sign()[:, None, None] * (w / w.norm())[None]]
    expected = sum(gradient_of_error(w, x + each, y) for each in path) / 2 - gradient_of_error(w, x, y)
    (ours,) = torch.autograd.grad(penalty(step), weight)
    torch.testing.assert_close(ours, expected)


def test_r_drop_has_the_gradient_of_two_masks():
    weight, x, y, step = quadratic()
    mask = torch.tensor([0.0, 2.0, 1.0, 0.5, 1.5, 1.0], dtype=torch.float64)
    step.forward = lambda embeddings: (embeddings * mask)[:, 0] @ weight.T
    between = (x * mask - x)[:, 0]  # R = mean (W between)^2 / 2
    expected = ((between @ weight.detach().T) * between).mean(0, keepdim=True)
    (ours,) = torch.autograd.grad(RDrop(weight=1.0)(step), weight)
    torch.testing.assert_close(ours, expected)


def test_a_teacher_of_a_regression_pulls_as_a_label_does():
    weight, x, y, _ = quadratic()
    (ours,) = torch.autograd.grad(soft_loss("regression", x[:, 0] @ weight.T, y[:, None], 3.0), weight)
    torch.testing.assert_close(ours, gradient_of_error(weight.detach(), x, y))


@pytest.fixture(scope="module")
def plain():
    return mtlib.experiment("smoke", tasks=["sst", "sts"])


def test_all_of_them_at_zero_are_plain_training_bit_for_bit(plain, tmp_path):
    corpus = made_up_corpus((SST, STS))
    nothing = plain.but(
        penalties=[RDrop(weight=0.0), FreeLB(weight=0.0, dropout="independent")],
        losses={"sst": Ordinal(share=0.0), "sts": Correlation(share=0.0)},
        teachers=[plain.but(seed=3)],
        soft_share=0.0,
        averages=[mtlib.Ema(), mtlib.Lawa()],
        layer_decay=1.0,
        head_rate=1.0,
        phrases=0.0,
    )
    runs = [mtlib.fit(each, corpus, tmp_path, progress="none") for each in (plain, nothing)]
    before, after = (run.model().state_dict() for run in runs)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert runs[0].scores == runs[1].scores


def test_a_method_that_is_on_no_menu_is_refused_with_the_nearest(plain):
    menu = {"R-Drop": (plain, 2.0), "joint": (plain, 1.0)}
    with pytest.raises(ConfigurationError, match="did you mean 'R-Drop'") as error:
        beyond.chosen(menu, ["R-Dorp"], None)
    assert error.value.exit_code == 64


def test_phrases_are_left_out_where_there_are_none(plain, capsys):
    menu = {"phrases": (plain.but(phrases=0.5), 1.0), "joint": (plain, 1.0)}
    assert beyond.chosen(menu, ["phrases", "joint"], mtlib.Study("smoke")) == ["joint"]
    assert "no file of phrases: phrases" in capsys.readouterr().out


def test_phrases_of_a_task_that_names_no_files_are_found_under_its_name(tmp_path, monkeypatch):
    reviews = Task("reviews", "classification", ("text",), "label", classes=3)
    monkeypatch.setitem(TASKS, "reviews", reviews)
    menu = {"phrases": (mtlib.experiment("smoke", tasks=["reviews"], phrases=0.5), 1.0)}
    study = mtlib.Study("smoke", str(tmp_path))
    assert beyond.chosen(menu, ["phrases"], study) == []
    (tmp_path / "reviews-phrases.csv").touch()
    assert beyond.chosen(menu, ["phrases"], study) == ["phrases"]


def test_at_equal_cost_only_what_costs_more_has_fewer_steps(plain):
    shorter = beyond.at_equal_cost({"R-Drop": (plain, 2.0), "ordinal": (plain, 1.0)})
    assert list(shorter) == ["R-Drop, equal cost"]
    assert shorter["R-Drop, equal cost"].steps == plain.epochs * round(plain.steps_per_epoch / 2)
