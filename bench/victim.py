"""The model as an attack sees it: metered, frozen, in constant-shape tiles, and only as open as the attack declared."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from bench.errors import AttackError, ModelError
from bench.passes import lean

if TYPE_CHECKING:
    from bench.recipe import Access

Loss = Callable[[Tensor, Tensor], Tensor]  # logits (N, K) and labels (N, ...) to one value an image (N,), to climb
Rows = Tensor | slice
_Tile = tuple[Tensor, int, Tensor, Tensor]


class Model(Protocol):
    """What an attack is given.  Images are (N, C, H, W) in [0, 1]; logits are float32 (N, K)."""

    def __call__(self, x: Tensor) -> Tensor:
        """The logits: one forward an image."""
        ...

    def __getitem__(self, keep: Rows) -> Model:
        """The same model, when only these images are still attacked: their passes are then booked to them."""
        ...

    def gradient(self, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, loss (N,) and d loss / d x in one forward and one backward an image."""
        ...

    def jacobian(self, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and d logit / d x for each image's classes (N, k): (N, k, C, H, W); k backwards an image."""
        ...


class Meter:
    """Forwards and backwards of each image of one call of an attack."""

    def __init__(self, images: int) -> None:
        self._counts = torch.zeros(2, images, dtype=torch.long)
        self._loose = [0, 0]  # passes that cannot be booked to an image, because the attack dropped some by itself

    def book(self, kind: int, rows: Tensor, passes: int) -> None:
        """Count passes for the images in `rows`; whole multiples are stacked candidates of the same images."""
        if len(rows) and passes % len(rows) == 0:
            self._counts[kind].index_add_(0, rows, torch.full_like(rows, passes // len(rows)))
        else:
            self._loose[kind] += passes

    def read(self) -> tuple[Tensor, Tensor]:
        """Forwards (n,) and backwards (n,); what was not booked is spread evenly, and the sums are exact."""
        images = self._counts.shape[1]
        counts = self._counts.clone()
        for kind, loose in enumerate(self._loose):
            share, rest = divmod(loose, images)
            counts[kind] += share
            counts[kind, :rest] += 1
        return counts[0], counts[1]


class Victim:
    """A frozen module behind the `Model` protocol.

    Every pass has the shape of the tile: images are padded to it, so that an image meets the same arithmetic
    wherever it sits and whoever sits beside it.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        tile: int,
        access: Access,
        images: int,
        rows: Tensor | None = None,
        meter: Meter | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._meter = meter = meter or Meter(images)
        self._rows = torch.arange(images) if rows is None else rows
        self._access, self._dtype = access, dtype

        def again(rows: Tensor) -> Victim:
            return Victim(module, tile=tile, access=access, images=images, rows=rows, meter=meter, dtype=dtype)

        def tiles(x: Tensor, *more: Tensor) -> Iterator[_Tile]:
            return _tiles(module, tile, x, *more)

        # The module lives in closures alone: an attack that may only see scores finds no attribute to open.
        self._again, self._tiles = again, tiles

    def __getitem__(self, keep: Rows) -> Victim:
        return self._again(self._rows[keep.cpu() if isinstance(keep, Tensor) else keep])

    def __call__(self, x: Tensor) -> Tensor:
        """Logits, with a graph where the attack may have one and asks for it."""
        _expect_images(x, self._dtype)
        self._meter.book(0, self._rows, len(x))
        if self._access == "gradients" and x.requires_grad and torch.is_grad_enabled():
            logits = torch.cat([z[:n] for z, n, *_ in self._tiles(x)])
            if logits.requires_grad:
                logits.register_hook(lambda grad: self._meter.book(1, self._rows, len(grad)))
            return logits
        with torch.no_grad():
            logits = torch.cat([z[:n] for z, n, *_ in self._tiles(x.detach())])
        if self._access == "labels":
            return torch.zeros_like(logits).scatter(1, logits.argmax(1, keepdim=True), 1)
        return logits

    def gradient(self, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """One fused pass: only d loss / d x is computed, no weight gradient."""
        _expect_images(x, self._dtype)
        self._differentiates(1, len(x))
        logits, values, grads = [], [], []
        with torch.enable_grad():
            for z, n, x_tile, y_tile in self._tiles(x.detach(), y):
                value = loss(z, y_tile)
                logits.append(z.detach()[:n])
                values.append(value.detach()[:n])
                grads.append(_grad(value.sum(), x_tile)[:n])
        return torch.cat(logits), torch.cat(values), torch.cat(grads)

    def jacobian(self, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """One forward, and one backward a class."""
        _expect_images(x, self._dtype)
        self._differentiates(classes.shape[1], len(x))
        logits, grads, count = [], [], classes.shape[1]
        with torch.enable_grad():
            for z, n, x_tile, chosen in self._tiles(x.detach(), classes):
                picked = z.gather(1, chosen).sum(0)  # (k,)
                one = [_grad(picked[k], x_tile, keep=k < count - 1)[:n] for k in range(count)]
                logits.append(z.detach()[:n])
                grads.append(torch.stack(one, 1))
        return torch.cat(logits), torch.cat(grads)

    @property
    def meter(self) -> Meter:
        """What counts its passes."""
        return self._meter

    def passes(self) -> tuple[Tensor, Tensor]:
        """Forwards (n,) and backwards (n,) so far."""
        return self._meter.read()

    def _differentiates(self, backwards: int, images: int) -> None:
        if self._access != "gradients":
            raise AttackError(f"it declares access={self._access!r} and asked for a gradient")
        self._meter.book(0, self._rows, images)
        self._meter.book(1, self._rows, backwards * images)


def _expect_images(x: Tensor, dtype: torch.dtype) -> None:
    """The model is asked about images alone."""
    if x.ndim != 4 or x.dtype != dtype:
        raise AttackError(f"it asked the model about {tuple(x.shape)} {x.dtype}; expected (N, C, H, W) {dtype}")
    if not len(x):
        raise AttackError("the model was asked about no image at all")


def _tiles(module: nn.Module, tile: int, x: Tensor, *more: Tensor) -> Iterator[_Tile]:
    """Logits of each tile, how many of its rows are real, its images, and `more` (labels) cut and padded alike."""
    for start in range(0, len(x), tile):
        x_tile = _pad(x[start : start + tile], tile)
        if torch.is_grad_enabled() and not x_tile.requires_grad:
            x_tile.requires_grad_()
        cut = [_pad(m[start : start + tile], tile) for m in more] or [x_tile]
        yield logits_of(module, x_tile), min(tile, len(x) - start), x_tile, cut[0]


def logits_of(module: nn.Module, x: Tensor) -> Tensor:
    """One forward pass: float32 (N, K); ModelError where the model raises or gives anything else."""
    try:
        logits: object = module(x)
    except (torch.OutOfMemoryError, ModelError):
        raise
    except Exception as error:
        raise ModelError(f"the model failed on a forward pass of {tuple(x.shape)}: {error!r}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 2:
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(f"the model gave {got} for {len(x)} images; expected logits of shape ({len(x)}, classes)")
    return logits.float()


def _pad(rows: Tensor, tile: int) -> Tensor:
    """A fresh tensor of `tile` rows; the first row fills the empty places."""
    if len(rows) == tile:
        return rows.clone(memory_format=torch.contiguous_format)
    return torch.cat([rows, rows[:1].expand(tile - len(rows), *rows.shape[1:])])


def _grad(value: Tensor, x: Tensor, *, keep: bool = False) -> Tensor:
    """d value / d x; zero where the model lets no gradient through."""
    if not value.requires_grad:
        return torch.zeros_like(x)
    (grad,) = torch.autograd.grad(value, x, retain_graph=keep, allow_unused=True)
    return torch.zeros_like(x) if grad is None else grad


def freeze(module: nn.Module, device: torch.device) -> nn.Module:
    """Make a module ready to be attacked: on the device, in eval mode, without weight gradients."""
    return lean(module.to(device).eval().requires_grad_(False))


def tile_size(device: torch.device, module: nn.Module) -> int:
    """Images a pass: a fixed function of device kind and net size, so that verdicts never depend on timing."""
    if device.type == "cpu":
        return 128 if small(module) else 32
    return 512 if small(module) else 256


def small(module: nn.Module) -> bool:
    """Whether it has less than a million parameters: passes so short that other things count too."""
    return sum(p.numel() for p in module.parameters()) < 1_000_000


def be_exact(threads: int) -> None:
    """Float32 arithmetic without shortcuts, and a fixed number of threads; freed memory is kept for the next pass."""
    _keep_memory()
    torch.set_num_threads(threads)
    # A plugin may have changed any of these.
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


@cache
def _keep_memory() -> None:
    """Tell glibc not to give large blocks back to the system: fetching them anew costs a pass a fifth of its time."""
    with suppress(OSError, AttributeError):  # other C libraries have no mallopt, or do this already
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block comes straight from the system
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: and none goes back
