"""The search in lower precision: a faster copy of a model, which only the search asks."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bench.victim import small

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
NEAR = 0.05  # of the largest logit: how far a copy's logits may lie from the model's


class Hastened(nn.Module):
    """A module in another number format and memory layout; images and logits stay float32."""

    def __init__(
        self, module: nn.Module, dtype: torch.dtype, layout: torch.memory_format = torch.channels_last
    ) -> None:
        super().__init__()
        self.module, self.dtype, self.layout = module.to(dtype), dtype, layout
        for values in self.module.parameters():
            if values.ndim == 4:
                values.data = values.data.contiguous(memory_format=layout)

    def forward(self, x: Tensor) -> Any:
        """What the module says, nearly."""
        logits = self.module(x.to(self.dtype).contiguous(memory_format=self.layout))
        return logits.float() if isinstance(logits, Tensor) else logits


def hasten(module: nn.Module, x: Tensor) -> nn.Module:
    """A copy of a frozen module, faster on the device of the images x (N, C, H, W), which it is tried on; or itself.

    Batch normalisation is folded into the convolution before it, memory is laid out channels last but for small nets
    on a CPU, which it only slows, and numbers are bfloat16 where the device computes in it.  A copy that says something
    else on x is not used.
    """
    plain = x.device.type == "cpu" and small(module)
    layout = torch.contiguous_format if plain else torch.channels_last
    for dtype in dict.fromkeys([_quick(x.device), torch.float32]):
        for simplify in (fold, copy.deepcopy):
            try:
                fast = Hastened(simplify(module), dtype, layout).eval().requires_grad_(False)
                if _agree(fast, module, x):
                    return fast
            except Exception:  # noqa: BLE001, S112  whatever it is, the module can be asked as it is
                continue
    return module


def fold(module: nn.Module) -> nn.Module:
    """A copy with batch normalisation folded into the convolution right before it, where that changes no answer."""
    copied = copy.deepcopy(module)
    if any(getattr(m, hooks) for m in copied.modules() for hooks in HOOKS):
        return copied  # a trace would lose them
    try:
        graph = fx.symbolic_trace(copied)
    except Exception:  # noqa: BLE001  a forward that branches on values has no trace
        return copied
    modules = dict(graph.named_modules())
    names = {id(m): name for name, m in modules.items()}
    calls = Counter(names.get(id(modules.get(str(n.target))), str(n.target)) for n in graph.graph.nodes)
    read = [str(n.target) for n in graph.graph.nodes if n.op == "get_attr"]
    for node in list(graph.graph.nodes):
        pair = _pair(node, modules)
        if pair is None:
            continue
        before, conv, norm = pair
        once = calls[names[id(conv)]] == calls[names[id(norm)]] == 1
        if once and not any(r.startswith((f"{before.target}.", f"{node.target}.")) for r in read):
            graph.set_submodule(str(before.target), fuse_conv_bn_eval(conv, norm))
            node.replace_all_uses_with(before)
            graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def _pair(node: fx.Node, modules: dict[str, Any]) -> tuple[fx.Node, nn.Conv2d, nn.BatchNorm2d] | None:
    """The call of a convolution that only this call, of a batch normalisation in eval mode, reads; and both modules."""
    norm = modules.get(str(node.target)) if node.op == "call_module" else None
    if type(norm) is not nn.BatchNorm2d or norm.training or norm.running_mean is None or len(node.args) != 1:
        return None
    before = node.args[0]
    if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
        return None
    conv = modules.get(str(before.target))
    return (before, conv, norm) if type(conv) is nn.Conv2d else None


def _quick(device: torch.device) -> torch.dtype:
    """The number format that the device is quick in."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    able = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


def _agree(fast: nn.Module, module: nn.Module, x: Tensor) -> bool:
    """Whether the copy says about what the module says, and has a gradient."""
    with torch.no_grad():
        expected = module(x)
    with torch.enable_grad():
        z = x.detach().clone().requires_grad_()
        logits = fast(z)
        (grad,) = torch.autograd.grad(logits.sum(), z, allow_unused=True)
    near = (logits.detach() - expected).abs().max() <= NEAR * expected.abs().max()
    return bool(near) and (grad is None or bool(grad.isfinite().all()))
