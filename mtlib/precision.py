"""Float32 or bfloat16: what a device computes in."""

from contextlib import AbstractContextManager
from typing import Literal

import torch

from mtlib.errors import ConfigurationError

Precision = Literal["auto", "bfloat16", "float32"]
"""auto: bfloat16 autocast where the device multiplies in it, else float32."""


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))
    return False


def resolved(precision: Precision, device: torch.device) -> str:
    """ "bfloat16" or "float32".

    Raises ConfigurationError when bfloat16 is asked of a GPU without it (a CPU without it computes it, slowly and
    correctly).
    """
    able = computes_bfloat16(device)
    if precision == "bfloat16" and not able and device.type != "cpu":
        raise ConfigurationError(f"precision bfloat16: {device} does not compute in it; use auto or float32")
    return ("bfloat16" if able else "float32") if precision == "auto" else precision


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager:
    """Autocast to bfloat16, or a context of float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=resolved(precision, device) == "bfloat16")
