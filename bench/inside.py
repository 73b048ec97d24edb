"""What can be seen inside a module: its modes, what it holds, and how often it differentiates."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from bench.bpda import Bpda

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

HOLD = 50_000_000  # values of a tensor, above which it is not searched for images


class View(Protocol):
    """A look inside a module, here or in another process."""

    def training(self) -> list[str]:
        """The parts that are in training mode."""
        ...

    def fingerprints(self) -> dict[str, str]:
        """What it is at this moment."""
        ...

    def stands_in(self) -> bool:
        """Whether gradients of some layer are a stand-in's, and say so."""
        ...

    def holding(self, images: Tensor) -> list[str]:
        """The tensors that hold one of these images (N, C * H * W)."""
        ...

    def differentiations(self) -> AbstractContextManager[Callable[[], int]]:
        """How often anything is differentiated inside."""
        ...


class Inside:
    """A look inside a module of this process."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def training(self) -> list[str]:
        """The parts that are in training mode."""
        return [name or type(m).__name__ for name, m in self._module.named_modules() if m.training]

    def fingerprints(self) -> dict[str, str]:
        """What it is at this moment."""
        return fingerprints(self._module)

    def stands_in(self) -> bool:
        """Whether it has a Bpda."""
        return any(isinstance(m, Bpda) for m in self._module.modules())

    def holding(self, images: Tensor) -> list[str]:
        """The tensors that hold one of these images (N, C * H * W)."""
        return holding(tensors(self._module), images)

    def differentiations(self) -> AbstractContextManager[Callable[[], int]]:
        """As seen by torch's engine."""
        return counted_backwards()


def inside(module: nn.Module) -> View:
    """A look inside a module; one that runs elsewhere brings its own."""
    from bench.sandbox import Sandboxed

    return module.view if isinstance(module, Sandboxed) else Inside(module)


def holding(held: Iterator[tuple[str, Tensor]], images: Tensor) -> list[str]:
    """The names of the tensors that hold one of these images (N, C * H * W), as they are or in 255 levels."""
    found = []
    for name, tensor in held:
        if not len(images) or tensor.numel() % images.shape[1] or not images.shape[1] < tensor.numel() <= HOLD:
            continue
        rows = tensor.detach().to(images.device).float().reshape(-1, images.shape[1])
        rows = rows / 255 if tensor.dtype == torch.uint8 else rows
        if any(bool(((rows - one).abs().amax(1) < 1 / 510).any()) for one in images):
            found.append(name)
    return found


def tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that a module holds: weights, buffers, saved or not, and plain attributes."""
    own = [
        (f"{name}.{key}".lstrip("."), value)
        for name, child in module.named_modules() for key, value in vars(child).items() if isinstance(value, Tensor)
    ]  # fmt: skip
    for name, tensor in (*module.named_parameters(), *module.named_buffers(), *own):
        if tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_complex() or tensor.is_quantized):
            yield name, tensor


def fingerprints(module: nn.Module) -> dict[str, str]:
    """What a module is at this moment: each tensor by the hash of its bytes, each plain attribute by its value."""
    found = {name: _hash(tensor) for name, tensor in tensors(module)}
    own = vars(nn.Module()).keys()
    for name, child in module.named_modules():
        for key, value in vars(child).items():
            if key in own and key != "training":
                continue
            said = _plain(value)
            if said is not None:
                found[f"{name}.{key}".lstrip(".")] = said
    return found


def _hash(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous().flatten()
    return hashlib.blake2b(plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b"").hexdigest()


def _plain(value: Any) -> str | None:
    """The value of a plain attribute, and the length of a collection; None where it is neither."""
    if isinstance(value, bool | int | float | str | None):
        return repr(value)
    if isinstance(value, list | tuple | dict | set):
        return f"{type(value).__name__} of {len(value)}"
    return None


@contextmanager
def counted_backwards() -> Iterator[Callable[[], int]]:
    """How often anything was differentiated inside."""
    engine: Any = torch.autograd
    name = "_engine_run_backward"
    plain, count = getattr(engine, name, None), [0]
    if plain is None:  # another torch: nothing is seen, and nothing breaks
        yield lambda: 0
        return

    def run(*args: Any, **settings: Any) -> Any:
        count[0] += 1
        return plain(*args, **settings)

    setattr(engine, name, run)
    try:
        yield lambda: count[0]
    finally:
        setattr(engine, name, plain)
