"""How large a net is, and what it computes."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from torch import nn

    from bench.exam import Shape


def count(module: nn.Module, shape: Shape) -> tuple[int, int | None]:
    """Its parameters, and the multiply-adds of its forward pass of one image; None where those cannot be counted.

    Multiply-adds are those of convolutions and matrix products, half of torch's count of operations.  Shapes alone
    are followed, on torch's meta device; a net that cannot be followed there is asked for real.
    """
    from bench.sandbox import Sandboxed

    if isinstance(module, Sandboxed):  # it was counted where it is
        return module.cage.told.parameters, module.cage.told.macs
    parameters = sum(p.numel() for p in module.parameters())
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    on = next((v.device for v in state.values()), torch.device("cpu"))
    modes = {m: m.training for m in module.modules()}
    module.eval()
    try:
        for device in dict.fromkeys([torch.device("meta"), on]):
            moved = {k: v.detach().to(device) for k, v in state.items()}
            x = torch.zeros(1, shape.channels, shape.size, shape.size, device=device)
            try:
                with torch.no_grad(), warnings.catch_warnings(), FlopCounterMode(display=False) as counter:
                    warnings.simplefilter("ignore")
                    functional_call(module, moved, (x,))
                return parameters, counter.get_total_flops() // 2
            except Exception:  # noqa: BLE001, S112  a stranger's net may do anything; the count is not worth a training
                continue
    finally:
        for m, training in modes.items():
            m.training = training
    return parameters, None
