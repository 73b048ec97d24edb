"""DDN: the direction follows the cross-entropy, the length only whether the image is misread."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attacks.losses import cross_entropy, misread
from attacks.pgd import steepest
from bench import Draws, Model, ThreatModel, attack

LAST_STEP = 0.01


@attack(
    norms=("l2",),
    access="gradients",
    goal="minimum-norm",
    paper="arXiv:1811.09600",
    version=1,
    cost=lambda steps, **_: (steps, steps),
)
def ddn(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    steps: int = 100,
    gamma: float = 0.05,
    start: float = 1.0,
    levels: int = 0,
) -> Tensor:
    """Decoupled direction and norm: steps up the cross-entropy, rescaled to a length that a misread iterate shortens.

    arXiv:1811.09600.  Access: gradients.  L2.  MINIMUM over ANY: the nearest misread iterate, the image itself
    included; and the image itself where there is none.
    The length begins at `start` and changes by the share gamma; a step falls by a cosine from 1 to .01.
    Where the gradient is zero the step is in a random direction, of length 1 as other steps are (the authors' is not
    normalised).  levels=0: images of any values; the authors' code rounds to levels=256, and so does this: first it
    rounds, then it clips (adversarial-library clips first).  The last step's image is never asked about, as there.
    Cost: steps forwards and steps backwards.
    """
    found, rows = x.clone(), torch.arange(len(x), device=x.device)
    now, best = x, torch.full((len(x),), torch.inf, dtype=torch.double, device=x.device)
    length = torch.full((len(x),), start, device=x.device)
    for turn in range(steps):
        logits, _, grad = model.gradient(now, y, cross_entropy)
        fell = misread(logits, y)
        if not turn and fell.any():  # an image that is misread already has nothing to look for
            stands = ~fell
            model, x, y, draws, rows = model[stands], x[stands], y[stands], draws[stands], rows[stands]
            now, best, length, grad, fell = now[stands], best[stands], length[stands], grad[stands], fell[stands]
            if not len(x):
                break
        size = threat.size(now.double() - x.double())
        closer = fell & (size < best)
        found[rows[closer]] = now[closer]
        best = size.where(closer, best)
        step = LAST_STEP + (1 - LAST_STEP) * (1 + math.cos(math.pi * turn / steps)) / 2
        delta = now - x + step * _direction(threat, grad, draws.at("flat", step=turn))
        length = torch.where(fell, length * (1 - gamma), length * (1 + gamma))
        length = length.minimum(threat.size(x.maximum(1 - x)))  # the size of the whole box
        now = x + delta * (length / threat.size(delta).clamp_min(1e-12)).view(-1, 1, 1, 1)
        if levels:
            now = (now * (levels - 1)).round() / (levels - 1)
        now = now.clamp(0, 1)
    return found


def _direction(threat: ThreatModel, grad: Tensor, draws: Draws) -> Tensor:
    """The gradient over its norm, or a random direction where it is zero."""
    direction = steepest(threat, grad)
    flat = (direction == 0).flatten(1).all(1)
    if flat.any():
        direction[flat] = threat.uphill(draws[flat].normal(*grad.shape[1:]))
    return direction
