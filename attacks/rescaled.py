"""PGD on a cross-entropy whose scale is the attack's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attacks.losses import cross_entropy, margin
from attacks.pgd import ascend
from bench import Draws, Model, ThreatModel, attack

if TYPE_CHECKING:
    from torch import Tensor


def levelled(logits: Tensor, y: Tensor) -> Tensor:
    """The cross-entropy of logits divided by the size of their margin: (N,); no constant on the logits changes it."""
    size = margin(logits, y).detach().abs()
    return cross_entropy(logits / size.where(size > 0, 1.0)[:, None], y)


@attack(
    norms=("linf", "l2", "l1"), access="gradients", version=1,
    cost=lambda steps, restarts, **_: (restarts * steps + restarts - 1, restarts * steps),
)  # fmt: skip
def pgd_rescaled(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    steps: int = 100,
    step: float = 0.125,
    restarts: int = 1,
) -> Tensor:
    """`pgd` with keep="any", up the cross-entropy of logits that are divided by the size of their own margin.

    Access: gradients.  Linf, L2 and L1.  ANY.  Large logits make a softmax of exactly one class, whose cross-entropy
    has no gradient in float32, and small ones make it nearly even; here the true class and the best other are always
    one apart.  The divisor is a constant to the gradient.
    Cost: restarts * steps + restarts - 1 forwards and restarts * steps backwards.
    """
    return ascend(
        model, x, y, threat, draws, levelled, steps=steps, step=step, restarts=restarts, keep="any", start="uniform"
    )
