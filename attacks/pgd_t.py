"""Targeted PGD: steps of a fixed size towards one class after another."""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import Tensor
from torch.nn import functional

from attacks.losses import rivals, targeted_margin
from attacks.pgd import climb
from attacks.targets import over_targets
from bench import Draws, Model, ThreatModel, attack


def _cost(steps: int, targets: int, all_classes: int = 10, **_: object) -> tuple[int, int]:
    """One forward ranks the targets; between them the attack looks at the last image, and the judge at the last one."""
    targets = min(targets, all_classes - 1)
    return 1 + targets * steps + max(targets - 1, 0), targets * steps


@attack(norms=("linf", "l2"), access="gradients", paper="arXiv:1910.09338", version=1, cost=_cost)
def pgd_t(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    steps: int = 40,
    step: float = 0.25,
    targets: int = 9,
    keep: Literal["last", "any"] = "last",
    start: Literal["uniform", "none"] = "uniform",
    loss: Literal["margin", "cross-entropy"] = "margin",
) -> Tensor:
    """MultiTargeted: PGD on the margin z_t - z_y to each of the likeliest other classes, one after another.

    arXiv:1910.09338.  Access: gradients.  Linf and L2.  Steps, step, start and keep as `pgd`, with a start of its own
    for each target; loss="cross-entropy" goes down the cross-entropy of the target instead.
    Targets: the classes with the largest logits on the clean image beside the true one, best first, at most K - 1.
    The union over targets: keep="last" (LAST) looks at the last image of each target's climb, keep="any" (ANY) at
    every iterate; any misreading counts, and the next target is tried only while the image stands.  An image that is
    misread already comes back as it is.
    Cost: 1 + targets * steps + targets - 1 forwards, targets * steps backwards.
    """
    if not threat.eps:
        return x
    climbed = targeted_margin if loss == "margin" else _likelihood

    def search(model: Model, x: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        pair = labels[:, [0, 1 + draws.restart]]
        (found,), rows = climb(
            model, x, pair, threat, draws, climbed, stops=(steps,), step=step, keep=keep, start=start
        )
        return found, rows

    return over_targets(search, model, x, y, draws, partial(rivals, count=targets))


def _likelihood(logits: Tensor, pair: Tensor) -> Tensor:
    """log of the target's probability: (N,), for pairs (N, 2) of the true class and the target."""
    return -functional.cross_entropy(logits, pair[:, 1], reduction="none")
