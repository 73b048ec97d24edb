"""The attack of Carlini and Wagner in L2: Adam on distance plus margin, the weight between them found by bisection."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.losses import margin, misread
from attacks.pgd import select
from bench import Draws, Model, ThreatModel, attack, per_image_sum

INSIDE = 1 - 1e-6  # black and white lie at infinity, so images begin this share of the way to them
FIRST, SECOND = 0.9, 0.999  # Adam's decays of the mean gradient and of its square
DROP = 0.9999  # a tenth of the steps must lower the loss to this share


@attack(
    norms=("l2",),
    access="gradients",
    goal="minimum-norm",
    paper="arXiv:1608.04644",
    version=1,
    cost=lambda rounds, steps, **_: (1 + rounds * steps, rounds * steps),
)
def cw_l2(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    rounds: int = 9,
    steps: int = 10_000,
    lr: float = 0.01,
    weight: float = 0.001,
    confidence: float = 0.0,
    abort: bool = True,
) -> Tensor:
    """Adam down |x' - x|^2 + c * max(z_y - max_{j != y} z_j + confidence, 0), for several weights c.

    arXiv:1608.04644.  Access: gradients.  L2.  MINIMUM over ANY: the nearest iterate of all rounds that is misread by
    a margin of `confidence`; the image itself where it is misread as it is, and where there is none.
    x' = (tanh(w) + 1) / 2, so it stays in [0, 1].  Every round starts at the image with a fresh Adam.  c begins at
    `weight`; a round that finds nothing multiplies it by 10 until one does, and from then on c is bisected.
    abort=True: an image leaves a round when a tenth of its steps did not lower its own loss by .01 %.  The authors'
    code aborts when the batch's sum does not, which lets images depend on their neighbours, and from 10 rounds on it
    runs the last with the largest c; here that is a round like the others.
    Deterministic.  Cost of an image that never falls and never aborts: 1 + rounds * steps forwards and rounds * steps
    backwards; aborting makes it much less as a rule.
    """
    found = x.clone()
    rows = (~misread(model(x), y)).nonzero()[:, 0]
    if not len(rows):
        return found
    best = torch.full((len(x),), torch.inf, dtype=torch.double, device=x.device)
    c = torch.full_like(best[rows], weight).to(x.dtype)
    low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
    for _ in range(rounds):
        descent = _begin(model[rows], x[rows], y[rows], c)
        images, sizes = _descend(descent, threat, steps, lr, confidence, steps // 10 or 1 if abort else 0)
        closer = sizes < best[rows]
        found[rows[closer]], best[rows[closer]] = images[closer], sizes[closer]
        fell = sizes.isfinite()
        low, high = low.where(fell, low.maximum(c)), torch.where(fell, high.minimum(c), high)
        c = torch.where(high.isfinite(), (low + high) / 2, 10 * c)
    return found


@dataclass
class _Descent:
    """Where a round stands on each image that has not aborted."""

    model: Model
    rows: Tensor  # (n,) places among the images of the round
    x: Tensor
    y: Tensor
    c: Tensor  # (n,)
    w: Tensor  # the iterate before tanh
    mean: Tensor  # Adam's running means of the gradient and of its square
    square: Tensor
    before: Tensor  # (n,) the loss at the last check


def _begin(model: Model, x: Tensor, y: Tensor, c: Tensor) -> _Descent:
    inner = (2 * x.double() - 1) * INSIDE
    # Not atanh: its last bits depend on where in the batch a value sits.
    w = (((1 + inner) / (1 - inner)).log() / 2).to(x.dtype)
    return _Descent(
        model=model, rows=torch.arange(len(x), device=x.device), x=x, y=y, c=c, w=w,
        mean=torch.zeros_like(x), square=torch.zeros_like(x), before=torch.full_like(c, torch.inf),
    )  # fmt: skip


def _descend(
    descent: _Descent, threat: ThreatModel, steps: int, lr: float, confidence: float, check: int
) -> tuple[Tensor, Tensor]:
    """The nearest misread iterates of one round, and their distances: infinite where there is none."""
    best = descent.x.clone()
    size = torch.full((len(best),), torch.inf, dtype=torch.double, device=best.device)

    def climbed(logits: Tensor, y: Tensor) -> Tensor:
        return (margin(logits, y) - confidence).clamp_max(0)

    for turn in range(steps):
        curve = torch.tanh(descent.w)
        now = (curve + 1) / 2
        logits, value, grad = descent.model.gradient(now, descent.y, climbed)
        far = threat.size(now.double() - descent.x.double())
        own = descent.y[:, None]
        fell = misread(logits.scatter_add(1, own, torch.full_like(logits[:, :1], confidence)), descent.y)
        closer = fell & (far < size[descent.rows])
        best[descent.rows[closer]], size[descent.rows[closer]] = now[closer], far[closer]
        delta = now - descent.x
        slope = (2 * delta - descent.c.view(-1, 1, 1, 1) * grad.nan_to_num()) * (1 - curve.square()) / 2
        if check and turn % check == 0:
            loss = per_image_sum(delta.square()) - descent.c * value
            goes_on = loss <= DROP * descent.before
            if not goes_on.any():
                break
            descent.before = loss
            descent, slope = select(descent, goes_on), slope[goes_on]
        _adam(descent, slope, turn + 1, lr)
    return best, size


def _adam(descent: _Descent, slope: Tensor, turn: int, lr: float) -> None:
    """One step of Adam, the first being turn 1."""
    descent.mean = FIRST * descent.mean + (1 - FIRST) * slope
    descent.square = SECOND * descent.square + (1 - SECOND) * slope.square()
    mean, square = descent.mean / (1 - FIRST**turn), descent.square / (1 - SECOND**turn)
    descent.w = descent.w - lr * mean / (square.sqrt() + 1e-8)
