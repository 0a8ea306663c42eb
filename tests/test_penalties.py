"""What every penalty has to keep, once for all of them: a new one is added to PENALTIES and nowhere else."""

import copy
import threading
from typing import Literal

import pytest
import torch
from tiny import OUTPUTS, TinyModel, step_of, tokens

from mtlib.objectives.bregman import Bregman
from mtlib.objectives.divergences import symmetric_divergence
from mtlib.objectives.freelb import FreeLB
from mtlib.objectives.penalty import Penalty, Share, Step
from mtlib.objectives.rdrop import RDrop
from mtlib.objectives.smart import Smart

KINDS = ("classification", "binary", "regression")


class Consistency(Penalty):
    """The smallest penalty that runs the model again: what somebody else would write."""

    kind: Literal["test consistency"] = "test consistency"

    def __call__(self, step: Step) -> torch.Tensor:
        return symmetric_divergence(step.kind, step.forward(step.embeddings + 0.1), step.logits)


PENALTIES = {
    **{
        f"smart {mode} {direction}{' twice' * (steps - 1)}": Smart(
            weight=1, mode=mode, direction=direction, steps=steps
        )
        for mode in ("rescaled", "projected", "ball")
        for direction in ("adversarial", "random")
        for steps in (1, 2)
    },
    "smart none": Smart(weight=1, direction="none", dropout="independent"),
    "bregman": Bregman(weight=1, decay=0.9),
    "rdrop": RDrop(weight=1),
    "freelb": FreeLB(weight=1, steps=3),
    "consistency": Consistency(weight=1),
}
every_penalty = pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
moving_nothing = pytest.mark.parametrize(
    "penalty", list(PENALTIES.values())[:-1], ids=list(PENALTIES)[:-1]
)  # the last one moves every token
COMPARING = {name: penalty for name, penalty in PENALTIES.items() if penalty.kind != "freelb"}  # it compares losses
comparing = pytest.mark.parametrize("penalty", COMPARING.values(), ids=COMPARING)
every_kind = pytest.mark.parametrize("kind", KINDS)


def begun(penalty: Penalty, kind: str) -> Penalty:
    """The penalty at work; a teacher is another model than the one that is trained."""
    return penalty.start(TinyModel(kind, seed=9, dropout=0.1).eval().double(), 10)


def between(kind: str, a: torch.Tensor, b: torch.Tensor) -> Step:
    """A step whose clean output is a, and b that of every further pass and of every other model."""
    x = torch.randn(len(a), 3, 8, generator=torch.Generator().manual_seed(0), dtype=a.dtype)
    labels = torch.zeros(len(a))
    return Step(0, 0, kind, torch.ones(len(a), 3), x, a, labels, lambda e: b + 0 * e.sum(), lambda other: b)


def outputs(kind: str, seed: int) -> torch.Tensor:
    return torch.randn(4, OUTPUTS[kind], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@every_kind
@comparing
def test_a_penalty_is_symmetric_in_the_two_outputs_it_compares(penalty, kind):
    a, b = outputs(kind, 1), outputs(kind, 2)
    there, back = (begun(penalty, kind)(between(kind, *pair)) for pair in ((a, b), (b, a)))
    assert there > 0
    torch.testing.assert_close(there, back, rtol=1e-12, atol=0)


@every_kind
@every_penalty
def test_a_penalty_of_equal_outputs_is_exactly_zero(penalty, kind):
    assert begun(penalty, kind)(between(kind, outputs(kind, 1), outputs(kind, 1))) == 0


@every_kind
@every_penalty
def test_a_penalty_leaves_no_gradient_and_is_a_scalar_whose_gradient_reaches_the_student_alone(penalty, kind):
    model = TinyModel(kind).double()
    working = begun(penalty, kind)
    step = step_of(model, *tokens(padding=2))
    before = [step.embeddings.clone(), step.logits.clone()]
    term = working(step)
    assert term.shape == () and term.dtype == torch.float64 and torch.isfinite(term)
    teacher = working.teacher()
    everything = [*model.parameters(), *(teacher.parameters() if teacher else ())]
    assert all(parameter.grad is None for parameter in everything)
    assert torch.equal(step.embeddings, before[0]) and torch.equal(step.logits, before[1])
    assert not any(getattr(value, "requires_grad", False) for value in step.log.values())
    if term.requires_grad and term > 0:
        term.backward()
        assert any(parameter.grad is not None for parameter in model.parameters())
        assert teacher is None or all(parameter.grad is None for parameter in teacher.parameters())


@every_kind
@moving_nothing
def test_a_penalty_touches_no_padding(penalty, kind):
    """The further passes see on padding what the clean pass saw, and padding's content changes nothing."""
    model, (ids, mask) = TinyModel(kind).double(), tokens(padding=3)
    step = step_of(model, ids, mask)
    seen = []
    forward = step.forward
    step.forward = lambda embeddings: seen.append(embeddings.detach()) or forward(embeddings)
    term = begun(penalty, kind)(step)
    assert all(torch.equal(e[mask == 0], step.embeddings[mask == 0]) for e in seen)
    assert bool(seen) == penalty.runs_student_again
    filled = torch.where(mask.bool(), ids, 7)
    assert begun(penalty, kind)(step_of(model, filled, mask)).item() == pytest.approx(term.item(), rel=1e-9, abs=1e-30)


def test_the_test_of_padding_notices_a_penalty_that_moves_it():
    step = step_of(TinyModel().double(), *tokens(padding=3))
    seen = []
    forward = step.forward
    step.forward = lambda embeddings: seen.append(embeddings) or forward(embeddings)
    PENALTIES["consistency"](step)
    assert not torch.equal(seen[0][step.mask == 0], step.embeddings[step.mask == 0])


class Processes:
    """Threads that stand for processes: `reduce` waits for all of them."""

    def __init__(self, number: int):
        self.barrier, self.values = threading.Barrier(number, timeout=30), [None] * number

    def reduce(self, rank: int):
        def reduced(value, how):
            self.values[rank] = value.detach()
            self.barrier.wait()
            stacked = torch.stack(self.values)
            self.barrier.wait()
            return stacked.sum(0) if how == "sum" else stacked.amax(0)

        return reduced


def shares_of(penalty: Penalty, kind: str, parts: list[list[int]], batch: int):
    """Sums over the shares of value and gradients, each by its weight; and what each logged."""
    processes, results = Processes(len(parts)), [None] * len(parts)
    models = [
        (TinyModel(kind).double(), begun(penalty, kind)) for _ in parts
    ]  # here: they draw from a global generator
    ids, mask = tokens(batch=batch, padding=2)

    def work(rank: int, rows: list[int]) -> None:
        model, working = models[rank]
        own = torch.tensor(rows or [0])
        step = step_of(model, ids[own], mask[own], number=3)
        step.share = Share(own, batch, len(rows) / batch, processes.reduce(rank))
        term = step.share.weight * working(step)
        gradients = torch.autograd.grad(term, list(model.parameters()), allow_unused=True)
        results[rank] = term.detach(), [0 if g is None else g for g in gradients], step.log

    threads = [threading.Thread(target=work, args=(rank, rows)) for rank, rows in enumerate(parts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    terms, gradients, logs = zip(*results, strict=True)
    return sum(terms), [sum(parts) for parts in zip(*gradients, strict=True)], logs


@pytest.mark.parametrize("parts", [[[0, 2, 4], [1, 3]], [[0], [1, 2, 3, 4], []]], ids=["two", "three, one empty"])
@every_penalty
def test_the_shares_of_a_batch_add_up_to_the_batch(penalty, parts):
    kind = "classification"
    model, (ids, mask) = TinyModel(kind).double(), tokens(batch=5, padding=2)
    step = step_of(model, ids, mask, number=3)
    term = begun(penalty, kind)(step)
    summed, gradients, logs = shares_of(penalty, kind, parts, 5)
    rounding = 1e-4 if penalty.kind == "bregman" else 1e-9  # a teacher computes in float32
    torch.testing.assert_close(summed, term.detach(), rtol=rounding, atol=1e-30)
    whole = torch.autograd.grad(term, list(model.parameters()), allow_unused=True)
    for mine, other in zip(whole, gradients, strict=True):
        mine = torch.zeros(()) if mine is None else mine
        torch.testing.assert_close(mine, torch.as_tensor(other), rtol=1e-3, atol=rounding * 1e-3, check_dtype=False)
    for name in ("smart/radius", "smart/skipped"):
        if name in step.log:
            found = [float(log[name]) for log in logs]
            assert found == pytest.approx([float(step.log[name])] * len(parts), rel=1e-9)


@every_penalty
def test_a_penalty_is_a_function_of_seed_and_step_and_read_back_it_is_itself(penalty):
    model, (ids, mask) = TinyModel().double(), tokens()
    torch.manual_seed(1)
    first = begun(penalty, "classification")(step_of(model, ids, mask, number=2))
    torch.manual_seed(2)
    assert torch.equal(first, begun(copy.deepcopy(penalty), "classification")(step_of(model, ids, mask, number=2)))
    assert Penalty.read(penalty.model_dump(mode="json")) == penalty


def test_every_kind_of_penalty_of_the_library_is_tested_here():
    own = {kind for kind, found in Penalty.kinds().items() if found.__module__.startswith("mtlib.")}
    assert own <= {penalty.kind for penalty in PENALTIES.values()}
