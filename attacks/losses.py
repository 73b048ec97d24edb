"""What attacks climb: losses of logits (N, K) and labels (N,), one value an image (N,).

All rise as the image gets nearer to being misread.  None combines images, so an image's gradient never depends on
its neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from bench import UsageError


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log of the true class's probability: (N,)."""
    return functional.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{j != y} z_j - z_y: (N,), without a hinge; positive where the image is misread."""
    # The true class is masked by -inf, not by 0: all other logits may be negative.
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.amax(1) - _own(logits, y)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """The difference-of-logits ratio, margin / (z_(1) - z_(3)): (N,), z_(i) the i-th largest; from 3 classes on.

    Shift and scale of the logits cancel (arXiv:2003.01690); the gradient flows through the divisor too.
    """
    if logits.shape[1] < 3:
        raise UsageError(f"the DLR compares the first and the third logit, and there are {logits.shape[1]} classes")
    ranked = logits.sort(1, descending=True).values
    return margin(logits, y) / (ranked[:, 0] - ranked[:, 2] + 1e-12)


def targeted_margin(logits: Tensor, pair: Tensor) -> Tensor:
    """z_t - z_y: (N,), for pairs (N, 2) of the true class and the target; without a hinge, and never rescaled."""
    return _own(logits, pair[:, 1]) - _own(logits, pair[:, 0])


def targeted_dlr(logits: Tensor, pair: Tensor) -> Tensor:
    """(z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2): (N,), for pairs (N, 2) of the true class and the target.

    Shift and scale cancel as in `dlr`.  With 2 or 3 classes there is no fourth logit, and it is the plain margin to
    the target.
    """
    value = targeted_margin(logits, pair)
    if logits.shape[1] < 4:
        return value
    ranked = logits.sort(1, descending=True).values
    return value / (ranked[:, 0] - (ranked[:, 2] + ranked[:, 3]) / 2 + 1e-12)


def rivals(logits: Tensor, y: Tensor, count: int) -> Tensor:
    """The classes with the largest logits beside the true one, best first: (N, count), or fewer where K is small."""
    others = logits.scatter(1, y[:, None], -torch.inf)
    order = others.argsort(dim=1, descending=True, stable=True)
    # The true class is taken out by name: a class of logit -inf may tie with it.
    return order[order != y[:, None]].view(len(y), -1)[:, :count]


def misread(logits: Tensor, y: Tensor) -> Tensor:
    """Whether the judge would say that an image fell: (N,) bool; a logit that is not finite is a misreading."""
    # What is not finite leaves nan less itself, which counts as true.
    return (logits.argmax(1) != y) | (logits - logits).any(1)


def _own(logits: Tensor, y: Tensor) -> Tensor:
    """The true class's logit: (N,)."""
    return logits.gather(1, y[:, None])[:, 0]
