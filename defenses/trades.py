"""TRADES (Zhang et al., 2019)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from bench import Batch, Course, TrainJob, UsageError, defense, fit
from defenses.inner import Inner, craft, kl
from defenses.weights import Weigh

INNER = Inner(start="gauss", inner="kl")
COURSE = Course(epochs=76, decay=2e-4, drops=(75, 90, 100))


@defense(paper="arXiv:1901.08573", version=2)
def trades(
    job: TrainJob, *, beta: float = 6.0, forwards: int = 2, smoothing: float = 0.0, inner: Inner = INNER,
    course: Course = COURSE,
) -> nn.Module:  # fmt: skip
    """Be right on x, and of one mind about everything near x.

    forwards: how often the clean batch passes in training mode (the authors' code: 2, which counts twice in the batch
    statistics).  smoothing: of the labels, in the clean term alone.  github.com/yaodongyu/TRADES.
    """
    if forwards not in (1, 2):
        raise UsageError(f"forwards={forwards}: the clean batch passes once or twice; expected 1 or 2")

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        x_adv = craft(model, feed, job.threat, inner)
        return trades_loss(model, feed, x_adv, beta, forwards, smoothing=smoothing)

    return fit(job, job.net(), loss, course)


def trades_loss(
    model: nn.Module, feed: Batch, x_adv: Tensor, beta: float, forwards: int = 2, *, smoothing: float = 0.0,
    weigh: Weigh | None = None,
) -> Tensor:  # fmt: skip
    """CE(f(x), y) + beta KL(p(x) || p(x_adv)); the gradient flows through both arguments of the divergence.

    weigh: logits of x and of x_adv to the weights (B,) of the divergences.
    """
    logits = model(feed.x)
    logits_adv = model(x_adv)
    again = model(feed.x) if forwards == 2 else logits
    clean = F.cross_entropy(logits, feed.y, label_smoothing=smoothing)
    divergence = kl(logits_adv, again.softmax(1))
    if weigh is not None:
        divergence = weigh(logits, logits_adv) * divergence
    return clean + beta * divergence.mean()
