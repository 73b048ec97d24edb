"""The momentum iterative method: sign steps along a running sum of gradients."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from attacks.losses import cross_entropy, misread
from attacks.pgd import steepest
from bench import Draws, Model, ThreatModel, attack, per_image_sum


@attack(
    norms=("linf", "l2"),
    access="gradients",
    paper="arXiv:1710.06081",
    version=1,
    cost=lambda steps, **_: (steps, steps),
    zero=("decay",),
)
def mim(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    steps: int = 10,
    step: float = 0.1,
    decay: float = 1.0,
    keep: Literal["last", "any"] = "last",
) -> Tensor:
    """Steps of size step * eps along g <- decay * g + grad / ||grad||_1, of the cross-entropy, from x itself.

    arXiv:1710.06081 (MI-FGSM).  Access: gradients.  Linf (the sign of g) and L2 (g over its norm).  By default ten
    steps of eps / 10, as the paper has them; give step = 1 / steps with another number.
    keep="last" (LAST): the last iterate is judged.  keep="any" (ANY): an image stops at its first misread iterate, x
    included.  No random start.
    Cost: steps forwards, steps backwards.
    """
    if not threat.eps:
        return x
    found, rows = x.clone(), torch.arange(len(x), device=x.device)
    now, memory = x, torch.zeros_like(x)
    for _ in range(steps):
        logits, _, grad = model.gradient(now, y, cross_entropy)
        memory = decay * memory + _over_l1(grad.nan_to_num())
        if keep == "any" and (fell := misread(logits, y)).any():
            found[rows[fell]] = now[fell]
            if fell.all():
                return found
            model, x, y, rows, now, memory = model[~fell], x[~fell], y[~fell], rows[~fell], now[~fell], memory[~fell]
        now = threat.project(now + step * float(threat.eps) * steepest(threat, memory), x)
    found[rows] = now
    return found


def _over_l1(grad: Tensor) -> Tensor:
    """Each image's gradient over its L1 norm; zero stays zero, and no sum overflows or vanishes."""
    top = grad.abs().flatten(1).amax(1).view(-1, 1, 1, 1)
    level = grad / top.where(top > 0, 1.0)
    return level / per_image_sum(level.abs()).view(-1, 1, 1, 1).clamp_min(1)
