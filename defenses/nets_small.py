"""Small nets: those of MNIST papers and of public MNIST weights, and the ResNet-20 of CIFAR."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import torch
from torch import Tensor, nn

from bench import UsageError, net
from defenses.nets import BasicBlock, Floats, conv3x3, normalisation, stage


@net()
def softmax_regression(*, classes: int, channels: int, size: int, mean: Floats = (), std: Floats = ()) -> nn.Module:
    """A linear model, whose distance to every class has a closed form; for any size."""
    layers = OrderedDict(
        normalise=normalisation(channels, mean, std),
        flat=nn.Flatten(),
        linear=nn.Linear(channels * size * size, classes),
    )
    return nn.Sequential(layers)


@net(paper="arXiv:1901.08573")
def small_cnn(*, classes: int, channels: int, size: int, mean: Floats = (), std: Floats = ()) -> nn.Module:
    """The MNIST net of TRADES, in the shape of Carlini and Wagner's (arXiv:1608.04644); for any size from 16."""
    return SmallCnn(classes, channels, _side("small-cnn", size), normalisation(channels, mean, std))


@net(paper="arXiv:2006.12792")
def small_cnn_bn(*, classes: int, channels: int, size: int, mean: Floats = (), std: Floats = ()) -> nn.Module:
    """small-cnn with batch normalisation after each convolution, as in the public MNIST weights of RayS."""
    return SmallCnnBn(classes, channels, _side("small-cnn-bn", size), normalisation(channels, mean, std))


@net(paper="arXiv:1706.06083")
def mnist_cnn(*, classes: int, channels: int, size: int, mean: Floats = (), std: Floats = ()) -> nn.Module:
    """The MNIST net of Madry et al.: two 5x5 convolutions and 1,024 units; for any size."""
    return MnistCnn(classes, channels, size, normalisation(channels, mean, std))


@net(paper="arXiv:1512.03385")
def resnet20(*, classes: int, channels: int, size: int, mean: Floats = (), std: Floats = ()) -> nn.Module:
    """The ResNet-20 made for CIFAR-10, whose shortcuts have no parameters; for any size."""
    return CifarResNet(classes, channels, 3, normalisation(channels, mean, std))


def _side(name: str, size: int) -> int:
    """The side of the last map: two unpadded 3x3 convolutions and a pool, twice."""
    side = ((size - 4) // 2 - 4) // 2
    if side < 1:
        raise UsageError(f"{name} needs images of 16x16 or more, and they are {size}x{size}; cnn takes any from 4x4")
    return side


class SmallCnn(nn.Module):
    """Convolutions 32, 32, pool, 64, 64, pool, then linear 200, dropout, 200, classes; named as in TRADES' weights.

    It starts as there: convolutions as He et al. have them, biases zero, and the last layer zero.
    """

    cam_layer = "feature_extractor.relu4"

    def __init__(self, classes: int, channels: int, side: int, normalise: nn.Module) -> None:
        super().__init__()
        self.normalise = normalise
        self.feature_extractor = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(channels, 32, 3), relu1=nn.ReLU(), conv2=nn.Conv2d(32, 32, 3), relu2=nn.ReLU(),
                maxpool1=nn.MaxPool2d(2),
                conv3=nn.Conv2d(32, 64, 3), relu3=nn.ReLU(), conv4=nn.Conv2d(64, 64, 3), relu4=nn.ReLU(),
                maxpool2=nn.MaxPool2d(2),
            )
        )  # fmt: skip
        self.classifier = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(64 * side * side, 200), relu1=nn.ReLU(), drop=nn.Dropout(0.5),
                fc2=nn.Linear(200, 200), relu2=nn.ReLU(), fc3=(last := nn.Linear(200, classes)),
            )
        )  # fmt: skip
        for module in self.feature_extractor:
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to logits."""
        logits: Tensor = self.classifier(self.feature_extractor(self.normalise(x)).flatten(1))
        return logits


class SmallCnnBn(nn.Module):
    """The maps of SmallCnn with BN before each ReLU, and dropout after both hidden layers; torch's own start."""

    cam_layer = "features.12"  # the ReLU after the last convolution

    def __init__(self, classes: int, channels: int, side: int, normalise: nn.Module) -> None:
        super().__init__()
        self.normalise = normalise
        layers: list[nn.Module] = []
        for inside, outside in ((channels, 32), (32, 64)):
            for a, b in ((inside, outside), (outside, outside)):
                layers += [nn.Conv2d(a, b, 3), nn.BatchNorm2d(b), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.fc1 = nn.Linear(64 * side * side, 200)
        self.fc2 = nn.Linear(200, 200)
        self.fc3 = nn.Linear(200, classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to logits."""
        out = self.features(self.normalise(x)).flatten(1)
        out = self.dropout(torch.relu(self.fc1(out)))
        logits: Tensor = self.fc3(self.dropout(torch.relu(self.fc2(out))))
        return logits


class MnistCnn(nn.Sequential):
    """conv 32, ReLU, pool, conv 64, ReLU, pool, linear 1024, ReLU, linear; nothing is cut off at the edges.

    Weights start normal with deviation 0.1, drawn anew beyond 0.2, and biases at 0.1.
    """

    cam_layer = "relu2"

    def __init__(self, classes: int, channels: int, size: int, normalise: nn.Module) -> None:
        side = -(-size // 4)  # rounded up
        super().__init__(
            OrderedDict(
                normalise=normalise,
                conv1=nn.Conv2d(channels, 32, 5, padding=2), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2, ceil_mode=True),
                conv2=nn.Conv2d(32, 64, 5, padding=2), relu2=nn.ReLU(), pool2=nn.MaxPool2d(2, ceil_mode=True),
                flat=nn.Flatten(), fc1=nn.Linear(64 * side * side, 1024), relu3=nn.ReLU(),
                fc2=nn.Linear(1024, classes),
            )
        )  # fmt: skip
        for name, values in self.named_parameters():
            if name.endswith("bias"):
                nn.init.constant_(values, 0.1)
            else:
                nn.init.trunc_normal_(values, std=0.1, a=-0.2, b=0.2)


class CifarResNet(nn.Module):
    """Stem of 16, three stages of BasicBlocks (16, 32, 64) whose shortcuts pad, global average, linear."""

    cam_layer = "layer3"

    def __init__(self, classes: int, channels: int, blocks: int, normalise: nn.Module) -> None:
        super().__init__()
        block = partial(BasicBlock, padded=True)
        self.normalise = normalise
        self.conv1 = conv3x3(channels, 16, 1)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = stage(block, blocks, 16, 16, 1)
        self.layer2 = stage(block, blocks, 16, 32, 2)
        self.layer3 = stage(block, blocks, 32, 64, 2)
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to logits."""
        out = torch.relu(self.bn1(self.conv1(self.normalise(x))))
        out = self.layer3(self.layer2(self.layer1(out)))
        logits: Tensor = self.linear(out.mean((2, 3)))
        return logits
