"""Hypersphere embedding: logits that are cosines between features and classes (Pang et al., 2020)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from bench import UsageError, net
from defenses.nets import Floats, cnn, preactresnet18, resnet18, wrn
from defenses.nets_small import resnet20
from defenses.nets_wide import wrn_silu

BASES: dict[str, Callable[..., nn.Module]] = {
    "cnn": cnn,
    "resnet18": resnet18,
    "resnet20": resnet20,
    "preactresnet18": preactresnet18,
    "wrn-28-10": partial(wrn, depth=28, width=10),
    "wrn-34-10": partial(wrn, depth=34, width=10),
    "wrn-34-20": partial(wrn, depth=34, width=20),
    "wrn-28-10-silu": partial(wrn_silu, depth=28, width=10),
}


@net(paper="arXiv:2002.08619")
def he(
    *,
    classes: int,
    channels: int,
    size: int,
    net: Literal[
        "cnn", "resnet18", "resnet20", "preactresnet18", "wrn-28-10", "wrn-34-10", "wrn-34-20", "wrn-28-10-silu"
    ] = "resnet18",
    s: float = 10.0,
    mean: Floats = (),
    std: Floats = (),
) -> nn.Module:
    """A net whose logits are s times the cosines between its features and a vector for each class, without biases.

    The module's `scale` is s: logits / scale are the cosines.  A margin is the training's own.
    """
    if s <= 0:
        raise UsageError(f"he(s={s}): expected a scale above 0")
    return embedded(BASES[net](classes=classes, channels=channels, size=size, mean=mean, std=std), s)


def embedded(module: nn.Module, scale: float) -> nn.Module:
    """The same net with its last linear layer replaced by Cosine, under the same name."""
    *_, (name, head) = ((n, m) for n, m in module.named_modules() if isinstance(m, nn.Linear))
    module.set_submodule(name, Cosine(head.in_features, head.out_features, scale))
    module.scale = scale  # type: ignore[assignment]  # a number, which torch keeps as it is
    return module


class Cosine(nn.Linear):
    """scale x cosine(features, weight of the class): (N, D) to (N, K).

    As in the authors' code the gradient does not pass through the norms of the weights, which in training mode are
    made 1 again at each forward.
    """

    def __init__(self, features: int, classes: int, scale: float) -> None:
        super().__init__(features, classes, bias=False)
        self.scale = scale

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  as torch names it
        """Features to logits."""
        if self.training:
            # Behind autograd's back: a second forward before the backward of the first changes rounding alone.
            self.weight.data.copy_(F.normalize(self.weight.detach()))
        lengths = self.weight.detach().norm(dim=1, keepdim=True).clamp_min(1e-12)
        return self.scale * F.linear(F.normalize(input), self.weight / lengths)
