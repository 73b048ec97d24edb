"""MART: misclassification-aware adversarial training (Wang et al., 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import Batch, Course, TrainJob, defense, fit
from defenses.inner import Inner, craft, divergence
from defenses.weights import Weigh

INNER = Inner(start="gauss")
COURSE = Course(epochs=120, lr=0.01, decay=3.5e-3, drops=(75, 90, 100))


@defense(paper="openreview.net/forum?id=rklOg6EFwS", version=1)
def mart(job: TrainJob, *, beta: float = 5.0, inner: Inner = INNER, course: Course = COURSE) -> nn.Module:
    """Be right on x' by a margin, and weigh the divergence from x by how unsure the model is of x.

    The defaults are those of the authors' ResNet-18.  github.com/YisenWang/MART.
    """

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        return mart_loss(model, feed, craft(model, feed, job.threat, inner), beta)

    return fit(job, job.net(), loss, course)


def mart_loss(model: nn.Module, feed: Batch, x_adv: Tensor, beta: float, *, weigh: Weigh | None = None) -> Tensor:
    """BCE(x', y) + beta KL(p(x) || p(x')) (1 - p_y(x)), means over the batch; every term carries gradient.

    x and x' have a pass each: together they would share batch statistics.  weigh: logits of x and of x' to the
    weights (B,) of the first term.
    """
    logits, logits_adv = model(feed.x), model(x_adv)
    p, p_adv = logits.softmax(1), logits_adv.softmax(1)
    right = boosted(logits_adv, p_adv, feed.y)
    if weigh is not None:
        right = weigh(logits, logits_adv) * right
    return right.mean() + beta * unsure(p, p_adv, feed.y).mean()


def boosted(logits_adv: Tensor, p_adv: Tensor, y: Tensor) -> Tensor:
    """-log p_y(x') - log(1 - max p_k(x'), k not y) of each image, with the authors' small numbers: (B,)."""
    others = p_adv.scatter(1, y[:, None], -1.0).amax(1)
    return F.cross_entropy(logits_adv, y, reduction="none") - torch.log(1.0001 - others + 1e-12)


def unsure(p: Tensor, p_adv: Tensor, y: Tensor) -> Tensor:
    """KL(p || p') (1 - p_y) of each image, with the authors' small numbers: (B,)."""
    return divergence(p, torch.log(p_adv + 1e-12)) * (1.0000001 - p.gather(1, y[:, None])[:, 0])
