"""Samplers: which task trains at which step. A whole run's order follows from the seed before it starts."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from mtlib.errors import ConfigurationError
from mtlib.kinds import Kinded
from mtlib.randomness import generator


class Sampler(Kinded):
    """Base of all samplers: `probabilities` for an epoch, and from them the `schedule` of a run.

    A new one is a class with a `kind` and `probabilities`; an experiment takes it once it is imported:

    >>> class Reversed(Sampler):
    ...     kind: Literal["reversed"] = "reversed"
    ...     def probabilities(self, sizes: Sequence[int], epoch: int, epochs: int) -> np.ndarray:
    ...         return 1 / np.asarray(sizes) / sum(1 / np.asarray(sizes))
    >>> Sampler.read("reversed").schedule([1, 1_000_000], epochs=1, steps=6, seed=0).tolist()
    [[0, 0, 0, 0, 0, 0]]
    """

    def probabilities(self, sizes: Sequence[int], epoch: int, epochs: int) -> np.ndarray:
        """Probability of each task, [tasks], in `epoch` (from 1) of `epochs`, given the numbers of examples."""
        raise TypeError(f"{type(self).__name__} does not define probabilities")

    def schedule(self, sizes: Sequence[int], epochs: int, steps: int, seed: int) -> np.ndarray:
        """Task index of every optimizer step, [epochs, steps]: one independent draw a step.

        Step s of the run uses draw s of the stream "tasks", so the schedule of a longer run with the same
        probabilities begins like that of a shorter one. Raises ConfigurationError for probabilities that are none.
        """
        uniform = generator(seed, "tasks").random((epochs, steps))
        chosen = np.empty((epochs, steps), dtype=np.int64)
        for epoch in range(epochs):
            edges = np.cumsum(self._expected(sizes, epoch + 1, epochs))
            chosen[epoch] = np.searchsorted(edges / edges[-1], uniform[epoch], side="right")
        return chosen

    def shares(self, sizes: Sequence[int], epochs: int) -> np.ndarray:
        """`probabilities` of every epoch, [epochs, tasks], each row adding up to 1.

        Raises ConfigurationError for probabilities that are none.
        """
        rows = np.stack([self._expected(sizes, epoch + 1, epochs) for epoch in range(epochs)])
        return rows / rows.sum(axis=1, keepdims=True)

    def _expected(self, sizes: Sequence[int], epoch: int, epochs: int) -> np.ndarray:
        shares = np.asarray(self.probabilities(sizes, epoch, epochs), float)
        if shares.shape != (len(sizes),) or not (shares >= 0).all() or not 0 < shares.sum() < np.inf:
            actual = f"{str(shares)[:80]} in epoch {epoch}"
            raise ConfigurationError(f"sampler {self.kind}: expected {len(sizes)} probabilities, found {actual}")
        return shares


class RoundRobin(Sampler):
    """One batch a task in turn, in the order of the tasks, whatever their sizes."""

    kind: Literal["round_robin"] = "round_robin"

    def probabilities(self, sizes: Sequence[int], epoch: int, epochs: int) -> np.ndarray:
        """Equal shares [tasks]; the schedule itself is not random."""
        return np.full(len(sizes), 1 / len(sizes))

    def schedule(self, sizes: Sequence[int], epochs: int, steps: int, seed: int) -> np.ndarray:
        """Task index of every step, [epochs, steps]: 0, 1, 2, 0, 1, ... without a break between epochs."""
        return (np.arange(epochs * steps) % len(sizes)).reshape(epochs, steps)


def _powered(sizes: Sequence[int], alpha: float) -> np.ndarray:
    weights = np.asarray(sizes, float) ** alpha
    return weights / weights.sum()


class Proportional(Sampler):
    """p_i proportional to N_i, the number of training examples."""

    kind: Literal["proportional"] = "proportional"

    def probabilities(self, sizes: Sequence[int], epoch: int, epochs: int) -> np.ndarray:
        """N_i / sum N, [tasks], in every epoch."""
        return _powered(sizes, 1.0)


class SquareRoot(Sampler):
    """p_i proportional to the square root of N_i (Stickland and Murray 2019, section 3.2)."""

    kind: Literal["square_root"] = "square_root"

    def probabilities(self, sizes: Sequence[int], epoch: int, epochs: int) -> np.ndarray:
        """N_i^0.5 / sum N^0.5, [tasks], in every epoch."""
        return _powered(sizes, 0.5)


class Annealed(Sampler):
    """p_i proportional to N_i^alpha, alpha = 1 - 0.8 (e - 1) / (E - 1) (Stickland and Murray 2019, eq. 4).

    Early epochs follow the sizes, the last one nearly ignores them. One epoch alone gives alpha = 1.
    """

    kind: Literal["annealed"] = "annealed"

    def probabilities(self, sizes: Sequence[int], epoch: int, epochs: int) -> np.ndarray:
        """N_i^alpha / sum N^alpha, [tasks], with the alpha of `epoch` (from 1)."""
        if not 1 <= epoch <= epochs:
            raise ConfigurationError(f"annealed sampling: expected an epoch from 1 to {epochs}, found {epoch}")
        alpha = 1 - 0.8 * (epoch - 1) / (epochs - 1) if epochs > 1 else 1.0
        return _powered(sizes, alpha)


def apportioned(shares: Sequence[float], examples: int) -> np.ndarray:
    """How many of a batch's `examples` each task gives, [tasks]: its share by largest remainders, but one at least.

    With q_i = examples p_i, n_i = max(1, floor(q_i)); what is left over goes, one each, to the tasks with the largest
    q_i - n_i, and what was given out beyond the batch is taken, one at a time, from those of more than one with the
    smallest. Of equal ones the first is taken. Raises ConfigurationError for fewer examples than tasks.

    >>> apportioned([0.9066, 0.0547, 0.0387], 16).tolist()
    [14, 1, 1]
    >>> apportioned([1 / 3, 1 / 3, 1 / 3], 16).tolist()
    [6, 5, 5]
    """
    if examples < len(shares):
        raise ConfigurationError(f"a part of a batch for each of {len(shares)} tasks: found {examples} examples")
    quotas = examples * np.asarray(shares, float)
    counts = np.maximum(1, np.floor(quotas + 1e-9).astype(np.int64))
    while counts.sum() < examples:
        counts[np.argmax(quotas - counts)] += 1
    while counts.sum() > examples:
        counts[np.argmin(np.where(counts > 1, quotas - counts, np.inf))] -= 1
    return counts
