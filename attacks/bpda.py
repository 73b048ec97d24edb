"""BPDA: a climb of the margin through stand-ins for the layers that hide their gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from attacks.losses import margin
from attacks.pgd import ascend
from bench import Draws, Model, ThreatModel, attack

if TYPE_CHECKING:
    from torch import Tensor


@attack(
    norms=("linf", "l2", "l1"), access="gradients", paper="arXiv:1802.00420", version=1, coarse=False, stand_ins=True,
    cost=lambda steps, restarts, **_: (restarts * steps + restarts - 1, restarts * steps),
)  # fmt: skip
def bpda(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    steps: int = 100,
    step: float = 0.125,
    restarts: int = 1,
    start: Literal["uniform", "none"] = "uniform",
) -> Tensor:
    """`cw` with keep="any", on the model's own answers and with the identity's gradient where a layer hides its own.

    arXiv:1802.00420 (backward pass differentiable approximation).  Access: gradients.  Linf, L2 and L1.  ANY.
    The bench finds the layers: those that give what is shaped as their input, move with it, and whose slopes by
    differences are not autograd's (quantisers, compression, custom backwards).  What is rounded within a layer of
    another shape stays hidden.  On a model without such layers it is `cw`.
    Cost: restarts * steps + restarts - 1 forwards and restarts * steps backwards.
    """
    return ascend(
        model, x, y, threat, draws, margin, steps=steps, step=step, restarts=restarts, keep="any", start=start
    )
