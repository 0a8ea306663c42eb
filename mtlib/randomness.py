"""Named, counter-based random streams: every draw is a pure function of (seed, name, counters).

There is no random state to save. A run that resumes at step k asks for the stream of step k and gets the
numbers it would have got had it never stopped.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from mtlib.errors import ConfigurationError

SEPARATOR = "\x1f"


def derive(seed: int, name: str, *counters: int) -> int:
    """A 63-bit integer that depends on all arguments and on nothing else (SHA-256 of their text).

    Raises ConfigurationError for a name with the separator U+001F in it, which could read like another stream's.
    """
    if SEPARATOR in name:
        raise ConfigurationError(f"stream name {name[:120]!r}: expected no U+001F in it")
    text = SEPARATOR.join([str(int(seed)), name, *(str(int(counter)) for counter in counters)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, name: str, *counters: int) -> np.random.Generator:
    """NumPy generator (Philox, a counter-based generator) of the named stream."""
    return np.random.Generator(np.random.Philox(key=derive(seed, name, *counters)))


def torch_generator(seed: int, name: str, *counters: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Torch generator of the named stream on `device`."""
    return torch.Generator(device=device).manual_seed(derive(seed, name, *counters))


@contextmanager
def seeded(seed: int, name: str, *counters: int) -> Iterator[None]:
    """Within this context torch's global generators (the ones dropout draws from) follow the named stream.

    The state they had before is restored on leaving.
    """
    value, generators = derive(seed, name, *counters), [torch.default_generator]
    if torch.cuda.is_initialized():
        generators += torch.cuda.default_generators
    others: list[Any] = [each for each in (torch.mps, torch.xpu) if each.is_available()]
    before = [each.get_state() for each in generators], [each.get_rng_state() for each in others]
    for each in [*others, *generators]:
        each.manual_seed(value)
    try:
        yield
    finally:
        for each, state in zip(generators, before[0], strict=True):
            each.set_state(state)
        for module, state in zip(others, before[1], strict=True):
            module.set_rng_state(state)
