"""Nets by their recipes, for the tests of nets."""

from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import torch

from bench.exam import Shape
from bench.place import build
from bench.registry import plugins

REGISTRY = plugins()


def made(text, *, classes=10, channels=3, size=32, device="cpu"):
    """The net of this recipe; on the meta device it has shapes and no numbers."""
    with torch.device(device):
        return build(REGISTRY.parse("net", text), Shape(classes, channels, size))


def zoo(module, name):
    """A net of robustbench, an oracle, from its file alone: the package needs more than its nets do."""
    (home,) = find_spec("robustbench").submodule_search_locations
    spec = spec_from_file_location(f"zoo_{module}", Path(home) / "model_zoo" / "architectures" / f"{module}.py")
    loaded = module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return getattr(loaded, name)


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def last_map(net, x):
    """Logits, and the output of the layer that the net names in cam_layer."""
    maps = []
    handle = net.get_submodule(net.cam_layer).register_forward_hook(lambda _m, _i, out: maps.append(out))
    logits = net(x)
    handle.remove()
    (found,) = maps
    return logits, found


def gradient(net, x, y):
    """Of the summed cross-entropy, by the images."""
    x = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(torch.nn.functional.cross_entropy(net(x), y, reduction="sum"), x)
    return grad


def lively(net):
    """The net in eval mode with every weight and statistic drawn anew: none is 0 or 1, so none can be lost."""
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                value.copy_(
                    0.5 + torch.rand_like(value) if "var" in name or value.ndim == 1 else 0.1 * torch.randn_like(value)
                )
    return net.eval()
