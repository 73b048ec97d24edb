"""Hypersphere embedding (Pang et al., 2020): adversarial training of cosines with a margin."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from bench import Batch, Course, TrainJob, UsageError, defense, fit
from defenses.inner import Inner, craft, kl

COURSE = Course(epochs=77, decay=5e-4, drops=(75, 90, 100))


@defense(paper="arXiv:2002.08619", version=1)
def he(
    job: TrainJob, *, base: Literal["at", "trades"] = "at", margin: float = 0.2, beta: float = 6.0,
    inner: Inner = Inner(start="gauss"), course: Course = COURSE,
) -> nn.Module:  # fmt: skip
    """Adversarial training, or TRADES, on s (cos - margin) for the true class; the attack sees no margin.

    Needs a net whose logits are s times cosines, as --net "he(net='resnet18')".  The authors take s = 10 for at, and
    s = 15, inner='kl' and decay=2e-4 for trades.  github.com/ShawnXYang/AT_HE.
    """
    model = job.net()
    scale = getattr(model, "scale", None)
    if not isinstance(scale, int | float):
        raise UsageError(
            f"he trains cosines, and {type(model).__name__} gives other logits; expected --net \"he(net='resnet18')\""
        )

    def clean_or_robust(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(x)
        return logits, F.cross_entropy(logits - scale * margin * F.one_hot(y, logits.shape[1]), y)

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        x_adv = craft(model, feed, job.threat, inner)
        if base == "at":
            return clean_or_robust(model, x_adv, feed.y)[1]
        logits, clean = clean_or_robust(model, feed.x, feed.y)
        return clean + beta * kl(model(x_adv), logits.softmax(1)).mean()

    return fit(job, model, loss, course)
