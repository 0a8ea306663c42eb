"""Device and precision, as accelerate sees them."""

from contextlib import AbstractContextManager

import torch

from mtlib.errors import ConfigurationError
from mtlib.training.ranks import join


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))
    return False


class Device:
    """Where a run computes, and in which precision.

    precision: "auto" takes bfloat16 where the device has it. Raises ConfigurationError when bfloat16 is asked of a
    GPU without it (a CPU without it computes it, slowly and correctly).
    """

    def __init__(self, precision: str = "auto"):
        self.device = join()
        able = computes_bfloat16(self.device)
        if precision == "bfloat16" and not able and self.device.type != "cpu":
            raise ConfigurationError(f"precision bfloat16: {self.device} does not compute in it; use auto or float32")
        self.precision = ("bfloat16" if able else "float32") if precision == "auto" else precision

    @property
    def fused(self) -> bool:
        """Whether AdamW's fused kernel is to be used."""
        return self.device.type in ("cpu", "cuda")

    def autocast(self) -> AbstractContextManager:
        """Autocast to bfloat16, or a context that changes nothing."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")
