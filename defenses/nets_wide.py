"""Two residual nets of adversarial training with layers of their own: Gowal's wide one, and Madry's."""

from __future__ import annotations

import math
from collections import OrderedDict
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from bench import Alias, UsageError, net
from defenses.nets import Floats, conv1x1, conv3x3, normal_by_outputs, normalisation, stage, wide_blocks

wrn_28_10_silu = Alias("net", "wrn-28-10-silu", "wrn-silu(depth=28, width=10)")
wrn_70_16_silu = Alias("net", "wrn-70-16-silu", "wrn-silu(depth=70, width=16)")
resnet_tsipras = Alias("net", "resnet-tsipras", "resnet-madry(width=1)")


@net(paper="arXiv:2010.03593")
def wrn_silu(
    *,
    classes: int,
    channels: int,
    size: int,
    depth: int = 28,
    width: int = 10,
    mean: Floats = (),
    std: Floats = (),
) -> nn.Module:
    """Wide ResNet with SiLU, as Gowal et al. made it and Wang et al. (arXiv:2302.04638) trained it on EDM images."""
    blocks = wide_blocks("wrn-silu", depth, width)
    _fourfold("wrn-silu", size)
    return WideSilu(classes, channels, blocks, width, normalisation(channels, mean, std))


@net(paper="arXiv:1706.06083")
def resnet_madry(*, classes: int, channels: int, size: int, width: int = 1) -> nn.Module:
    """The CIFAR-10 net of Madry et al., narrow as in Tsipras et al. (arXiv:1805.12152), or wide with width=10.

    It standardises each image by itself, so it has no mean and std.
    """
    if width < 1:
        raise UsageError(f"resnet-madry(width={width}): expected 1 or more")
    _fourfold("resnet-madry", size)
    return MadryResNet(classes, channels, width)


def _fourfold(name: str, size: int) -> None:
    if size < 4 or size % 4:
        raise UsageError(f"{name} halves images twice: it needs a multiple of 4 pixels, and they are {size}x{size}")


class SiluBlock(nn.Module):
    """BN-SiLU-conv twice, added to the input; where the width changes, to a 1x1 conv of the activated input.

    A stride of 2 pads on the right and below alone, as TensorFlow does.
    """

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.halves = stride == 2
        self.batchnorm_0 = nn.BatchNorm2d(inside, momentum=0.01)
        self.conv_0 = _conv_same(inside, outside, stride)
        self.batchnorm_1 = nn.BatchNorm2d(outside, momentum=0.01)
        self.conv_1 = conv3x3(outside, outside, 1)
        self.shortcut = conv1x1(inside, outside, stride) if inside != outside else None

    def forward(self, x: Tensor) -> Tensor:
        """A map to a map."""
        active = F.silu(self.batchnorm_0(x))
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(active)
        out = self.conv_0(F.pad(active, (0, 1, 0, 1)) if self.halves else active)
        out = self.conv_1(F.silu(self.batchnorm_1(out)))
        added: Tensor = shortcut + out
        return added


class WideSilu(nn.Module):
    """Stem of 16, three stages of SiluBlocks (16, 32, 64 times width), BN, SiLU, average, linear; the public names."""

    cam_layer = "layer"

    def __init__(self, classes: int, channels: int, blocks: int, width: int, normalise: nn.Module) -> None:
        super().__init__()
        widths = (16, 16 * width, 32 * width, 64 * width)
        self.normalise = normalise
        self.init_conv = conv3x3(channels, 16, 1)
        self.layer = nn.Sequential(
            *(
                nn.Sequential(OrderedDict(block=stage(SiluBlock, blocks, inside, outside, stride)))
                for inside, outside, stride in zip(widths, widths[1:], (1, 2, 2), strict=False)
            )
        )
        self.batchnorm = nn.BatchNorm2d(64 * width, momentum=0.01)
        self.logits = nn.Linear(64 * width, classes)
        normal_by_outputs(self)
        nn.init.zeros_(self.logits.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to logits."""
        out = F.silu(self.batchnorm(self.layer(self.init_conv(self.normalise(x)))))
        logits: Tensor = self.logits(out.mean((2, 3)))
        return logits


class Standardize(nn.Module):
    """Each image to mean 0 and deviation 1 over all its values; a flat image to 0."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same; deviations below 1 / sqrt(C H W) of a grey level count as that."""
        x = x - x.mean((1, 2, 3), keepdim=True)
        least = 1 / (255**2 * x[0].numel())
        return x / x.square().mean((1, 2, 3), keepdim=True).clamp_min(least).sqrt()


class LeakyBlock(nn.Module):
    """BN-leaky-conv twice, added to the input, which is averaged and padded with zero channels where the width changes.

    Where `shared`, it is added to the input after BN and leaky ReLU.
    """

    def __init__(self, inside: int, outside: int, stride: int, *, shared: bool = False) -> None:
        super().__init__()
        self.shared, self.stride, self.more = shared, stride, (outside - inside) // 2
        self.bn1 = _batch_norm(inside)
        self.conv1 = _conv_same(inside, outside, stride)
        self.bn2 = _batch_norm(outside)
        self.conv2 = conv3x3(outside, outside, 1)

    def forward(self, x: Tensor) -> Tensor:
        """A map to a map."""
        active = F.leaky_relu(self.bn1(x), 0.1)
        kept = active if self.shared else x
        if self.stride > 1:
            kept = F.avg_pool2d(kept, self.stride)
            active = F.pad(active, (0, 1, 0, 1))
        if self.more:
            kept = F.pad(kept, (0, 0, 0, 0, self.more, self.more))
        out: Tensor = self.conv2(F.leaky_relu(self.bn2(self.conv1(active)), 0.1))
        return out + kept


class MadryResNet(nn.Module):
    """Stem of 16, three stages of five LeakyBlocks (16, 32, 64 times width), BN, leaky ReLU, average, linear."""

    cam_layer = "layer3"

    def __init__(self, classes: int, channels: int, width: int) -> None:
        super().__init__()
        self.normalise = Standardize()
        self.conv1 = conv3x3(channels, 16, 1)
        self.layer1 = stage(partial(LeakyBlock, shared=True), 1, 16, 16 * width, 1)
        self.layer1.extend(stage(LeakyBlock, 4, 16 * width, 16 * width, 1))
        self.layer2 = stage(LeakyBlock, 5, 16 * width, 32 * width, 2)
        self.layer3 = stage(LeakyBlock, 5, 32 * width, 64 * width, 2)
        self.bn = _batch_norm(64 * width)
        self.linear = nn.Linear(64 * width, classes)
        normal_by_outputs(self)
        bound = math.sqrt(3 / (64 * width))
        nn.init.uniform_(self.linear.weight, -bound, bound)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to logits."""
        out = self.layer3(self.layer2(self.layer1(self.conv1(self.normalise(x)))))
        out = F.leaky_relu(self.bn(out), 0.1)
        logits: Tensor = self.linear(out.mean((2, 3)))
        return logits


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    """As TensorFlow's layers had it: eps 0.001; a decay of 0.9 is a momentum of 0.1."""
    return nn.BatchNorm2d(channels, eps=1e-3)


def _conv_same(inside: int, outside: int, stride: int) -> nn.Conv2d:
    """3x3; with a stride of 2 the block itself pads."""
    return nn.Conv2d(inside, outside, 3, stride, 0 if stride == 2 else 1, bias=False)
