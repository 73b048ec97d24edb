"""The minimum-margin attack: the raw margin to the likeliest classes, one after another; and PART's protocol."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from attacks.apgd import climb_once
from attacks.losses import rivals, targeted_margin
from attacks.pgd import steepest
from attacks.targets import over_targets
from bench import Draws, Model, ThreatModel, attack


def _cost(targets: int, steps: int, all_classes: int = 10, **_: object) -> tuple[int, int]:
    """The clean logits, the climbs, and a look at the last image of every climb but the last."""
    targets = min(targets, all_classes - 1)
    return 1 + targets * steps + targets - 1, targets * steps


def _cost_mma(steps: int, targets: int, all_classes: int = 10, **_: object) -> tuple[int, int]:
    """A look at the last image of every climb."""
    forwards, backwards = _cost(targets, steps, all_classes)
    return forwards + 1, backwards


@attack(norms=("linf",), access="gradients", paper="arXiv:2206.07314", version=1, cost=partial(_cost, 3))
def mm3(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws, *, steps: int = 20) -> Tensor:
    """Auto-PGD on the raw margin z_t - z_y to the 3 likeliest other classes, one after another.

    arXiv:2206.07314.  Access: gradients.  Linf.  ANY: an image stops at its first misread iterate of any climb,
    whatever the class, and the next target is tried only while it stands.  Targets are ranked by the clean logits;
    with fewer other classes, all of them.  Start, momentum and step as `apgd-ce`, a fresh start for each target.
    Cost: 3 (steps + 1) forwards, 3 steps backwards.  The authors' code spends two passes a target more, and one
    backward, on iterates that the judge or the next look asks about.
    """
    return _one_by_one(model, x, y, threat, draws, 3, steps)


@attack(norms=("linf",), access="gradients", paper="arXiv:2206.07314", version=1, cost=partial(_cost, 9))
def mm9(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws, *, steps: int = 20) -> Tensor:
    """Auto-PGD on the raw margin z_t - z_y to the 9 likeliest other classes, one after another.

    arXiv:2206.07314.  Access, norm, semantics and settings as `mm3`.
    Cost: 9 (steps + 1) forwards, 9 steps backwards.
    """
    return _one_by_one(model, x, y, threat, draws, 9, steps)


@attack(norms=("linf",), access="gradients", paper="arXiv:2206.07314", version=1, cost=partial(_cost, 9))
def mm_plus(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws, *, steps: int = 100) -> Tensor:
    """MM+: `mm9` with climbs of 100 steps.

    arXiv:2206.07314.  Access, norm and semantics as `mm3`.  The first steps of a climb are not those of a shorter
    one, since the number of steps sets when the step size is checked.
    Cost: 9 (steps + 1) forwards, 9 steps backwards.
    """
    return _one_by_one(model, x, y, threat, draws, 9, steps)


def _one_by_one(
    model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws, count: int, steps: int
) -> Tensor:
    if not threat.eps:
        return x

    def search(model: Model, x: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        pair = labels[:, [0, 1 + draws.restart]]
        return climb_once(model, x, pair, threat, draws, targeted_margin, steps)

    return over_targets(search, model, x, y, draws, partial(rivals, count=count))


@attack(
    norms=("linf",),
    access="gradients",
    paper="arXiv:2206.07314",
    version=1,
    cost=_cost_mma,
)
def mma(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    steps: int = 20,
    step: float = 0.25,
    targets: int = 3,
) -> Tensor:
    """The margin attack as PART's code runs it, called MMA there: three climbs by fixed steps, and one is judged.

    arXiv:2206.07314 for the margins, PART's code for the protocol.  Neither `mm3` nor the MMA training of Ding et al.
    Access: gradients.  Linf.  LAST: every target's climb of z_t - z_y takes all its sign steps of step * eps (2/255
    at 8/255) from one start that they share, uniform and clipped; the last image with the largest z_t - z_y is the
    one judged, also where another of the three is misread.  Targets: the likeliest other classes by the clean logits.
    That code's hinge at 50 is left out: no logits reach it, and the sign steps are the same.
    Cost: 1 + targets * (steps + 1) forwards, targets * steps backwards.
    """
    if not threat.eps:
        return x
    others = rivals(model(x), y, targets)
    images, count = others.shape
    # All climbs in one pass: first every image for its first target, then for its second, ...
    pair = torch.stack([y.repeat(count), others.T.flatten()], 1)
    around = x.repeat(count, 1, 1, 1)
    now = threat.random(x, draws.at("start")).repeat(count, 1, 1, 1)
    for _ in range(steps):
        grad = model.gradient(now, pair, targeted_margin)[2]
        now = threat.project(now + step * float(threat.eps) * steepest(threat, grad), around)
    best = targeted_margin(model(now), pair).view(count, images).argmax(0)
    return now.view(count, *x.shape)[best, torch.arange(images, device=x.device)]
