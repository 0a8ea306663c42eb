"""R-Drop: two dropout masks, one answer (Wu et al. 2021)."""

from typing import Literal, Self

import torch
from pydantic import field_validator
from torch import nn

from mtlib.objectives.divergences import symmetric_divergence
from mtlib.objectives.penalty import Dropout, Penalty, Step, require_dropout


class RDrop(Penalty):
    """Half the symmetric divergence l_s(f'(x), f(x)) / 2 of two passes under different dropout masks.

    weight: alpha of the authors' code, whose task loss is the mean of both passes (1 to 5; .1 to 1 for GLUE). The
        paper's equation adds both up, which is twice that loss with twice this weight for its alpha.
    dropout: has to be "independent": under one mask both passes are the same and the penalty is always 0.
    Where it deviates from the paper: the task loss is that of the first pass alone, which is the mean over both in
    expectation; the embedding block's own dropout is shared by both, because it runs once; of a
    regression, whose output has no distribution, it is half the squared difference.
    The gradient flows into both passes. One step costs 6 passes where plain training costs 3. Logs rdrop/penalty.
    Related: `Smart` with direction "none" is twice this penalty. Source: Wu et al. 2021, equation 2.

    >>> RDrop(weight=1.0).label
    'rdrop-1'
    """

    kind: Literal["rdrop"] = "rdrop"
    dropout: Dropout = "independent"

    @field_validator("dropout")
    @classmethod
    def _two_masks(cls, dropout: Dropout) -> Dropout:
        if dropout != "independent":
            raise ValueError("R-Drop compares two dropout masks: expected 'independent'")
        return dropout

    def start(self, model: nn.Module, steps: int) -> Self:
        """Itself; raises ConfigurationError for a model without dropout, of which the penalty is always 0."""
        require_dropout(model, self.label)
        return self

    def __call__(self, step: Step) -> torch.Tensor:
        """The penalty of this step."""
        again = step.forward(step.embeddings)
        term = symmetric_divergence(step.kind, again, step.logits) / 2
        step.log["rdrop/penalty"] = term.detach()
        return term
