"""Expectation over transformation: the gradient of a model that draws random numbers, averaged over fresh passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench import Model, UsageError

if TYPE_CHECKING:
    from attacks.pgd import Loss


def averaged(model: Model, eot: int) -> Model:
    """The model with each gradient the mean of so many; the model itself where that is one."""
    if eot < 1:
        raise UsageError(f"a gradient is the mean of eot passes, which must be at least 1, and eot is {eot}")
    return model if eot == 1 else Averaged(model, eot)


@dataclass(frozen=True)
class Averaged:
    """A model whose gradient is the mean over `eot` fresh passes (arXiv:1707.07397), each of which counts.

    Logits and loss are those of the last pass, and a plain call is one pass, as in AutoAttack's version `rand`: the
    success of an iterate, and for Auto-PGD its loss, are the word of one draw.  The judge asks more often.
    """

    model: Model
    eot: int

    def __call__(self, x: Tensor) -> Tensor:
        """The logits of one pass."""
        return self.model(x)

    def __getitem__(self, keep: Tensor | slice) -> Averaged:
        """The same for fewer images."""
        return Averaged(self.model[keep], self.eot)

    def gradient(self, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """Logits and loss of the last pass, and the mean gradient."""
        total = torch.zeros_like(x)
        for _ in range(self.eot):
            logits, value, grad = self.model.gradient(x, y, loss)
            total += grad
        return logits, value, total / self.eot

    def jacobian(self, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the last pass, and the mean gradients."""
        total = x.new_zeros(*classes.shape, *x.shape[1:])
        for _ in range(self.eot):
            logits, grads = self.model.jacobian(x, classes)
            total += grads
        return logits, total / self.eot
