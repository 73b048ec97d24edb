"""Averages of weights over a training: exponential over steps, or a running mean over epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from bench.course import Course

WARM_UP = 0.025  # of all steps, during which an exponential average is a copy (Gowal et al., 2020)


class Average:
    """A second set of weights that follows the first; what is judged and kept once it has begun."""

    def __init__(self, module: nn.Module, course: Course, steps: int) -> None:
        self.module = module.requires_grad_(False)
        self._tau, self._warm, self._first = course.ema, WARM_UP * steps, course.swa
        self._count = 0  # of steps, or of epochs averaged

    @property
    def started(self) -> bool:
        """Whether it holds anything."""
        return bool(self._tau or self._count)

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        """Follow the weights, exponentially; batch statistics wait for the end of the epoch."""
        if not self._tau:
            return
        since = self._count - self._warm
        decay = min(self._tau, (1 + since) / (10 + since)) if since >= 0 else 0.0
        self._count += 1
        self._follow(model, 1 - decay)

    @torch.no_grad()
    def after_epoch(self, model: nn.Module, epoch: int, images: Callable[[], Iterable[Tensor]]) -> None:
        """Take in the epoch's weights where the mean is over epochs; the batch statistics are copied or taken anew."""
        if self._tau:
            self._copy_buffers(model)
        elif self._first and epoch >= self._first:
            self._count += 1
            self._follow(model, 1 / self._count)
            self._copy_buffers(model)
            torch.optim.swa_utils.update_bn(images(), self.module)

    def _follow(self, model: nn.Module, share: float) -> None:
        for mine, other in zip(self.module.parameters(), model.parameters(), strict=True):
            mine.lerp_(other, share) if share < 1 else mine.copy_(other)

    def _copy_buffers(self, model: nn.Module) -> None:
        for mine, other in zip(self.module.buffers(), model.buffers(), strict=True):
            mine.copy_(other)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"module": self.module.state_dict(), "count": self._count}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.module.load_state_dict(state["module"])
        self._count = state["count"]
