"""The course of a training: the settings that every trained defense shares, and the learning rate they mean."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from bench.errors import IncompleteError, IntegrityError, UsageError


@dataclass(frozen=True, kw_only=True)
class Course:
    """How long and how fast to train, on what, and which weights to keep.

    epochs, batch: of the training images.  optimizer: sgd (with momentum, and Nesterov's if asked for) or adam.
    decay: weight decay; of normalisation layers too unless decay_norms is off.
    schedule: drops (lr falls at the epochs `drops`, counted from 1, to a tenth each time or to the shares of lr in
    `falls`), one-cycle (a cosine from lr/25 up to lr at the share `peak` of the course, then down to lr/250,000; as
    torch's OneCycleLR) or triangle (0 to lr at `peak` to 0).  rate_by: whether it moves every epoch or every step;
    drops by step fall in the step that completes the epoch before.  cycle_momentum: momentum runs against the rate,
    as torch does by default: 0.95 to 0.85 in one-cycle, 0.9 to 0.8 in triangle.
    augment: crop pads by 4 with zeros, reflect with the image.  precision: bf16 is autocast.
    ema: the decay of an average of the weights over steps, which then is what is judged and kept (0: none); it is
    min(ema, (1 + d) / (10 + d)) d steps after the first fortieth of the course, until which the average is a copy.
    swa: the first epoch of a running mean of the weights over epochs (0: none); its batch statistics are taken anew.
    extra: an .npz of generated images (`image` uint8 NHWC, `label`), extra_share of each batch.
    select: which accuracy on the validation images makes an epoch the best: robust (PGD-10) or clean.
    collapse: what to do when that under PGD-10 falls by more than `fall` from one epoch to the next: note it, or stop
    and keep the weights before.  snapshots: keep the weights of every so many epochs (0: none).
    """

    epochs: int = 110
    batch: int = 128
    lr: float = 0.1
    optimizer: Literal["sgd", "adam"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    decay: float = 5e-4
    decay_norms: bool = True
    schedule: Literal["drops", "one-cycle", "triangle"] = "drops"
    rate_by: Literal["epoch", "step"] = "epoch"
    drops: tuple[int, ...] = (100, 105)
    falls: tuple[float, ...] = ()
    peak: float = 0.25
    cycle_momentum: bool = True
    augment: Literal["none", "crop", "flip", "crop-flip", "reflect", "reflect-flip"] = "none"
    precision: Literal["float32", "bf16"] = "float32"
    ema: float = 0.0
    swa: int = 0
    extra: str = ""
    extra_sha256: str = ""
    extra_share: float = 0.7
    select: Literal["robust", "clean"] = "robust"
    collapse: Literal["note", "stop"] = "note"
    fall: float = 0.2
    snapshots: int = 0

    unkeyed: ClassVar[tuple[str, ...]] = ("extra",)  # says where, not what

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)}: expected 1 or more")
        for name in ("decay", "swa", "snapshots"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name}={getattr(self, name)}: expected 0 or more")
        if not 0 < self.lr < math.inf:
            raise UsageError(f"lr={self.lr}: expected a rate above 0")
        if self.falls and len(self.falls) != len(self.drops):
            raise UsageError(f"falls={self.falls}: expected one share of lr for each of the drops {self.drops}")
        if any(type(d) is not int or d < 1 for d in self.drops) or list(self.drops) != sorted(self.drops):
            raise UsageError(f"drops={self.drops}: expected epochs that rise, counted from 1")
        if any(type(f) not in {int, float} or f < 0 for f in self.falls):
            raise UsageError(f"falls={self.falls}: expected shares of lr")
        for name in ("peak", "fall"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name}={getattr(self, name)}: expected a share from 0 to 1")
        for name in ("momentum", "ema", "extra_share"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)}: expected a share from 0 to below 1")
        if self.nesterov and (self.optimizer != "sgd" or not self.momentum):
            raise UsageError(f"nesterov=True: expected sgd with momentum, not {self.optimizer} with {self.momentum}")
        if self.swa > self.epochs:
            raise UsageError(f"swa={self.swa}: expected an epoch of the {self.epochs} that there are")
        if self.ema and self.swa:
            raise UsageError(f"ema={self.ema} and swa={self.swa}: expected one average of the weights, not both")

    def rate(self, epoch: int, step: int, steps: int) -> tuple[float, float]:
        """Learning rate and momentum of a step: epochs count from 1, steps from 0 to `steps` - 1."""
        if self.schedule == "drops":
            place = epoch if self.rate_by == "epoch" else epoch - 1 + (step + 1) / steps
            passed = sum(place >= drop for drop in self.drops)
            return self.lr * (0.1**passed if not passed or not self.falls else self.falls[passed - 1]), self.momentum
        now, total = (epoch - 1, self.epochs) if self.rate_by == "epoch" else ((epoch - 1) * steps + step, 0)
        total = total or self.epochs * steps
        shape = self._one_cycle if self.schedule == "one-cycle" else self._triangle
        rate, momentum = shape(now, total)
        return rate, momentum if self.cycle_momentum else self.momentum

    def _one_cycle(self, now: int, total: int) -> tuple[float, float]:
        top, low = self.peak * total - 1, self.lr / 25
        if now <= top:
            share = now / top if top else 1.0  # a rise of one step is at its top at once
            return _cosine(low, self.lr, share), _cosine(0.95, 0.85, share)
        share = (now - top) / (total - 1 - top)
        return _cosine(self.lr, low / 1e4, share), _cosine(0.85, 0.95, share)

    def _triangle(self, now: int, total: int) -> tuple[float, float]:
        up = self.peak * total
        height = now / up if now < up else (total - now) / (total - up)
        return self.lr * height, 0.9 - 0.1 * height

    @staticmethod
    def pin(settings: dict[str, Any]) -> dict[str, Any]:
        """Fill in the hash of the file of extra images, or check the one that was given."""
        if not settings["extra"]:
            return settings
        path = Path(settings["extra"]).expanduser().resolve()
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise IncompleteError(
                f"extra={str(path)!r}: {error.strerror}; expected an .npz with image (uint8 NHWC) and label there"
            ) from None
        wanted = settings["extra_sha256"].lower()
        if wanted and wanted != found:
            raise IntegrityError(f"{path} has the sha256 {found}; expected {wanted}")
        return {**settings, "extra": str(path), "extra_sha256": found}


def _cosine(start: float, end: float, share: float) -> float:
    """Half a cosine from start to end."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
