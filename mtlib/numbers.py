"""The numbers that settings take: each says its range, and none is infinite or NaN."""

from typing import Annotated

from pydantic import Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""From none to all."""

Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
"""Less than all: a share that is dropped, or kept from step to step."""

Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
