"""Training images on the device: shuffled, augmented and mixed, the same batches for the same seed and epoch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.draws import Draws
from bench.together import share

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.exam import Part


@dataclass(frozen=True)
class Batch:
    """Some training images: x (B, C, H, W) in [0, 1], augmented; y (B,); draws keyed by image and epoch.

    epoch counts from 1; progress is how many epochs are over, as a fraction; place is the batch's, from 0.
    """

    x: Tensor
    y: Tensor
    draws: Draws
    epoch: int
    progress: float
    place: int = 0

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, keep: Tensor | slice) -> Batch:
        """The same batch with fewer images."""
        return replace(self, x=self.x[keep], y=self.y[keep], draws=self.draws[keep])


class Feed:
    """The training images as uint8 on the device; with extra ones, `share` of each batch is drawn from those.

    Images that lie in a mapped file stay there, and are read batch by batch.
    """

    def __init__(
        self, train: Part, seed: int, device: torch.device, extra: Part | None = None, share: float = 0.0
    ) -> None:
        self._seed, self._share = seed, share if extra else 0.0
        self._own, self._extra = _Images(train, device), None if extra is None else _Images(extra, device)
        self._device = device
        self._orders: dict[int, Tensor] = {}

    def steps(self, size: int) -> int:
        """Batches an epoch, which is as many images as the training part has."""
        return -(-len(self._own) // size)

    def least(self, size: int) -> int:
        """Images of the smallest batch of an epoch."""
        more = int(self._share * size)
        return more + min(size - more, len(self._own) - (self.steps(size) - 1) * (size - more))

    def batch(self, size: int, epoch: int, place: int, augment: str = "none") -> Batch:
        """One batch of an epoch: its own images at most once an epoch, extra ones drawn with replacement.

        Where several processes train together it is the part of the batch that is this one's.
        """
        own, drawn = self._ids(size, epoch, place)
        mine = share(len(own) + len(drawn))
        own, drawn = own[mine], drawn[max(0, mine.start - len(own)) : max(0, mine.stop - len(own))]
        x, y = self._own[own]
        if self._extra is not None and len(drawn):
            more = self._extra[drawn]
            x, y = torch.cat([x, more[0]]), torch.cat([y, more[1]])
        draws = Draws(self._seed, torch.cat([own, len(self._own) + drawn]), "train", restart=epoch)
        images = augmented(x, draws.at("augment"), augment).float() / 255
        return Batch(images, y, draws, epoch, epoch - 1 + place * size / len(self._own), place)

    def _ids(self, size: int, epoch: int, place: int) -> tuple[Tensor, Tensor]:
        """Which of its own images a batch has, and which of the extra ones."""
        if epoch not in self._orders:
            zero = torch.zeros(1, dtype=torch.long, device=self._device)
            order = Draws(self._seed, zero, "train/order", step=epoch).order(len(self._own))[0]
            self._orders = {**dict([*self._orders.items()][-1:]), epoch: order}  # two, as a defense may show another's
        more = int(self._share * size)
        own = self._orders[epoch][place * (size - more) : (place + 1) * (size - more)]
        if not more or self._extra is None:
            return own, own[:0]
        draws = Draws(self._seed, torch.full_like(own[:1], place), "train/extra", step=epoch)
        return own, draws.integers(len(self._extra), more)[0]


class _Images:
    """The images and labels of a part, by their places."""

    def __init__(self, part: Part, device: torch.device) -> None:
        self._device = device
        self._y = torch.tensor(part.y, device=device)
        self._mapped = part.x if _is_mapped(part.x) else None
        self._x = None if self._mapped is not None else torch.tensor(part.x, device=device)

    def __len__(self) -> int:
        return len(self._y)

    def __getitem__(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Images uint8 (B, C, H, W) and labels (B,) on the device."""
        if self._x is not None:
            return self._x[ids], self._y[ids]
        assert self._mapped is not None
        return torch.from_numpy(self._mapped[ids.cpu().numpy()]).to(self._device), self._y[ids]


def _is_mapped(x: NDArray[np.uint8]) -> bool:
    """Whether an array lies in a file that is mapped into memory."""
    import numpy as np

    base: object = x
    while base is not None:
        if isinstance(base, np.memmap):
            return True
        base = getattr(base, "base", None)
    return False


def augmented(x: Tensor, draws: Draws, how: str) -> Tensor:
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
