"""A layer without a useful gradient, and the stand-in through which attacks may differentiate it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable


class Bpda(nn.Module):
    """The layer's own answer, with the gradient of a stand-in: of the identity, or of a module of the same shape.

    Backward pass differentiable approximation (arXiv:1802.00420).  A defense that quantises, denoises or compresses
    builds it into its net, so that gradient attacks see through it: `Bpda(Quantise(32))`.
    """

    def __init__(self, layer: nn.Module, stand_in: nn.Module | None = None) -> None:
        super().__init__()
        self.layer, self.stand_in = layer, stand_in

    def forward(self, x: Tensor) -> Tensor:
        """What the layer says, to the bit."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            answer: Tensor = self.layer(x)
            return answer
        with torch.no_grad():
            answer = self.layer(x)
        soft = x if self.stand_in is None else self.stand_in(x)
        if soft.shape != answer.shape:
            what = "the layer changes the shape: give it" if self.stand_in is None else "it needs"
            raise ValueError(f"{what} a stand-in of {tuple(answer.shape)}, not {tuple(soft.shape)}")
        through: Callable[..., Tensor] = _Through.apply
        return through(soft, answer)


class _Through(torch.autograd.Function):
    """The second value, with the gradient of the first."""

    @staticmethod
    def forward(_ctx: Any, soft: Tensor, answer: Tensor) -> Tensor:
        """A copy of the answer."""
        return answer.to(soft.dtype).clone()

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> Any:
        """Straight on to the stand-in."""
        return grads[0], None
