"""Standard training: no adversary; the row that shows what the others buy."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from bench import Augment, Batch, TrainJob, defense, fit


@defense(version=1)
def standard(
    job: TrainJob, *, epochs: int = 110, lr: float = 0.1, decay: float = 5e-4, batch: int = 128,
    drops: tuple[int, ...] = (100, 105), augment: Augment = "none",
) -> nn.Module:  # fmt: skip
    """Cross-entropy on clean images; the best epoch is the one most accurate on clean validation images."""

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        return F.cross_entropy(model(feed.x), feed.y)

    return fit(
        job,
        job.net(),
        loss,
        epochs=epochs,
        lr=lr,
        decay=decay,
        batch=batch,
        drops=drops,
        augment=augment,
        select="clean",
    )
