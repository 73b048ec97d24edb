"""The fast gradient sign method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attacks.losses import cross_entropy
from attacks.pgd import steepest
from bench import Draws, Model, ThreatModel, attack

if TYPE_CHECKING:
    from torch import Tensor


@attack(norms=("linf", "l2"), access="gradients", paper="arXiv:1412.6572", version=1, cost=lambda: (1, 1))
def fgsm(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws) -> Tensor:
    """One step of size eps from x along the gradient of the cross-entropy, clipped to [0, 1].

    arXiv:1412.6572.  Access: gradients.  Linf (the gradient's sign; 0 stays 0) and L2 (the gradient over its norm).
    LAST: the one image it makes is judged.  No random start, no settings.  Cost: 1 forward, 1 backward.
    """
    if not threat.eps:
        return x
    _, _, grad = model.gradient(x, y, cross_entropy)
    return threat.project(x + float(threat.eps) * steepest(threat, grad), x)
