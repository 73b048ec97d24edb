"""The search in lower precision: a faster copy of a model, which only the search asks."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bench.victim import small


class Hastened(nn.Module):
    """A module in another number format and memory layout; images and logits stay float32."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.dtype = module.to(dtype), dtype
        for values in self.module.parameters():
            if values.ndim == 4:
                values.data = values.data.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Any:
        """What the module says, nearly."""
        logits = self.module(x.to(self.dtype).contiguous(memory_format=torch.channels_last))
        return logits.float() if isinstance(logits, Tensor) else logits


def hasten(module: nn.Module, x: Tensor) -> nn.Module:
    """A copy of a frozen module, faster on the device of the images x (N, C, H, W), which it is tried on; or itself.

    Batch normalisation is folded into the convolution before it, memory is laid out channels last, and numbers are
    bfloat16 where the device computes in it.  What cannot be changed so is left as it is, and so are small nets, which
    gain nothing by it.
    """
    if small(module):
        return module
    folded = fold(module)
    for dtype in dict.fromkeys([_quick(x.device), torch.float32]):
        fast = Hastened(copy.deepcopy(folded), dtype).eval().requires_grad_(False)
        if _works(fast, x):
            return fast
    return module


def fold(module: nn.Module) -> nn.Module:
    """A copy with batch normalisation folded into the convolution right before it; a plain copy if untraceable."""
    try:
        graph = fx.symbolic_trace(copy.deepcopy(module))
    except Exception:  # noqa: BLE001  a forward that branches on values has no trace
        return copy.deepcopy(module)
    modules = dict(graph.named_modules())
    for node in graph.graph.nodes:
        if node.op != "call_module" or not isinstance(norm := modules[node.target], nn.BatchNorm2d):
            continue
        before = node.args[0]
        alone = isinstance(before, fx.Node) and before.op == "call_module" and len(before.users) == 1
        conv = modules[str(before.target)] if alone else None
        if isinstance(conv, nn.Conv2d) and norm.running_mean is not None:
            graph.set_submodule(str(before.target), fuse_conv_bn_eval(conv, norm))
            node.replace_all_uses_with(before)
            graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def _quick(device: torch.device) -> torch.dtype:
    """The number format that the device is quick in."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    able = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


def _works(module: nn.Module, x: Tensor) -> bool:
    """Whether it gives logits and a gradient."""
    try:
        with torch.enable_grad():
            z = x.detach().clone().requires_grad_()
            logits = module(z)
            (grad,) = torch.autograd.grad(logits.sum(), z, allow_unused=True)
    except Exception:  # noqa: BLE001  whatever it is, the module is then asked as it is
        return False
    return bool(logits.isfinite().all()) and (grad is None or bool(grad.isfinite().all()))
