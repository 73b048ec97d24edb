"""Clean accuracy, as attack number zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import Draws, Model, ThreatModel, attack

if TYPE_CHECKING:
    from torch import Tensor


@attack(norms=(), access="labels", version=1, cost=lambda: (0, 0))
def clean(model: Model, x: Tensor, y: Tensor, threat: ThreatModel | None, draws: Draws) -> Tensor:
    """The images as they are: what falls to it was wrong to begin with.

    Access: labels; no norm.  Cost: nothing but the judge's own forward.
    """
    return x
