"""Class activation maps: where a model looks (Selvaraju et al., 2017, "Grad-CAM")."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import UsageError


def gradcam(model: nn.Module, x: Tensor) -> Tensor:
    """The heat of each pixel for the class that the model itself predicts: (N, H, W), from 0 to 1.

    Channel weights are the spatial means of d logit / d feature map; the weighted sum is cut at zero, stretched to
    [0, 1] and enlarged bicubically (clipped, as that overshoots).  The model is asked in eval mode.
    """
    found: list[Tensor] = []

    def cut(_module: nn.Module, _inputs: object, features: Tensor) -> Tensor:
        found.append(features.detach().requires_grad_())  # nothing below this layer needs a gradient
        return found[0]

    training = model.training
    model.eval()
    handle = _layer(model).register_forward_hook(cut)
    try:
        with torch.enable_grad():
            logits = model(x)
            (grad,) = torch.autograd.grad(logits.amax(1).sum(), found[0])
    finally:
        handle.remove()
        model.train(training)
    heat = (grad.mean((2, 3), keepdim=True) * found[0].detach()).sum(1, keepdim=True).relu()
    low, high = heat.amin((2, 3), keepdim=True), heat.amax((2, 3), keepdim=True)
    heat = (heat - low) / (high - low + 1e-8)
    return F.interpolate(heat, size=x.shape[2:], mode="bicubic", align_corners=False)[:, 0].clamp(0, 1)


def _layer(model: nn.Module) -> nn.Module:
    """The layer that the net names in `cam_layer`; else its last convolution."""
    name = getattr(model, "cam_layer", None)
    if isinstance(name, str):
        return model.get_submodule(name)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    if not convolutions:
        raise UsageError(f"{type(model).__name__} has no convolution, so there is no class activation map for PART")
    return convolutions[-1]
