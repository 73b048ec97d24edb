"""HAT: helper-based adversarial training (Rade and Moosavi-Dezfooli, 2022)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import Batch, Course, TrainJob, defense, fit
from defenses.inner import Inner, craft, kl

COURSE = Course(epochs=50, lr=0.21, nesterov=True, schedule="one-cycle", rate_by="step", drops=())


@defense(paper="openreview.net/forum?id=Azh9QBQ4tR7", version=1)
def hat(
    job: TrainJob, *, beta: float = 2.5, gamma: float = 0.5, reach: float = 2.0, helper_epochs: int = 0,
    inner: Inner = Inner(start="gauss", inner="kl"), course: Course = COURSE,
) -> nn.Module:  # fmt: skip
    """TRADES, and farther out the answer that a standard model has there: fewer needless invariances.

    reach: how far out, as a multiple of the perturbation; the images there are not clipped to [0, 1].  The standard
    model is trained first, for helper_epochs (0: as many as the course has).  github.com/imrahulr/hat.
    """
    helper = _helper(job, replace(course, select="clean", epochs=helper_epochs or course.epochs))

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        x_adv = craft(model, feed, job.threat, inner)
        with torch.no_grad():
            answer = helper(x_adv).argmax(1)
        logits, logits_adv = model(feed.x), model(x_adv)
        logits_out = model(feed.x + reach * (x_adv - feed.x))
        calm = beta * kl(logits_adv, logits.softmax(1)).mean()
        return F.cross_entropy(logits, feed.y) + calm + gamma * F.cross_entropy(logits_out, answer)

    return fit(job, job.net(), loss, course)


def _helper(job: TrainJob, course: Course) -> nn.Module:
    """A standard model of the same net, frozen."""
    aside = job.aside("helper")
    helper = fit(aside, aside.net(), lambda model, feed: F.cross_entropy(model(feed.x), feed.y), course)
    return helper.eval().requires_grad_(False)
