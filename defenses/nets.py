"""Nets: functions that give an untrained module.

Images come in as (N, C, H, W) in [0, 1]; the first layer normalises them, and logits (N, K) go out.  Submodules are
named as in the public checkpoints, which therefore load as they are.  Each module's `cam_layer` names the submodule
whose output is its last feature map (N, D, h, w).  Where public files hold weights that a net does not use, it lists
the beginnings of their names in `ignored_keys`; where it names all its weights `net.…` and public files do not, that
is its `public_prefix`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import Alias, UsageError, net

Floats = tuple[float, ...]
Block = Callable[[int, int, int], nn.Module]  # channels in, channels out, stride

wrn_34_10 = Alias("net", "wrn-34-10", "wrn(depth=34, width=10)")
wrn_28_10 = Alias("net", "wrn-28-10", "wrn(depth=28, width=10)")


@net()
def cnn(*, classes: int, channels: int, size: int, mean: Floats = (), std: Floats = ()) -> nn.Module:
    """The MNIST net of Fast AT (arXiv:2001.03994): two convolutions and two linear layers, for any size from 4."""
    if size < 4:
        raise UsageError(f"cnn needs images of 4x4 or more, and they are {size}x{size}")
    return Cnn(classes, channels, size, normalisation(channels, mean, std))


@net(paper="arXiv:1512.03385")
def resnet18(
    *,
    classes: int,
    channels: int,
    size: int,
    mean: Floats = (),
    std: Floats = (),
) -> nn.Module:
    """ResNet-18 with the CIFAR stem (3x3, no pooling), as TRADES, MART, MAIL and PART have it; for any size."""
    return ResNet(classes, channels, normalisation(channels, mean, std))


@net(paper="arXiv:1603.05027")
def preactresnet18(
    *,
    classes: int,
    channels: int,
    size: int,
    variant: Literal["rice", "fast"] = "rice",
    mean: Floats = (),
    std: Floats = (),
) -> nn.Module:
    """PreActResNet-18, as in Rice et al. (arXiv:2002.11569) or in the first Fast AT; the two do not share weights."""
    return PreActResNet(classes, channels, variant, normalisation(channels, mean, std))


@net(paper="arXiv:1605.07146")
def wrn(
    *,
    classes: int,
    channels: int,
    size: int,
    depth: int = 34,
    width: int = 10,
    mean: Floats = (),
    std: Floats = (),
) -> nn.Module:
    """Wide ResNet as in TRADES (arXiv:1901.08573), without the branch there that is never used; for any size."""
    return WideResNet(classes, channels, wide_blocks("wrn", depth, width), width, normalisation(channels, mean, std))


def wide_blocks(name: str, depth: int, width: int) -> int:
    """The blocks of a stage of a wide ResNet; an error where the depth or the width cannot be."""
    if depth < 10 or (depth - 4) % 6:
        near = max(10, 4 + 6 * round((depth - 4) / 6))
        raise UsageError(f"{name}(depth={depth}): expected 6n + 4, as in 28 or 34; the nearest is {near}")
    if width < 1:
        raise UsageError(f"{name}(width={width}): expected 1 or more")
    return (depth - 4) // 6


class Normalize(nn.Module):
    """(x - mean) / std in each channel; mean and std belong to the recipe and stay out of the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Floats, std: Floats) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to normalised images."""
        return (x - self.mean) / self.std


def normalisation(channels: int, mean: Floats, std: Floats) -> nn.Module:
    """The first layer of a net: Normalize, or nothing where neither mean nor std is given."""
    if not mean and not std:
        return nn.Identity()
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise UsageError(f"{name}={values}: expected {channels} values, one a channel of the images")
        if not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
            raise UsageError(f"{name}={values}: expected numbers")
    if min(std) <= 0:
        raise UsageError(f"std={std}: expected numbers above 0")
    return Normalize(mean, std)


class Cnn(nn.Sequential):
    """conv 16, ReLU, conv 32, ReLU, linear 100, ReLU, linear; numbered as in the published state dict.

    Both convolutions are 4x4 with stride 2; on images under 16 pixels the first is 3x3 with stride 1.
    """

    cam_layer = "3"  # the ReLU after the last convolution

    def __init__(self, classes: int, channels: int, size: int, normalise: nn.Module) -> None:
        small = size < 16
        first = nn.Conv2d(channels, 16, 3, 1, 1) if small else nn.Conv2d(channels, 16, 4, 2, 1)
        side = (size if small else size // 2) // 2
        numbered = (
            first,
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * side * side, 100),
            nn.ReLU(),
            nn.Linear(100, classes),
        )
        named = [("normalise", normalise), *((str(i), layer) for i, layer in enumerate(numbered))]
        super().__init__(OrderedDict(named))


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN, added to the input, ReLU.

    Where the shape changes it is added to a 1x1 conv and BN of the input, or, where `padded`, to Fewer of it.
    """

    def __init__(self, inside: int, outside: int, stride: int, *, padded: bool = False) -> None:
        super().__init__()
        self.conv1 = conv3x3(inside, outside, stride)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = conv3x3(outside, outside, 1)
        self.bn2 = nn.BatchNorm2d(outside)
        self.shortcut = nn.Sequential()
        if padded and (stride != 1 or inside != outside):
            self.shortcut = nn.Sequential(Fewer(outside - inside, stride))
        elif stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(conv1x1(inside, outside, stride), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        """A map to a map."""
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class Fewer(nn.Module):
    """Every `stride`-th pixel, and channels of zeros before and behind: a shortcut without parameters."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """A map to a map."""
        before = self.channels // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.channels - before))


class ResNet(nn.Module):
    """Stem of 64, four stages of two BasicBlocks (64, 128, 256, 512), global average, linear."""

    cam_layer = "layer4"

    def __init__(self, classes: int, channels: int, normalise: nn.Module) -> None:
        super().__init__()
        self.normalise = normalise
        self.conv1 = conv3x3(channels, 64, 1)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = stage(BasicBlock, 2, 64, 64, 1)
        self.layer2 = stage(BasicBlock, 2, 64, 128, 2)
        self.layer3 = stage(BasicBlock, 2, 128, 256, 2)
        self.layer4 = stage(BasicBlock, 2, 256, 512, 2)
        self.linear = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to logits."""
        out = torch.relu(self.bn1(self.conv1(self.normalise(x))))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        logits: Tensor = self.linear(out.mean((2, 3)))
        return logits


class PreActBlock(nn.Module):
    """BN-ReLU-conv twice, added to the input, or to a bare 1x1 conv of it where the shape changes.

    That convolution takes the block's raw input where `raw`, and else the input after BN and ReLU.
    """

    def __init__(self, inside: int, outside: int, stride: int, *, raw: bool) -> None:
        super().__init__()
        self.raw = raw
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv1 = conv3x3(inside, outside, stride)
        self.bn2 = nn.BatchNorm2d(outside)
        self.conv2 = conv3x3(outside, outside, 1)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(conv1x1(inside, outside, stride))

    def forward(self, x: Tensor) -> Tensor:
        """A map to a map."""
        active = torch.relu(self.bn1(x))
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(x if self.raw else active)
        out: Tensor = self.conv2(torch.relu(self.bn2(self.conv1(active))))
        return out + shortcut


class PreActResNet(nn.Module):
    """Stem of 64, four stages of two PreActBlocks (64, 128, 256, 512), global average, linear.

    rice: shortcuts see the activated input; BN and ReLU before the average.  fast: the raw input; neither.
    """

    cam_layer = "layer4"

    def __init__(self, classes: int, channels: int, variant: Literal["rice", "fast"], normalise: nn.Module) -> None:
        super().__init__()
        block = partial(PreActBlock, raw=variant == "fast")
        self.normalise = normalise
        self.conv1 = conv3x3(channels, 64, 1)
        self.layer1 = stage(block, 2, 64, 64, 1)
        self.layer2 = stage(block, 2, 64, 128, 2)
        self.layer3 = stage(block, 2, 128, 256, 2)
        self.layer4 = stage(block, 2, 256, 512, 2)
        self.bn = nn.BatchNorm2d(512) if variant == "rice" else None
        self.linear = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to logits."""
        out = self.conv1(self.normalise(x))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        if self.bn is not None:
            out = torch.relu(self.bn(out))
        logits: Tensor = self.linear(out.mean((2, 3)))
        return logits


class WideBlock(nn.Module):
    """BN-ReLU-conv twice, added to the input; where the width changes, to a 1x1 conv of the activated input."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv1 = conv3x3(inside, outside, stride)
        self.bn2 = nn.BatchNorm2d(outside)
        self.conv2 = conv3x3(outside, outside, 1)
        # The checkpoints' name for it.
        self.convShortcut = conv1x1(inside, outside, stride) if stride != 1 or inside != outside else None

    def forward(self, x: Tensor) -> Tensor:
        """A map to a map."""
        active = torch.relu(self.bn1(x))
        shortcut: Tensor = x if self.convShortcut is None else self.convShortcut(active)
        out: Tensor = self.conv2(torch.relu(self.bn2(self.conv1(active))))
        return out + shortcut


class WideResNet(nn.Module):
    """Stem of 16, three stages of WideBlocks (16, 32, 64 times width), BN, ReLU, average, linear."""

    cam_layer = "block3"
    ignored_keys = ("sub_block1.",)  # a branch in the files of TRADES and its heirs that their forward never asks

    def __init__(self, classes: int, channels: int, blocks: int, width: int, normalise: nn.Module) -> None:
        super().__init__()
        self.normalise = normalise
        self.conv1 = conv3x3(channels, 16, 1)
        self.block1 = _wide_stage(blocks, 16, 16 * width, 1)
        self.block2 = _wide_stage(blocks, 16 * width, 32 * width, 2)
        self.block3 = _wide_stage(blocks, 32 * width, 64 * width, 2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, classes)
        normal_by_outputs(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to logits."""
        out = self.block3(self.block2(self.block1(self.conv1(self.normalise(x)))))
        out = torch.relu(self.bn1(out))
        logits: Tensor = self.fc(out.mean((2, 3)))
        return logits


def normal_by_outputs(net: nn.Module) -> None:
    """Start every convolution normal with variance 2 / (k k out), as wide ResNets do."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))


def stage(block: Block, count: int, inside: int, outside: int, stride: int) -> nn.Sequential:
    """Blocks in a row; the first changes the width and the size."""
    first = block(inside, outside, stride)
    return nn.Sequential(first, *(block(outside, outside, 1) for _ in range(count - 1)))


def _wide_stage(count: int, inside: int, outside: int, stride: int) -> nn.Sequential:
    """A stage of WideBlocks under the checkpoints' name: block1.layer.0."""
    return nn.Sequential(OrderedDict(layer=stage(WideBlock, count, inside, outside, stride)))


def conv3x3(inside: int, outside: int, stride: int) -> nn.Conv2d:
    """3x3, padded, without bias."""
    return nn.Conv2d(inside, outside, 3, stride, 1, bias=False)


def conv1x1(inside: int, outside: int, stride: int) -> nn.Conv2d:
    """1x1, without bias."""
    return nn.Conv2d(inside, outside, 1, stride, bias=False)
