"""FMN: climb the margin inside a ball that shrinks where an image is misread and grows where it is not."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from attacks.fab import dual_size
from attacks.losses import margin, misread
from bench import Draws, Model, ThreatModel, attack, per_image_sum

L2 = ThreatModel("l2", Fraction(1))  # every norm steps along the gradient over its L2 norm
NUDGE = 1 + 1e-6  # of the estimate, so that an iterate crosses a boundary that it would only touch
LAST_GAMMA = 0.001
LAST_ALPHA = 0.01  # as a share of the first


@attack(
    norms=("linf", "l2", "l1", "l0"),
    access="gradients",
    goal="minimum-norm",
    paper="arXiv:2102.12827",
    version=1,
    cost=lambda steps, **_: (steps, steps),
)
def fmn(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    steps: int = 100,
    alpha: float = 1.0,
    gamma: float = 0.05,
) -> Tensor:
    """Fast minimum-norm: steps up the margin, each projected into a ball whose radius follows the boundary.

    arXiv:2102.12827, after the authors' code.  Access: gradients.  Linf, L2, L1 and L0.  MINIMUM over ANY: the nearest
    misread iterate, the image itself included; and the image itself where there is none.
    A step is alpha along the gradient over its L2 norm, whatever the threat's norm; alpha falls by a cosine to a
    hundredth of itself, and gamma to .001.  While no iterate was misread, the radius is the distance to the boundary as
    the gradient tells it; then it shrinks by gamma after a misread iterate, and never is above the best distance, and
    grows by gamma after another.  L0 has no such estimate, as in the authors' code: its radius begins at one pixel
    and changes by gamma, but by one pixel at least, and never is below one (the code lets it be 0, and then keeps every
    value).  L0 counts pixels, of which those that move furthest in L2 stay; the authors count values.
    Two deviations find what the authors' code does not.  L2, L1 and L0 project onto ball and box together; the code
    clips to the box after the ball, and in L2 and L1 is then left with a size that never reaches the boundary of images
    with many black or white pixels.  And the estimate is taken to be 1e-6 further away: on a boundary that is nearly
    flat the iterates would hover just before it.  Public ports of L2 differ from both: one does not project at all, and
    one always rescales.
    Deterministic.  Cost: steps forwards and steps backwards; the last step's image is never asked about, as there.
    """
    found, rows = x.clone(), torch.arange(len(x), device=x.device)
    now, best = x, torch.full((len(x),), torch.inf, dtype=torch.double, device=x.device)
    radius = torch.full_like(best, 1.0 if threat.norm == "l0" else torch.inf)
    box = threat.size(x.maximum(1 - x).double())  # the size of all of it
    for turn in range(steps):
        logits, value, grad = model.gradient(now, y, margin)
        fell, grad = misread(logits, y), grad.nan_to_num()
        if not turn and fell.any():  # an image that is misread already has nothing to look for
            stands = ~fell
            model, x, y, now, rows = model[stands], x[stands], y[stands], now[stands], rows[stands]
            best, radius, value, grad, fell = best[stands], radius[stands], value[stands], grad[stands], fell[stands]
            box = box[stands]
            if not len(x):
                break
        if not turn:
            start = x.double()
        size = threat.size(now.double().sub_(start))
        closer = fell & (size <= best)
        found[rows[closer]] = now[closer]
        best = size.where(closer, best)
        share = (1 + math.cos(math.pi * turn / steps)) / 2
        radius = _adapted(threat, radius, fell, best, size, value, grad, LAST_GAMMA + (gamma - LAST_GAMMA) * share)
        radius = radius.minimum(box)
        step = alpha * (LAST_ALPHA + (1 - LAST_ALPHA) * share)
        ahead = L2.uphill(grad).mul_(step).add_(now)
        now = _project_l2(ahead, x, radius) if threat.norm == "l2" else threat.project(ahead, x, radius)
    return found


def _adapted(
    threat: ThreatModel, radius: Tensor, fell: Tensor, best: Tensor, size: Tensor, value: Tensor, grad: Tensor,
    gamma: float,
) -> Tensor:  # fmt: skip
    """The radius (n,) of the next ball: smaller where the iterate fell, else larger."""
    smaller, larger = radius * (1 - gamma), radius * (1 + gamma)
    if threat.norm == "l0":
        smaller = (radius - 1).minimum(smaller.floor()).clamp_min(1)
        larger = (radius + 1).maximum(larger.floor())
    else:
        slope = dual_size(threat.norm, grad)
        boundary = (size + torch.where(slope > 0, value.abs() / slope, torch.inf)) * NUDGE
        larger = larger.where(best.isfinite(), boundary)
    return torch.where(fell, smaller.minimum(best), larger)


def _project_l2(x_adv: Tensor, x: Tensor, radius: Tensor) -> Tensor:
    """The nearest image in [0, 1] within the radius (n,): clipped after scaling by the largest factor that allows it.

    The size of what is clipped grows with the factor, piece by piece, so that every step below stays under the root
    and the last one is on its piece.
    """
    delta = (x_adv - x).double().flatten(1)
    start = x.double().flatten(1)
    size, room = delta.abs(), torch.where(delta > 0, 1 - start, start)
    factor = torch.zeros_like(radius)
    while True:
        free = factor[:, None] * size < room
        missing = radius.square() - per_image_sum(room.square() * ~free)
        ahead = (missing / per_image_sum(size.square() * free).clamp_min(1e-300)).clamp_min(0).sqrt().clamp_max(1)
        grows = ahead > factor
        if not grows.any():
            return (start + factor[:, None] * delta).clamp(0, 1).to(x.dtype).view_as(x)
        factor = ahead.where(grows, factor)
