"""Plugins for tests: a linear net, quick defenses, and attacks that break their contract."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import Batch, Column, Course, Draws, Model, ThreatModel, TrainJob, attack, defense, fit, net


@net()
def tiny(*, classes: int, channels: int, size: int) -> nn.Module:
    """A linear model."""
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes))


@net()
def pair(*, classes: int, channels: int, size: int) -> nn.Module:
    """A model that gives two things."""

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    return Pair()


@net()
def moody(*, classes: int, channels: int, size: int, sd: float = 0.0) -> nn.Module:
    """A linear model that adds the mean image of the batch, and noise, without saying so."""

    class Moody(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)
            weights = torch.arange(len(flat)).view(-1, 1) / len(flat)
            together = flat + (flat * weights).mean(0)
            return together[:, :classes] + sd * torch.randn(len(x), classes)

    return Moody()


@net()
def forgetful(*, classes: int, channels: int, size: int) -> nn.Module:
    """A linear model on images that are normalised by the statistics of their batch: left in train mode."""

    class Forgetful(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.batch_norm(x, None, None, training=True)

    return nn.Sequential(Forgetful(), nn.Flatten(), nn.Linear(channels * size * size, classes))


@net()
def broken(*, classes: int, channels: int, size: int) -> nn.Module:
    """Cannot be built."""
    raise ZeroDivisionError("built")


@net(random=True)
def noisy(*, classes: int, channels: int, size: int, sd: float = 0.01) -> nn.Module:
    """A linear model that adds noise to its logits."""

    class Noise(nn.Module):
        def forward(self, logits: Tensor) -> Tensor:
            return logits + sd * torch.randn_like(logits)

    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes), Noise())


@defense()
def quick(job: TrainJob, *, epochs: int = 2, pause: float = 0.0) -> nn.Module:
    """A few epochs of cross-entropy, with a pause in each batch to be killed in."""

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        time.sleep(pause)
        return F.cross_entropy(model(feed.x), feed.y)

    return fit(job, job.net(), loss, Course(epochs=epochs, lr=0.1, decay=0.0, batch=64, select="clean"))


@defense()
def explodes(job: TrainJob) -> nn.Module:
    """A loss that is not a number."""
    return fit(job, job.net(), lambda model, feed: model(feed.x).sum() * torch.nan, Course(epochs=1))


@defense()
def poisons(job: TrainJob) -> nn.Module:
    """Writes into the data."""
    job.train.x[:] = 0
    return job.net()


@defense()
def quits(job: TrainJob) -> nn.Module:
    """Ends the program."""
    raise SystemExit(0)


@defense()
def untrained(job: TrainJob) -> nn.Module:
    """The net as it is."""
    return job.net()


@defense()
def stranger(job: TrainJob) -> nn.Module:
    """A module that is not the job's net."""
    return nn.Linear(3, 3)


@attack(norms=("linf",), access="gradients", cost=lambda pause: (1, 1))
def slow(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws, *, pause: float = 0.0) -> Tensor:
    """One random step and one gradient step, with a pause."""
    time.sleep(pause)
    x_adv = threat.random(x, draws.at("start"))
    _, _, grad = model.gradient(x_adv, y, lambda z, y: F.cross_entropy(z, y, reduction="none"))
    return threat.project(x_adv + float(threat.eps) * threat.uphill(grad), x)


@attack(norms=("linf",), access="gradients", goal="minimum-norm", cost=lambda steps: (steps, 1))
def walks(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws, *, steps: int = 20) -> Tensor:
    """Along the gradient's sign in steps of 1/50, to the first misread image."""
    _, _, grad = model.gradient(x, y, lambda z, y: F.cross_entropy(z, y, reduction="none"))
    found, standing = x.clone(), torch.ones(len(x), dtype=torch.bool)
    for step in range(1, steps):
        ahead = (x + step / 50 * threat.uphill(grad)).clamp(0, 1)
        fell = standing & (model(ahead).argmax(1) != y)
        found[fell], standing = ahead[fell], standing & ~fell
    return found


@attack(norms=("linf",), access="scores")
def leaves_ball(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws) -> Tensor:
    """Image 7 moves by twice eps."""
    far = (draws.ids == 7).view(-1, 1, 1, 1)
    inward = torch.where(x < 0.5, 1.0, -1.0)
    return x + far * inward * 2 * float(threat.eps)


@attack(norms=("linf",), access="scores")
def leaves_box(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws) -> Tensor:
    """Image 5 falls below zero."""
    return x - (draws.ids == 5).view(-1, 1, 1, 1) * (x == 0) * float(threat.eps) / 2


@attack(norms=("linf",), access="scores")
def gives_nan(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws) -> Tensor:
    """Image 3 is not a number."""
    return x.masked_fill((draws.ids == 3).view(-1, 1, 1, 1), torch.nan)


@attack(norms=("linf",), access="scores")
def raises(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws) -> Tensor:
    """Image 9 raises."""
    if (draws.ids == 9).any():
        raise ZeroDivisionError("nine")
    return x


@attack(norms=("linf",), access="scores")
def leaves(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws) -> Tensor:
    """Spoils what it was given, prints, and ends the program at image 4."""
    if (draws.ids == 4).any():
        raise SystemExit(0)
    kept = x.clone()
    x.zero_(), y.zero_(), draws.ids.zero_()
    print("here I am")  # noqa: T201
    return kept


@attack(norms=("linf",), access="scores")
def peeks(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws) -> Tensor:
    """A black-box attack that asks for a gradient."""
    return model.gradient(x, y, lambda z, y: z[:, 0])[2]


@attack(norms=("l2",), access="scores")
def quiet(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws) -> Tensor:
    """Nothing."""
    return x


@attack(norms=("linf",), access="scores", cost=lambda: (2, 0))
def idle(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws) -> Tensor:
    """Two forwards, and nothing."""
    model(x), model(x)
    return x


EARLY = Column("early", ("slow(pause=0.01)",), first=30)
CHANGES = Column("changes", ("slow",), by_norm=(("l2", ("quiet",)),))
UNION = Column("union", ("slow",))
MORE = Column("more", ("slow", "idle"))


@attack(norms=("linf",), access="scores", cost=lambda: (10**9, 0))
def boasts(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws) -> Tensor:
    """Says that it takes hours."""
    return x
