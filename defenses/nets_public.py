"""Nets of the libraries timm and torchvision, with random weights: nothing is downloaded."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from bench import Alias, UsageError, nearest, net
from defenses.nets import Floats, normalisation

resnet50 = Alias("net", "resnet50", "torchvision(name='resnet50')")
# Whose outputs are no feature maps, though shaped as such: attention, and maps stretched to a linear layer's size.
SKIPPED = (nn.Dropout, nn.Softmax, nn.AdaptiveAvgPool2d)
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # heads of torchvision's Inceptions that only their training used


@net(name="timm")
def timm_(
    *, classes: int, channels: int, size: int, name: str, resize: int = 0, mean: Floats = (), std: Floats = ()
) -> nn.Module:
    """Any net of timm, as in timm(name='resnet18.a1_in1k'), normalised as its public weights were unless told else.

    resize: the side that images are brought to first, where the net takes no other.
    """
    timm = _timm()
    if not timm.is_model(name):  # also what would be fetched from a hub
        raise UsageError(f"timm has no net {name!r}{nearest(name, timm.list_models())}")
    family, tagged, _ = name.partition(".")
    tags = timm.list_pretrained(f"{family}.*")
    if tagged and name not in tags:
        raise UsageError(f"timm has no public weights {name!r}, whose settings these would be{nearest(name, tags)}")
    module = _made(
        f"timm(name={name!r})",
        lambda: timm.create_model(name, pretrained=False, num_classes=classes, in_chans=channels),
    )
    config: dict[str, Any] = module.pretrained_cfg  # type: ignore[assignment]
    usual = (tuple(config.get("mean", ())), tuple(config.get("std", ())))
    first = normalisation(channels, *(_for(channels, usual) if not mean and not std else (mean, std)))
    return _adapted(f"timm(name={name!r})", module, first, channels, size, resize, config["input_size"][1])


@net(name="torchvision")
def torchvision_(
    *, classes: int, channels: int, size: int, name: str, resize: int = 0, mean: Floats = (), std: Floats = ()
) -> nn.Module:
    """Any classifier of torchvision, as in torchvision(name='resnet50'), normalised as its public weights were.

    resize: the side that images are brought to first, where the net takes no other.  On images that have not three
    channels the first convolution is another one.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UsageError(f"torchvision has no classifier {name!r}{nearest(name, known)}")
    inception = name in {"inception_v3", "googlenet"}
    more: dict[str, Any] = {"aux_logits": False, "init_weights": True} if inception else {}
    label = f"torchvision(name={name!r})"
    module = _made(label, lambda: models.get_model(name, weights=None, num_classes=classes, **more))
    if channels != 3:
        _recolour(module, channels)
    public = models.get_model_weights(name).DEFAULT.transforms()
    # The Inceptions' public weights undo ImageNet's normalisation and bring images to [-1, 1].
    usual = ((0.5,) * 3, (0.5,) * 3) if inception else (tuple(public.mean), tuple(public.std))
    first = normalisation(channels, *(_for(channels, usual) if not mean and not std else (mean, std)))
    usual_size = getattr(module, "image_size", public.crop_size[0])  # the largest transformer has weights of two sizes
    return _adapted(label, module, first, channels, size, resize, usual_size)


class Adapted(nn.Module):
    """A library's net behind `net.`, after a change of size and normalisation."""

    public_prefix = "net."
    ignored_keys = tuple(f"net.{k}" for k in AUXILIARY)

    def __init__(self, resize: nn.Module, normalise: nn.Module, net: nn.Module, cam_layer: str | None) -> None:
        super().__init__()
        self.resize, self.normalise, self.net = resize, normalise, net
        self.cam_layer = cam_layer

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to logits."""
        logits: Tensor = self.net(self.normalise(self.resize(x)))
        return logits


class Resize(nn.Module):
    """Square images to another size, bilinearly and smoothed where they shrink: two products with a fixed matrix."""

    matrix: Tensor

    def __init__(self, size: int, wanted: int) -> None:
        super().__init__()
        rows = torch.eye(size)[None, None]
        matrix = F.interpolate(rows, (wanted, size), mode="bilinear", antialias=True, align_corners=False)[0, 0]
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, size, size) to (N, C, wanted, wanted)."""
        return self.matrix @ x @ self.matrix.T


def _timm() -> Any:
    """The library; what it says of torch's old ways while it is imported is not the user's concern."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import timm
    return timm


def _made(label: str, make: Callable[[], nn.Module]) -> nn.Module:
    """The library's module; its own errors are named after it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the libraries' remarks on their own old names
            return make()
    except Exception as error:
        first = str(error).partition("\n")[0]
        raise UsageError(f"{label} cannot be built for these images and classes: {first}") from error


def _for(channels: int, usual: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """The usual mean and std; for another number of channels than they have, their averages."""
    mean, std = (v if len(v) in {0, channels} else (round(sum(v) / len(v), 6),) * channels for v in usual)
    return mean, std


def _recolour(module: nn.Module, channels: int) -> None:
    """Replace the first convolution by one of as many channels."""
    name, old = next((n, m) for n, m in module.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        channels, old.out_channels, old.kernel_size, old.stride, old.padding,  # type: ignore[arg-type]
        dilation=old.dilation, bias=old.bias is not None,  # type: ignore[arg-type]
    )  # fmt: skip
    module.set_submodule(name, new)


def _adapted(
    label: str, module: nn.Module, normalise: nn.Module, channels: int, size: int, resize: int, usual: int
) -> nn.Module:
    """The whole net; an error that says which size would do where this one does not."""
    if resize < 0:
        raise UsageError(f"{label} with resize={resize}: expected a size in pixels, or 0 for none")
    side = resize or size
    failed = _maps(module, channels, side)
    if isinstance(failed, Exception):
        why = " ".join(str(failed).split())[:150] or type(failed).__name__
        hint = "" if side == usual else f"; its public weights are for {usual}x{usual}: add resize={usual}"
        raise UsageError(f"{label} cannot take images of {side}x{side}: {why}{hint}")
    maps = _maps(module, channels, usual)
    names = [name for name, shape in maps if _is_map(shape)] if isinstance(maps, list) else []
    first = nn.Identity() if side == size else Resize(size, side)
    return Adapted(first, normalise, module, f"net.{names[-1]}" if names else None)


def _is_map(shape: tuple[int, ...]) -> bool:
    """Whether an output is (1, D, h, w): more than one place, and channels second, where they differ from the rest."""
    return len(shape) == 4 and shape[2] == shape[3] > 1


def _maps(module: nn.Module, channels: int, side: int) -> list[tuple[str, tuple[int, ...]]] | Exception:
    """Names and shapes of the outputs of submodules on one image, in the order in which they come; or what went wrong.

    First without arithmetic, on torch's meta device; some nets cannot, and compute.
    """
    found: list[tuple[str, tuple[int, ...]]] = []
    handles = [
        child.register_forward_hook(
            lambda _module, _inputs, out, name=name: found.append((name, tuple(getattr(out, "shape", ()))))
        )
        for name, child in module.named_modules()
        if name and not isinstance(child, SKIPPED)
    ]
    training = module.training
    module.eval()
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    places = {"meta": {k: v.to("meta") for k, v in state.items()}, "cpu": state}
    failed: Exception = RuntimeError("it was not tried")
    try:
        for device, weights in places.items():
            found.clear()
            try:
                with torch.no_grad():
                    functional_call(module, weights, (torch.zeros(1, channels, side, side, device=device),))
            except Exception as error:  # noqa: BLE001  whatever the library raises
                failed = error
            else:
                return found
        return failed
    finally:
        module.train(training)
        for handle in handles:
            handle.remove()
