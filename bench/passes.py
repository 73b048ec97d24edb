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
        if type(child) is nn.Conv2d and _plain(child):
            child.forward = partial(_forward, child)  # type: ignore[method-assign]
    return module


def _plain(convolution: nn.Conv2d) -> bool:
    """Whether it does what its class does, by arguments that the way back knows."""
    own = {"forward", "_conv_forward"} & vars(convolution).keys()  # an instance may have been given other ones
    simple = convolution.groups == 1 and convolution.dilation == (1, 1) and convolution.padding_mode == "zeros"
    return simple and not own and not isinstance(convolution.padding, str)


def _forward(convolution: nn.Conv2d, input: Tensor) -> Tensor:  # noqa: A002  as torch names it
    """The convolution's own forward; with a lean gradient where only that of its images is wanted."""
    weight, bias = convolution.weight, convolution.bias
    frozen = not weight.requires_grad and (bias is None or not bias.requires_grad)
    wanted = frozen and input.requires_grad and torch.is_grad_enabled()
    known = input.device.type == "cpu" and input.ndim == 4 and input.dtype == weight.dtype
    if wanted and known and not torch.is_autocast_enabled("cpu"):
        apply: Callable[..., Tensor] = _Convolution.apply
        return apply(input, weight, bias, convolution.stride, convolution.padding)
    return nn.Conv2d.forward(convolution, input)


class _Convolution(torch.autograd.Function):
    """conv2d whose gradient is that of its images alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any) -> Tensor:
        """The call itself."""
        return functional.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """What the way back needs: the weight and the shapes, and not the images."""
        del output
        x, weight, _, stride, padding = inputs
        ctx.save_for_backward(weight)
        ctx.size, ctx.stride, ctx.padding = x.shape[2:], stride, padding

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
