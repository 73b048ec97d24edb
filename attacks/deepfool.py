"""DeepFool: step onto the nearest boundary as it looks from here, until the image is misread."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.fab import dual_size, nearest_boundary
from attacks.losses import misread, rivals
from bench import Draws, Model, ThreatModel, attack

BEYOND = 1e-4  # added to every step's size


def _cost(steps: int, classes: int, all_classes: int = 10, **_: object) -> tuple[int, int]:
    return 1 + 2 * steps, steps * min(classes, all_classes)


@attack(
    norms=("linf", "l2"),
    access="gradients",
    goal="minimum-norm",
    paper="arXiv:1511.04599",
    version=1,
    cost=_cost,
    zero=("overshoot",),
)
def deepfool(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    steps: int = 50,
    classes: int = 10,
    overshoot: float = 0.02,
) -> Tensor:
    """Steps onto the nearest class's linearised boundary, each 1e-4 and a share `overshoot` longer, clipped to [0, 1].

    arXiv:1511.04599.  Access: gradients.  Linf and L2.  The first misread iterate, the image itself included; and the
    image itself where there is none.  It stops there, and so is not the nearest one possible.
    The classes are those with the largest logits on the clean image, the true one among them, as in the authors' code,
    which takes the predicted class for the true one.  Steps start from the clipped iterate, as in adversarial-library;
    the authors clip nothing, and overshoot the sum of all steps from the image.  Unlike there, the last step's image
    is asked about too, and gradients below 1e-6 are not taken for longer ones.
    Deterministic.  Cost: 1 + 2 * steps forwards and steps * min(classes, K) backwards for K classes (told for 10); an
    image that falls pays for no gradients at the place where it fell.
    """
    found, logits = x.clone(), model(x)
    rows = (~misread(logits, y)).nonzero()[:, 0]
    labels = torch.cat([y[:, None], rivals(logits, y, max(classes, 2) - 1)], 1)
    now = found[rows]
    for _ in range(steps):
        if not len(rows):
            break
        value, normal = nearest_boundary(threat, model[rows], now, y[rows], labels[rows])
        slope = dual_size(threat.norm, normal)
        size = value.abs() / torch.where(slope > 0, slope, 1.0) + BEYOND
        now = (now + ((1 + overshoot) * size).view(-1, 1, 1, 1) * threat.uphill(normal)).clamp(0, 1)
        fell = misread(model[rows](now), y[rows])
        found[rows[fell]] = now[fell]
        rows, now = rows[~fell], now[~fell]
    return found
