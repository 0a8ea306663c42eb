"""Device and precision, as accelerate sees them."""

from contextlib import AbstractContextManager

from mtlib.precision import Precision, autocast, resolved
from mtlib.training.ranks import join


class Device:
    """Where a run computes, and in which precision; raises what `mtlib.precision.resolved` raises."""

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
