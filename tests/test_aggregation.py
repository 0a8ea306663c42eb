"""Every aggregation at once: symmetry, scale, what it does where nothing conflicts, closed forms, state, bad input."""

import builtins
import itertools
import json

import numpy as np
import pytest
import scipy.linalg
import torch

import mtlib
from mtlib.errors import CheckpointError, ConfigurationError, DivergenceError
from mtlib.experiments import Experiment, read_experiment
from mtlib.identity import said
from mtlib.objectives.aggregation import Aggregation, CAGrad, NashMTL, Sum
from mtlib.objectives.weighting import DWA, FAMO, Uncertainty

GRADIENTS = ["pcgrad", "gradvac", "cagrad", "mgda", "nash_mtl", "aligned_mtl", "upgrad"]
LOSSES = ["uncertainty", "dwa", "famo"]
STATEFUL = ["gradvac", "nash_mtl", *LOSSES]
DRAWS = ["pcgrad", "gradvac"]


def started(kind, tasks: int = 3) -> Aggregation:
    return Aggregation.read(kind).start(tasks)


def gradients(seed: int, tasks: int = 3) -> torch.Tensor:
    """Rows [tasks, 6], of which some conflict."""
    return torch.randn(tasks, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def measured(kind: str, seed: int, tasks: int = 3) -> torch.Tensor:
    """What a method is given at one step."""
    rows = gradients(seed, tasks)
    return rows.square().mean(1) if kind in LOSSES else rows @ rows.T


def permuted(value: torch.Tensor, order: list[int]) -> torch.Tensor:
    return value[order][:, order] if value.ndim == 2 else value[order]


def test_all_of_them_are_known():
    assert set(Aggregation.kinds()) >= {"sum", *GRADIENTS, *LOSSES}
    for kind in GRADIENTS + LOSSES:
        assert (Aggregation.read(kind).of == "losses") == (kind in LOSSES)


@pytest.mark.parametrize("kind", GRADIENTS + LOSSES)
def test_the_order_of_the_tasks_does_not_matter(kind):
    tasks = 2 if kind in DRAWS else 3  # with three tasks these draw which comes first
    for seed, order in itertools.product((1, 2), itertools.permutations(range(tasks))):
        given = measured(kind, seed, tasks)
        plain, other = started(kind, tasks).weights(given), started(kind, tasks).weights(permuted(given, list(order)))
        torch.testing.assert_close(other, plain[list(order)], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", GRADIENTS)
def test_only_the_directions_and_relative_lengths_of_gradients_matter(kind):
    given = measured(kind, 3)
    weights = []
    for size in (1e-8, 1.0, 1e6):
        torch.manual_seed(0)
        weights.append(started(kind).weights(size * given))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(weights[2], weights[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", GRADIENTS + LOSSES + ["sum"])
def test_tasks_that_do_not_meet_are_summed(kind):
    given = 0.7 * (torch.ones(3) if kind in LOSSES else torch.eye(3)).double()
    torch.testing.assert_close(started(kind).weights(given), torch.ones(3).double(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", GRADIENTS + LOSSES + ["sum"])
def test_one_task_and_no_gradient_at_all_are_plain_training(kind):
    one = torch.tensor([0.3] if kind in LOSSES else [[0.3]])
    assert started(kind, 1).weights(one).tolist() == [1.0]
    if kind not in LOSSES:
        assert started(kind).weights(torch.zeros(3, 3)).tolist() == [1.0, 1.0, 1.0]


def test_a_strength_of_zero_is_the_plain_sum_exactly():
    assert CAGrad(c=0.0).start(3).weights(measured("cagrad", 4)).tolist() == [1.0, 1.0, 1.0]
    still = Uncertainty(learning_rate=0.0).start(3)
    for seed in range(3):
        assert still.weights(measured("dwa", seed)).tolist() == [1.0, 1.0, 1.0]
        still.learn(None)


@pytest.mark.parametrize("last", [0.0, 1e-6, 1e-5, 1e-3, 1.0])
def test_cagrad_stays_as_near_to_the_mean_as_it_promises(last):
    """|d - g_0| <= c |g_0|, also where a gradient is next to nothing and TorchJD's weights are zero."""
    rows = gradients(1) * torch.tensor([1.0, 1.0, last])[:, None]
    method = CAGrad(c=0.4).start(3)
    weights, mean = method.weights(rows @ rows.T), rows.mean(0)
    assert (weights @ rows / method._scale() - mean).norm() <= 0.4 * mean.norm() * (1 + 1e-6)
    opposed = torch.stack([rows[0], -rows[0]])
    assert CAGrad(c=0.4).start(2).weights(opposed @ opposed.T).tolist() == pytest.approx([1.0, 1.0])


# Two tasks with L_i = |x - a_i|^2 / 2: the gradients at x are x - a_i, and every method has a closed form.


def quadratic(x=(0.2, 1.0), a=((1.0, 0.3), (-0.9, 0.1))):
    rows = torch.tensor(x, dtype=torch.float64) - torch.tensor(a, dtype=torch.float64)
    gram = (rows @ rows.T).numpy()
    assert gram[0, 1] < 0, "they conflict"
    return rows, gram


def surgery(g):
    """Of each gradient the part against the other is taken out: w_j = 1 - g_ij / g_jj."""
    return [1 - g[0, 1] / g[0, 0], 1 - g[0, 1] / g[1, 1]]


def shortest(g):
    """The point of the segment between the gradients that is nearest to 0, times two."""
    share = np.clip((g[1, 1] - g[0, 1]) / (g[0, 0] + g[1, 1] - 2 * g[0, 1]), 0, 1)
    return [2 * share, 2 * (1 - share)]


def bargain(g):
    """w_i^2 g_ii + w_1 w_2 g_12 = 1: the weights are as 1 / |g_i|; of orthogonal gradients of length 1 they are 1."""
    a, c = np.sqrt(np.diag(g))
    size = 1 / np.sqrt(1 + g[0, 1] / (a * c))
    return np.array([size / a, size / c]) * np.sqrt(np.trace(g) / 2)


def aligned(g):
    smallest = np.linalg.eigvalsh(g)[0]
    return np.sqrt(smallest) * np.linalg.inv(scipy.linalg.sqrtm(g)) @ np.ones(2)


def averse(g, c=0.4):
    """The dual over every share of the first task: w = (1/2 + c |g0| s / |g_s|) * 2 / (1 + c)."""
    shares = np.linspace(0, 1, 200_001)
    s = np.stack([shares, 1 - shares], 1)
    mean = np.full(2, 0.5)
    length = np.sqrt(mean @ g @ mean)
    norms = np.sqrt(np.einsum("ni,ij,nj->n", s, g, s))
    best = np.argmin(s @ g @ mean + c * length * norms)
    return (mean + c * length / norms[best] * s[best]) * 2 / (1 + c)


CLOSED = {
    "pcgrad": surgery,
    "gradvac": surgery,
    "upgrad": surgery,
    "mgda": shortest,
    "nash_mtl": bargain,
    "aligned_mtl": aligned,
    "cagrad": averse,
}


@pytest.mark.parametrize("kind", GRADIENTS)
def test_the_gradient_of_two_quadratics_is_that_of_the_closed_form(kind):
    rows, gram = quadratic()
    expected = torch.as_tensor(np.array(CLOSED[kind](gram)))
    weights = started(kind, 2).weights(torch.as_tensor(gram))
    torch.testing.assert_close(weights @ rows, expected @ rows, rtol=2e-3, atol=2e-4)
    assert (weights - 1).abs().max() > 0.05


@pytest.mark.parametrize("kind", ["mgda", "upgrad"])
def test_no_task_is_made_worse(kind):
    for seed in range(6):
        rows = gradients(seed)
        update = started(kind).weights(rows @ rows.T) @ rows
        assert (rows @ update).min() > -0.02 * update.norm() * rows.norm(dim=1).max(), seed


def test_loss_weights_by_hand():
    losses = torch.tensor([2.0, 0.5], dtype=torch.float64)
    # FAMO, z = (1/2, 1/2): w_i = 2 c z_i / L_i, c = 1 / sum z_i / L_i
    famo = started("famo", 2)
    torch.testing.assert_close(famo.weights(losses), torch.tensor([0.4, 1.6], dtype=torch.float64))
    # the first task falls, the second rises: its logit rises, Adam's first step being the learning rate
    famo.learn(torch.tensor([1.0, 1.0]))
    logits = famo.state()["logits"]
    torch.testing.assert_close(logits, torch.tensor([-0.025, 0.025], dtype=torch.float64), rtol=1e-4, atol=0)
    # DWA: after means 2, 1 then 1, 1 the ratios are 1/2 and 1
    dwa = DWA(temperature=0.5).start(2)
    for values in ([2.0, 1.0], [1.0, 1.0]):
        assert dwa.weights(torch.tensor(values)).tolist() == [1.0, 1.0]
        dwa.end_epoch()
    share = np.exp([1.0, 2.0]) / np.exp([1.0, 2.0]).sum()
    np.testing.assert_allclose(dwa.weights(losses).numpy(), 2 * share)
    # uncertainty: exp(-s) with ds = 1 - exp(-s) L up to a factor, by one step of Adam
    uncertainty = Uncertainty(learning_rate=0.1).start(2)
    uncertainty.weights(losses)
    uncertainty.learn(None)
    np.testing.assert_allclose(uncertainty.weights(losses).numpy(), np.exp([-0.1, 0.1]), rtol=1e-6)


def test_uncertainty_comes_to_rest_where_every_weighted_loss_is_one():
    method, losses = Uncertainty(learning_rate=0.05).start(3), torch.tensor([0.4, 1.0, 3.0], dtype=torch.float64)
    for _ in range(300):
        weights = method.weights(losses)
        method.learn(None)
    torch.testing.assert_close(weights * losses, torch.ones(3, dtype=torch.float64), rtol=0.02, atol=0)


# State


def steps_of(method: Aggregation, kind: str, numbers) -> list[list[float]]:
    """Weights of the steps `numbers`, four an epoch."""
    weights = []
    for number in numbers:
        torch.manual_seed(number)
        weights.append(method.weights(measured(kind, number)).tolist())
        method.learn(measured(kind, 100 + number) if method.again else None)
        if number % 4 == 3:
            method.end_epoch()
    return weights


@pytest.mark.parametrize("kind", GRADIENTS + LOSSES)
@pytest.mark.parametrize("done", [0, 1, 6])
def test_what_a_method_keeps_is_all_that_it_needs(kind, done):
    whole = started(kind)
    before, after = steps_of(whole, kind, range(done)), steps_of(whole, kind, range(done, 10))
    stopped = started(kind)
    assert steps_of(stopped, kind, range(done)) == before
    state = {name: tensor.clone() for name, tensor in stopped.state().items()}
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in started(kind).state().items()}
    assert shapes == {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}
    assert bool(state) == (kind in STATEFUL)
    continued = started(kind)
    continued.load_state(state)
    assert steps_of(continued, kind, range(done, 10)) == after
    if state and done:
        assert steps_of(started(kind), kind, range(done, 10)) != after


def test_an_aggregation_is_a_value_and_its_run_s_state_is_a_copy_s():
    value = FAMO(learning_rate=0.1)
    working = value.start(2)
    working.weights(torch.tensor([1.0, 2.0]))
    working.learn(torch.tensor([0.5, 2.0]))
    assert value == FAMO(learning_rate=0.1) and value._method is None
    with pytest.raises(CheckpointError, match="keeps no state, found cosines"):
        started("pcgrad").load_state({"cosines": torch.zeros(3, 3)})


# Bad input


def joint(**changes) -> Experiment:
    return mtlib.experiment("smoke", **{"step": "joint", **changes})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"aggregate": "upgard"}, "unknown aggregation 'upgard' .did you mean 'upgrad'"),
        ({"aggregate": "zzz"}, "known: sum, "),
        ({"aggregate": {"kind": "cagrad", "c": -1.0}}, "aggregate.cagrad.c|aggregate.c|cagrad"),
        ({"aggregate": {"kind": "cagrad", "radius": 1.0}}, "radius"),
        ({"aggregate": "pcgrad", "step": "single"}, "aggregate 'pcgrad' needs joint steps.*set step to 'joint'"),
        ({"aggregate": "famo", "step": "single"}, "aggregate 'famo' needs joint steps"),
    ],
)
def test_an_aggregation_that_cannot_be_is_one_message(changes, match):
    with pytest.raises(ConfigurationError, match=match) as error:
        joint(**changes)
    assert error.value.exit_code == 64


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **options):
        if name.startswith("torchjd"):
            raise ImportError("No module named 'torchjd'", name=name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match=r"aggregate 'mgda' needs packages .* pip install 'mtlib\[beyond\]'"):
        started("mgda")
    assert started("sum").weights(torch.eye(2)).tolist() == [1.0, 1.0]


def test_a_solver_that_finds_nothing_is_a_divergence(monkeypatch):
    method = started("cagrad")
    monkeypatch.setattr(method._method, "forward", lambda gramian: None * gramian)
    with pytest.raises(DivergenceError, match="aggregate 'cagrad': nothing found"):
        method.weights(torch.eye(3))
    method = started("mgda")
    monkeypatch.setattr(method._method, "forward", lambda gramian: gramian[0] * torch.nan)
    with pytest.raises(DivergenceError, match="aggregate 'mgda': weights .*nan"):
        method.weights(torch.eye(3))


def test_identity_and_label():
    assert joint(aggregate="sum") == joint() and "aggregate" not in said(joint())
    digests = {joint(aggregate=kind).digest for kind in ["sum", *GRADIENTS, *LOSSES]}
    assert len(digests | {joint(aggregate=CAGrad(c=0.2)).digest}) == 12
    assert joint(aggregate=NashMTL(every=5)).label.endswith("joint-nash-mtl-5")
    for kind in ["sum", *GRADIENTS, *LOSSES]:
        experiment = joint(aggregate=kind)
        assert read_experiment(json.loads(json.dumps(experiment.model_dump(mode="json"))), "dump") == experiment
    assert Experiment().aggregate == Sum()
