"""Randomness that depends on the image and on nothing around it.

A draw is named by (seed, purpose, restart, step, image id) and computed by the counter-based generator
Philox4x32-10 (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3"), so an image meets the same
numbers in any batch, in any order, on any device and after any restart.  Bits, signs, integers and uniforms are
exactly equal on every device; normals agree within rounding.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class Draws:
    """The random numbers of some images; `draws[keep]` are the same numbers for fewer of them.

    Two calls with the same name give the same numbers: `at(...)` moves to other ones.  `step` may be a range, and
    the numbers of all its steps then come in one call, with an axis of steps after the axis of images.
    """

    seed: int
    ids: Tensor  # (N,) int64, the images' places in their data set
    purpose: str = ""
    restart: int = 0
    step: int | range = 0

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, keep: Tensor | slice) -> Draws:
        """The same draws for the images that `keep` (a mask, indices or a slice) selects."""
        return replace(self, ids=self.ids[keep])

    def at(self, purpose: str | None = None, *, restart: int | None = None, step: int | range | None = None) -> Draws:
        """Draws under another name; a purpose is appended to the one there is."""
        return replace(
            self,
            purpose=self.purpose if purpose is None else f"{self.purpose}/{purpose}",
            restart=self.restart if restart is None else restart,
            step=self.step if step is None else step,
        )

    def bits(self, *shape: int) -> Tensor:
        """Whole numbers below 2^32, uniform: int64 of shape (N, [steps,] *shape)."""
        import torch

        count = math.prod(shape)
        device = self.ids.device
        blocks = torch.arange((count + 3) // 4, device=device)
        steps = self.step if isinstance(self.step, range) else range(self.step, self.step + 1)
        step = torch.arange(steps.start, steps.stop, steps.step, device=device).view(1, -1, 1)
        key = hashlib.blake2b(f"{self.seed}\0{self.purpose}".encode(), digest_size=8).digest()
        words = philox(
            (blocks, step & _MASK, torch.tensor(self.restart & _MASK, device=device), self.ids.view(-1, 1, 1) & _MASK),
            (int.from_bytes(key[:4], "little"), int.from_bytes(key[4:], "little")),
        )
        drawn = words.flatten(2)[..., :count]
        if not isinstance(self.step, range):
            drawn = drawn[:, 0]
        return drawn.reshape(*drawn.shape[:-1], *shape)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform in [0, 1): float32 multiples of 2^-24, of shape (N, [steps,] *shape)."""
        return (self.bits(*shape) >> 8).float() * 2.0**-24

    def sign(self, *shape: int) -> Tensor:
        """-1 or +1, evenly: float32 of shape (N, [steps,] *shape)."""
        return (self.bits(*shape) >> 31).float() * 2 - 1

    def integers(self, high: int | Tensor, *shape: int) -> Tensor:
        """Whole numbers in [0, high), high below 2^31 or a tensor that broadcasts: int64 (N, [steps,] *shape)."""
        return (self.bits(*shape) * high) >> 32

    def normal(self, *shape: int) -> Tensor:
        """Standard normals by Box and Muller: float32 of shape (N, [steps,] *shape)."""
        import torch

        pairs = self.bits(math.prod(shape), 2).double()
        radius = torch.sqrt(-2 * torch.log((pairs[..., 0] + 1) * 2.0**-32))
        drawn = (radius * torch.cos(pairs[..., 1] * (2 * math.pi * 2.0**-32))).float()
        return drawn.reshape(*drawn.shape[:-1], *shape)

    def order(self, count: int) -> Tensor:
        """A random order of 0..count-1 for each image: int64 (N, [steps,] count)."""
        # Ties between 32-bit words are broken by place, so the order is the same on every device.
        return self.bits(count).argsort(dim=-1, stable=True)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> Tensor:
    """Philox4x32-10: four words for each counter; counters broadcast, the words are the last axis (int64)."""
    import torch

    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # int64 products wrap modulo 2^64, which is all that the high and the low word need.
        low, high = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            ((high >> 32) & _MASK) ^ c1 ^ k0,
            high & _MASK,
            ((low >> 32) & _MASK) ^ c3 ^ k1,
            low & _MASK,
        )
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return torch.stack(torch.broadcast_tensors(c0, c1, c2, c3), dim=-1)
