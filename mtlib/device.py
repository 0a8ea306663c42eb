"""Where this process computes, and in which precision: the one place that decides it."""

import os
from contextlib import AbstractContextManager, suppress
from datetime import timedelta
from typing import Literal, TypeVar

import torch

from mtlib.errors import ConfigurationError

Precision = Literal["auto", "bfloat16", "float32"]
"""auto: bfloat16 autocast where the device multiplies faster in it, else float32."""


def gains_by_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices faster than float32 ones.

    Intel's CPUs do where AMX is; a hypervisor may hide it, and what is left, AVX-512's bfloat16 product, runs there at
    0.6 of float32's speed, on AMD's CPUs at twice it.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        vectors = able.get("avx512_bf16") and "Intel" not in str(able.get("cpu_name"))
        return bool(able.get("amx_bf16") or able.get("bf16") or vectors)
    return False


def resolved(precision: Precision, device: torch.device) -> Literal["bfloat16", "float32"]:
    """ "bfloat16" or "float32".

    Raises ConfigurationError when bfloat16 is asked of a GPU without it (a CPU without it computes it, slowly and
    correctly).
    """
    able = gains_by_bfloat16(device)
    if precision == "bfloat16" and not able and device.type != "cpu":
        raise ConfigurationError(f"precision bfloat16: {device} does not compute in it; use auto or float32")
    return ("bfloat16" if able else "float32") if precision == "auto" else precision


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager:
    """Autocast to bfloat16, or a context of float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=resolved(precision, device) == "bfloat16")


Number = TypeVar("Number", int, float)

PATIENCE = "MTLIB_RANK_TIMEOUT"
"""Environment variable: seconds that a process waits for the others before the run ends (600)."""


def join() -> torch.device:
    """The device of this process, joined to the others of its launch if there are any.

    Raises ConfigurationError where the environment is not one that a launcher leaves.
    """
    from accelerate import PartialState

    if (size := _positive("WORLD_SIZE", 1)) == 1:
        return PartialState().device
    if not os.environ.get("MASTER_ADDR"):
        launched = "expected what `accelerate launch` says to each process, MASTER_ADDR among it"
        raise ConfigurationError(f"WORLD_SIZE={size}: {launched}; start the command with it, or unset WORLD_SIZE")
    for name, largest in (("RANK", size - 1), ("LOCAL_RANK", size - 1), ("MASTER_PORT", 2**16 - 1)):
        text = os.environ.get(name, "0")
        if not text.isdecimal() or int(text) > largest:
            raise ConfigurationError(f"{name}: expected a number from 0 to {largest}, found {text[:80]!r}; correct it")
    patience = timedelta(seconds=_positive(PATIENCE, 600.0))
    return PartialState(cpu=not torch.cuda.is_available(), timeout=patience).device


def _positive(name: str, default: Number) -> Number:
    """A positive number in the environment, of the default's type. Raises ConfigurationError for anything else."""
    text = os.environ.get(name, str(default))
    with suppress(ValueError):
        if 0 < (number := type(default)(text)) < float("inf"):
            return number
    raise ConfigurationError(f"{name}: expected a positive number, found {text[:80]!r}; correct it, or unset it")


class Device:
    """Where a run computes, and in which precision; raises what `resolved` raises."""

    def __init__(self, precision: Precision = "auto"):
        self.device = join()
        self.precision = resolved(precision, self.device)

    @property
    def fused(self) -> bool:
        """Whether AdamW's fused kernel is to be used."""
        return self.device.type in ("cpu", "cuda")

    def autocast(self) -> AbstractContextManager:
        """Autocast to bfloat16, or a context that changes nothing."""
        return autocast(self.device, self.precision)
