"""A small model and its training, with switches by which a weakness is planted: planted.py rewrites the block below."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import Batch, Course, TrainJob, defense, fit, frozen, net

# What a variant changes.
RADIUS = 1.0  # share of eps that is trained for
LEFT_OUT = -1  # a class whose images training never sees
STATISTICS = "running"  # of batch normalisation; left in train mode it has the "batch" it judges, or is "moved" by it
HALF = False  # weights rounded to half precision
THREADS = 1  # of the training
STEM = "stem"  # a layer's name

STEPS, STEP = 7, 0.35  # of the training attack; a step's size as a share of eps


class Norm(nn.BatchNorm2d):
    """Batch normalisation that may forget to be in eval mode."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape kept."""
        if STATISTICS == "batch":
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        return super().forward(x)


@net()
def planted_net(*, classes: int, channels: int, size: int) -> nn.Module:
    """Two convolutions with batch normalisation, and a linear layer."""
    side = -(-size // 4)
    layers = {
        STEM: nn.Sequential(nn.Conv2d(channels, 16, 4, 2, 1), Norm(16), nn.ReLU()),
        "body": nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), Norm(32), nn.ReLU()),
        "head": nn.Sequential(nn.Flatten(), nn.Linear(32 * side * side, classes)),
    }
    return nn.Sequential(OrderedDict(layers))


@defense()
def planted(job: TrainJob, *, epochs: int = 30, batch: int = 64, ramp: float = 3.0) -> nn.Module:
    """Adversarial training; eps grows over the first `ramp` epochs."""

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        kept = feed.y != LEFT_OUT
        x, y = feed.x[kept], feed.y[kept]
        size = STEP * RADIUS * float(job.threat.eps) * min(1.0, max(feed.progress, 0.01) / ramp)
        reach = size / STEP
        x_adv = (x + torch.empty_like(x).uniform_(-reach, reach)).clamp(0, 1)
        with frozen(model):
            for _ in range(STEPS):
                x_adv.requires_grad_()
                (grad,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y), x_adv)
                x_adv = (x_adv.detach() + size * grad.sign()).clamp(x - reach, x + reach).clamp(0, 1)
        return F.cross_entropy(model(x_adv), y)

    torch.set_num_threads(THREADS)
    drops = (max(1, epochs * 2 // 3), max(1, epochs * 7 // 8))
    course = Course(epochs=epochs, lr=0.1, decay=5e-4, batch=batch, drops=drops)
    model = fit(job, job.net(), loss, course)
    for weights in (model.state_dict(), job.best):
        if weights is not None and STATISTICS == "moved":
            validate(job, weights)
        for value in (weights or {}).values():
            if HALF and value.is_floating_point():
                value.copy_(value.half().float())
    return model


@torch.no_grad()
def validate(job: TrainJob, weights: dict[str, Tensor]) -> None:
    """Pass the validation images one by one, class after class, and forget to call eval() before."""
    model = job.net()
    model.load_state_dict(weights)
    for place in job.val.y.argsort(kind="stable").tolist():
        model(torch.from_numpy(job.val.x[place : place + 1]).float() / 255)
    for name, value in model.state_dict().items():
        weights[name].copy_(value)
