"""Faster gradients: how a frozen convolution on a CPU is differentiated by its images."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

FEW = 4  # channels


def lean(module: nn.Module) -> nn.Module:
    """Give the module's plain convolutions a faster way back; what they answer stays the very same call.

    On a CPU torch takes several times as long for the gradient of a convolution of few channels as for its forward.
    A fixed rule picks the way, by shapes and never by timing, so that a gradient has the same bits in every run.
    """
    for child in module.modules():
        if type(child) is nn.Conv2d and child.groups == 1 and child.dilation == (1, 1) and _plain(child):
            child.forward = partial(_forward, child)  # type: ignore[method-assign]
    return module


def _plain(convolution: nn.Conv2d) -> bool:
    return not isinstance(convolution.padding, str) and convolution.padding_mode == "zeros"


def _forward(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """The convolution's own forward; with a lean gradient where only that of its images is wanted."""
    frozen = not convolution.weight.requires_grad and (convolution.bias is None or not convolution.bias.requires_grad)
    if frozen and x.requires_grad and torch.is_grad_enabled() and x.device.type == "cpu" and x.ndim == 4:
        apply: Callable[..., Tensor] = _Convolution.apply
        return apply(x, convolution.weight, convolution.bias, convolution.stride, convolution.padding)
    return nn.Conv2d.forward(convolution, x)


class _Convolution(torch.autograd.Function):
    """conv2d whose gradient is that of its images alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any) -> Tensor:
        """The call itself."""
        ctx.save_for_backward(weight)
        ctx.size, ctx.stride, ctx.padding = x.shape[2:], stride, padding
        return functional.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """With few channels a product and a fold, else a transposed convolution: both are exact and differentiable."""
        (weight,), (grad,) = ctx.saved_tensors, grads
        kernel = weight.shape[2:]
        if weight.shape[1] <= FEW:
            columns = weight.flatten(1).T @ grad.flatten(2)
            back = functional.fold(columns, ctx.size, kernel, padding=ctx.padding, stride=ctx.stride)
        else:
            ends = zip(ctx.size, grad.shape[2:], ctx.stride, ctx.padding, kernel, strict=True)
            rest = [size - ((out - 1) * stride - 2 * pad + k) for size, out, stride, pad, k in ends]
            back = functional.conv_transpose2d(grad, weight, None, ctx.stride, ctx.padding, rest)
        return back, None, None, None, None
