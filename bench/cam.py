"""Class activation maps: where a model looks, and budgets that differ by pixel."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.errors import UsageError
from bench.training import frozen

Cam = Literal["gradcam", "xgradcam", "layercam"]


def heat(model: nn.Module, x: Tensor, cam: Cam = "gradcam", *, clip: bool = True) -> Tensor:
    """The heat of each pixel for the class that the model itself predicts: (N, H, W), from 0 to 1.

    gradcam: channels weighed by the spatial mean of d logit / d map (Selvaraju et al., 2017); xgradcam: by the mean of
    that gradient weighed by the map (Fu et al., 2020); layercam: each place by its own positive gradient (Jiang et al.,
    2021).  The weighted sum is cut at zero, stretched to [0, 1] and enlarged bicubically, as Pillow does it, which
    overshoots; hence the clip.  The model is asked in eval mode, and differentiated only from its last feature map on.
    """
    found: list[Tensor] = []

    def cut(_module: nn.Module, _inputs: object, features: Tensor) -> Tensor:
        found.append(features.detach().requires_grad_())  # nothing below this layer needs a gradient
        return found[0]

    handle = _layer(model).register_forward_hook(cut)
    try:
        with frozen(model), torch.enable_grad():
            (grad,) = torch.autograd.grad(model(x).amax(1).sum(), found[0])
    finally:
        handle.remove()
    features = found[0].detach()
    warm = (_weights(features, grad, cam) * features).sum(1, keepdim=True).relu()
    low, high = warm.amin((2, 3), keepdim=True), warm.amax((2, 3), keepdim=True)
    warm = (warm - low) / (high - low + 1e-8)
    large = F.interpolate(warm, size=x.shape[2:], mode="bicubic", antialias=True)[:, 0]
    return large.clamp(0, 1) if clip else large


def outlying(values: Tensor) -> Tensor:
    """Which values (N, C, H, W) are over one standard deviation above the mean of their image."""
    flat = values.flatten(1)
    mean, spread = flat.mean(1, keepdim=True), flat.std(1, keepdim=True, correction=0)
    return ((flat - mean) / (spread + 1e-12) > 1).view_as(values)


def within(x_adv: Tensor, x: Tensor, size: Tensor) -> Tensor:
    """The nearest images within each pixel's budget of x, and in [0, 1]."""
    return x_adv.clamp(x - size, x + size).clamp(0, 1)


def _weights(features: Tensor, grad: Tensor, cam: Cam) -> Tensor:
    """What each feature map (N, D, h, w), or each place of it, counts for: broadcasts with it."""
    if cam == "gradcam":
        return grad.mean((2, 3), keepdim=True)
    if cam == "xgradcam":
        return (grad * features).sum((2, 3), keepdim=True) / (features.sum((2, 3), keepdim=True) + 1e-8)
    return grad.relu()


def _layer(model: nn.Module) -> nn.Module:
    """The layer that the net names in `cam_layer`; else its last convolution."""
    name = getattr(model, "cam_layer", None)
    if isinstance(name, str):
        return model.get_submodule(name)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    if not convolutions:
        raise UsageError(f"{type(model).__name__} has no convolution, so it has no class activation map")
    return convolutions[-1]
