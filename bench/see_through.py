"""Stand-ins for layers that hide their gradient, found by asking them: a copy that attacks can differentiate."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bench.bpda import Bpda

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGES, WAYS = 8, 8  # drawn images that a model is asked about; directions in which each layer is moved
MOVE = 0.05  # of the layer's input, in its standard deviations: across a step of a quantiser
WRONG = 0.5  # relative error of slopes, over all directions


def seen_through(module: nn.Module, shape: tuple[int, ...], device: torch.device) -> nn.Module:
    """A copy whose layers without a useful gradient have the identity's; the module itself where there is none.

    shape: of an image.  A layer hides its gradient where its answer is shaped as what it is given, moves with it, and
    differs by more than half from what autograd says.  Which layers do is a fixed function of the module, since the
    images that it is asked about are drawn once and for all.  The copy answers as the module does, to the bit.
    """
    seen = copy.deepcopy(module)
    hidden = [name for name, (layer, given) in _layers(seen, _images(shape, device)).items() if _hides(layer, given)]
    innermost = [name for name in hidden if not any(other.startswith(f"{name}.") for other in hidden)]
    for name in innermost:
        seen.set_submodule(name, Bpda(seen.get_submodule(name)))
    return seen if innermost else module


def _images(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Smooth drawn images, away from the edges of the box."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(IMAGES, shape[0], -(-shape[1] // 4), -(-shape[2] // 4), generator=generator)
    x = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)[:, :, : shape[1], : shape[2]]
    return (0.1 + 0.7 * x + 0.1 * torch.rand(IMAGES, *shape, generator=generator)).to(device)


def _layers(module: nn.Module, x: Tensor) -> dict[str, tuple[nn.Module, Tensor]]:
    """The layers that give a tensor shaped as the one that they are given, with that; stand-ins are left alone."""
    found: dict[str, tuple[nn.Module, Tensor]] = {}
    left = {
        f"{name}.{inner}".rstrip(".")
        for name, child in module.named_modules() if isinstance(child, Bpda)
        for inner, _ in child.named_modules()
    }  # fmt: skip

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(layer: nn.Module, given: Any, answer: Any) -> None:
            tensors = len(given) == 1 and isinstance(given[0], Tensor) and isinstance(answer, Tensor)
            if tensors and answer.shape == given[0].shape and answer.is_floating_point():
                found.setdefault(name, (layer, given[0].detach().clone()))

        return look

    hooks = [
        child.register_forward_hook(hook(name)) for name, child in module.named_modules() if name and name not in left
    ]
    try:
        with torch.no_grad():
            module(x.clone())
    finally:
        for one in hooks:
            one.remove()
    return found


def _hides(layer: nn.Module, given: Tensor) -> bool:
    """Whether its answer moves as its gradient does not say."""
    generator = torch.Generator().manual_seed(1)
    step = MOVE * float(given.std().nan_to_num()) or MOVE
    with torch.no_grad():
        like = layer(given.clone())
    weight = torch.randn(like.shape, generator=generator).to(like)
    slope = _slope(layer, given, weight)
    by_hand, by_graph = [], []
    for _ in range(WAYS):
        way = torch.randn(given.shape, generator=generator).to(given)
        with torch.no_grad():
            moved = layer(given + step * way) - layer(given - step * way)
        by_hand.append(float((moved * weight).sum()) / (2 * step))
        by_graph.append(float((slope * way).sum()))
    hand, graph = torch.tensor(by_hand), torch.tensor(by_graph)
    if not hand.isfinite().all() or not hand.any():
        return False
    return float((hand - graph).norm() / hand.norm()) > WRONG


def _slope(layer: nn.Module, given: Tensor, weight: Tensor) -> Tensor:
    """Autograd's; zero where the layer lets no gradient through, or raises."""
    point = given.clone().requires_grad_()
    try:
        with torch.enable_grad():
            value = (layer(point * 1) * weight).sum()
        if value.requires_grad:
            (found,) = torch.autograd.grad(value, point, allow_unused=True)
            if found is not None:
                return found.nan_to_num()
    except torch.OutOfMemoryError:
        raise
    except Exception:  # noqa: BLE001, S110  whatever a layer's backward raises: then it needs a stand-in
        pass
    return torch.zeros_like(given)
