"""Training: what a defense is given (TrainJob), and the loop that most of them share (fit)."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.draws import Draws
from bench.errors import IntegrityError, TrainingError
from bench.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from bench.exam import Part, Shape
    from bench.threat import ThreatModel

Augment = Literal["none", "crop", "flip", "crop-flip", "reflect-flip"]
Score = tuple[float, float]


@dataclass(frozen=True)
class Batch:
    """Some training images: x (B, C, H, W) in [0, 1], augmented; y (B,); draws keyed by image and epoch.

    epoch counts from 1; progress is how many epochs are over, as a fraction.
    """

    x: Tensor
    y: Tensor
    draws: Draws
    epoch: int
    progress: float


Loss = Callable[[nn.Module, Batch], Tensor]  # a scalar, to go down


@dataclass
class TrainJob:
    """All that a defense is given.  The test images are not in it."""

    train: Part
    val: Part
    shape: Shape
    build: Callable[[], nn.Module]  # an untrained module of the job's net
    threat: ThreatModel
    seed: int
    device: torch.device
    scratch: Path  # outlives a crash
    report: Callable[[str], None] = print
    history: list[dict[str, Any]] = field(default_factory=list)  # an entry an epoch
    best: dict[str, Tensor] | None = None  # the weights of the best epoch by validation
    best_score: Score = (-1.0, -1.0)
    passes: list[int] = field(default_factory=lambda: [0, 0])  # forwards and backwards, in images
    _feed: tuple[Tensor, Tensor] | None = None

    def net(self) -> nn.Module:
        """An untrained module on the device, the same one for the same seed; its passes are counted."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            module = self.build().to(self.device)
        module.register_forward_hook(self._count)
        return module

    def _count(self, _module: nn.Module, _inputs: object, logits: object) -> None:
        if isinstance(logits, Tensor):
            self.passes[0] += len(logits)
            if logits.requires_grad:
                logits.register_hook(lambda grad: self._count_backward(len(grad)))

    def _count_backward(self, images: int) -> None:
        self.passes[1] += images

    def batches(self, size: int, epoch: int, augment: Augment = "none") -> Iterator[Batch]:
        """The training images once, shuffled and augmented; the same batches for the same seed and epoch."""
        if self._feed is None:  # uint8, kept on the device
            self._feed = torch.tensor(self.train.x, device=self.device), torch.tensor(self.train.y, device=self.device)
        x, y = self._feed
        everyone = Draws(self.seed, torch.zeros(1, dtype=torch.long, device=self.device), "train/order", step=epoch)
        for place, ids in enumerate(everyone.order(len(x))[0].split(size)):
            draws = Draws(self.seed, ids, "train", restart=epoch)
            images = augmented(x[ids], draws.at("augment"), augment).float() / 255
            yield Batch(images, y[ids], draws, epoch, epoch - 1 + place * size / len(x))

    def validate(self, model: nn.Module) -> Score:
        """Accuracy on the validation images under PGD-10 (step eps/4, random start), and on clean ones."""
        if not len(self.val):
            return 0.0, 0.0
        model.eval()
        right = [0, 0]
        for ids in torch.arange(len(self.val)).split(250):
            x = torch.from_numpy(self.val.x[ids.numpy()]).to(self.device).float() / 255
            y = torch.from_numpy(self.val.y[ids.numpy()]).to(self.device)
            x_adv = self.threat.random(x, Draws(0, ids.to(self.device), "validate"))
            for _ in range(10):
                x_adv.requires_grad_()
                (grad,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y, reduction="sum"), x_adv)
                up = 0.25 * float(self.threat.eps) * self.threat.uphill(grad)
                x_adv = self.threat.project(x_adv.detach() + up, x)
            with torch.no_grad():
                right[0] += int((model(x_adv).argmax(1) == y).sum())
                right[1] += int((model(x).argmax(1) == y).sum())
        return right[0] / len(self.val), right[1] / len(self.val)

    def keep_if_best(self, model: nn.Module, score: Score) -> None:
        """Remember these weights if no earlier epoch scored as well."""
        if score > self.best_score:
            self.best_score = score
            self.best = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}


def fit(
    job: TrainJob,
    model: nn.Module,
    loss: Loss,
    *,
    epochs: int,
    lr: float,
    decay: float = 0.0,
    momentum: float = 0.9,
    batch: int = 128,
    drops: tuple[int, ...] = (),
    augment: Augment = "none",
    select: Literal["robust", "clean"] = "robust",
    before_epoch: Callable[[nn.Module, int], None] = lambda _model, _epoch: None,
    also: Mapping[str, nn.Module] | None = None,
) -> nn.Module:
    """Train by SGD and return the last weights; the best by validation go to the job.

    drops: epochs (from 1) at whose start the learning rate falls to a tenth.  before_epoch is called with the model
    and the epoch; `also` are modules that it changes and that must survive a crash.  Killed at any moment and run
    again, it ends in the same weights on the same machine.
    """
    also = also or {}
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=decay)
    done = _resume(job, model, optimizer, also)
    for epoch in range(done + 1, epochs + 1):
        started = time.perf_counter()
        torch.manual_seed(job.seed * 1_000_003 + epoch)  # for dropout and the like
        before_epoch(model, epoch)
        model.train()
        rate = lr * 0.1 ** sum(epoch >= drop for drop in drops)
        total = torch.zeros((), device=job.device)
        optimizer.param_groups[0]["lr"] = rate
        for feed in job.batches(batch, epoch, augment):
            value = loss(model, feed)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            total += value.detach() * len(feed.y)
        mean = float(total) / len(job.train)
        if not math.isfinite(mean):
            raise TrainingError(f"the loss is {mean} in epoch {epoch}; nothing was published; a lower lr may help")
        robust, clean = job.validate(model)
        job.keep_if_best(model, (robust, clean) if select == "robust" else (clean, robust))
        seconds = time.perf_counter() - started
        job.history.append(
            {
                "epoch": epoch,
                "loss": mean,
                "val_clean": clean,
                "val_pgd10": robust,
                "lr": rate,
                "seconds": round(seconds, 3),
            }
        )
        _save(job, model, optimizer, also, epoch)
        job.report(
            f"epoch {epoch}/{epochs}: loss {mean:.4f}, "
            f"validation {clean:.1%} clean, {robust:.1%} under PGD-10, {seconds:.1f} s"
        )
    return model


def augmented(x: Tensor, draws: Draws, how: Augment) -> Tensor:
    """Each image cropped at random out of itself padded by 4, and mirrored at random: shape kept."""
    if "crop" in how or "reflect" in how:
        height, width = x.shape[2:]
        mode = "reflect" if "reflect" in how else "constant"
        padded = F.pad(x.float(), (4, 4, 4, 4), mode=mode).to(x.dtype)
        top, left = draws.at("crop").integers(9, 2).unbind(1)
        rows = top[:, None] + torch.arange(height, device=x.device)
        columns = left[:, None] + torch.arange(width, device=x.device)
        images = torch.arange(len(x), device=x.device)[:, None, None, None]
        channels = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
        x = padded[images, channels, rows[:, None, :, None], columns[:, None, None, :]]
    if "flip" in how:
        mirror = draws.at("flip").sign(1) > 0
        x = x.flip(3).where(mirror[:, :, None, None], x)
    return x


def _save(
    job: TrainJob, model: nn.Module, optimizer: torch.optim.Optimizer, also: Mapping[str, nn.Module], epoch: int
) -> None:
    """Write all that the next epoch depends on, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(
        {
            "epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
            "also": {k: v.state_dict() for k, v in also.items()}, "history": job.history,
            "best": job.best, "best_score": job.best_score, "passes": job.passes,
        },
        buffer,
    )  # fmt: skip
    write_atomically(job.scratch / "checkpoint.pt", buffer.getvalue())


def _resume(job: TrainJob, model: nn.Module, optimizer: torch.optim.Optimizer, also: Mapping[str, nn.Module]) -> int:
    """Go on from the last whole epoch, if there is one, and return its number."""
    path = job.scratch / "checkpoint.pt"
    if not path.exists():
        return 0
    try:
        saved = torch.load(path, map_location=job.device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        for name, module in also.items():
            module.load_state_dict(saved["also"][name])
        job.history[:], job.best, job.best_score = saved["history"], saved["best"], tuple(saved["best_score"])
        job.passes[:] = saved["passes"]
    except Exception as error:
        raise IntegrityError(f"{path} is damaged and cannot be continued; delete it to train from the start") from error
    job.report(f"continuing after epoch {saved['epoch']}")
    return int(saved["epoch"])
