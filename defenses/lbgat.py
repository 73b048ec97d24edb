"""LBGAT: learnable boundary guided adversarial training (Cui et al., 2021)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from bench import Batch, Course, TrainJob, defense, fit
from defenses.inner import Inner, craft, kl

COURSE = Course(epochs=100, decay=2e-4, drops=(1, 2, 76, 91, 101), falls=(0.2, 1.0, 0.1, 0.01, 0.001))


@defense(paper="arXiv:2011.11164", version=1)
def lbgat(
    job: TrainJob, *, beta: float = 0.0, teacher: str = "resnet18", inner: Inner = Inner(start="gauss", inner="kl"),
    course: Course = COURSE,
) -> nn.Module:  # fmt: skip
    """The logits of x' follow those of a teacher on x, who learns beside from clean images alone.

    teacher: its net.  beta: of TRADES' divergence on top (the authors: 0 or 6).  Only the student is kept.
    github.com/dvlab-research/LBGAT.
    """
    guide = job.net(teacher)

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        x_adv = craft(model, feed, job.threat, inner)
        guide.train()
        logits_adv, logits, guided = model(x_adv), model(feed.x), guide(feed.x)  # also at beta = 0: for the statistics
        total = F.mse_loss(logits_adv, guided) + F.cross_entropy(guided, feed.y)
        return total + beta * kl(logits_adv, logits.softmax(1)).mean()

    return fit(job, job.net(), loss, course, also={"teacher": guide})
