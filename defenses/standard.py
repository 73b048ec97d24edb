"""Standard training: no adversary; the row that shows what the others buy."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from bench import Batch, Course, TrainJob, defense, fit


@defense(version=2, adversarial=False)
def standard(job: TrainJob, *, course: Course = Course(select="clean")) -> nn.Module:
    """Cross-entropy on clean images; the best epoch is the one most accurate on clean validation images."""

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        return F.cross_entropy(model(feed.x), feed.y)

    return fit(job, job.net(), loss, course)
