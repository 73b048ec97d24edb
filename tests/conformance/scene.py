"""What the comparisons share: public weights with their test images, and runs that are kept."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from bench import Part, ThreatModel
from bench.registry import plugins
from bench.victim import freeze
from data.cifar import cifar10
from data.mnist import mnist

IMAGES = 128
CPU = torch.device("cpu")
Run = TypeVar("Run")


@dataclass(frozen=True)
class Checkpoint:
    """Public weights, and the threat that they are examined under."""

    name: str
    file: str
    sha256: str
    origin: str
    net: str
    threat: str
    official: int  # images that the authors' own AutoAttack left standing, on another machine


CHECKPOINTS = (
    Checkpoint(
        "MNIST", "mnist_fast_adversarial_pgd.pth", "877b74b1d2bf22a2ea958f7d8c892c02710e7c84627d14b44b1c67046fcd5a79",
        "the PGD-trained MNIST net of github.com/locuslab/fast_adversarial (Wong et al., 2020, arXiv:2001.03994)",
        "cnn", "linf:0.3", 114,
    ),
    Checkpoint(
        "CIFAR-10", "cifar10_convex_small_8px.pth", "f07c615f58616cbc7667974f146c4baa851bf0e71df8431a150abea8b7901f37",
        "`models_scaled/cifar_small_8px.pth` of github.com/locuslab/convex_adversarial, the first net of its cascade "
        "(provably trained, Wong et al., 2018, arXiv:1805.12514)",
        "cnn(mean=(0.485, 0.456, 0.406), std=(0.225, 0.225, 0.225))", "linf:8/255", 39,
    ),
)  # fmt: skip


class Counted(nn.Module):
    """A module that counts its passes, image by image."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.counts = module, [0, 0]

    def forward(self, x: Tensor) -> Tensor:
        """The module's logits."""
        self.counts[0] += len(x)
        logits: Tensor = self.module(x)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, grad: Tensor) -> None:
        self.counts[1] += len(grad)


@dataclass(frozen=True)
class Scene:
    """A checkpoint ready to be attacked."""

    checkpoint: Checkpoint
    module: nn.Module
    part: Part

    @property
    def threat(self) -> ThreatModel:
        """The threat."""
        return ThreatModel.parse(self.checkpoint.threat)

    def named(self, tool: str, run: list[str], seed: int) -> dict[str, Any]:
        """All that a run's outcome depends on."""
        where = {"weights": self.checkpoint.sha256, "test": self.part.hash, "threat": str(self.threat)}
        return where | {"tool": tool, "run": run, "seed": seed, "torch": torch.__version__}


def load(checkpoint: Checkpoint, data: Path, weights: Path) -> Scene:
    """The first test images, and the weights in their net."""
    content = (weights / checkpoint.file).read_bytes()
    if hashlib.sha256(content).hexdigest() != checkpoint.sha256:
        sys.exit(f"{weights / checkpoint.file} is not {checkpoint.origin}: its sha256 is another")
    state = torch.load(weights / checkpoint.file, weights_only=True, map_location="cpu")
    state = state["state_dict"][0] if "state_dict" in state else state
    part = first_images(checkpoint, data)
    recipe = plugins().parse("net", checkpoint.net)
    module = recipe.plugin.function(classes=10, channels=part.x.shape[1], size=part.x.shape[2], **recipe.settings)
    module.load_state_dict(state)
    return Scene(checkpoint, freeze(module, CPU), part)


def first_images(checkpoint: Checkpoint, data: Path) -> Part:
    """The first test images and their labels."""
    if checkpoint.name == "MNIST":
        test = mnist(data).test
    elif (file := data / "cifar10.npz").exists():
        arrays = np.load(file)
        test = Part(arrays["x_test"], arrays["y_test"].astype(np.int64))
    else:
        test = cifar10(data).test
    return Part(test.x[:IMAGES], test.y[:IMAGES])


def kept(cache: Path, name: dict[str, Any], run: Callable[[], Run], kind: type[Run]) -> Run:
    """The outcome of that name, a dataclass of that kind, run now if it was not run before."""
    text = json.dumps(name, sort_keys=True)
    file = cache / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if not file.exists():
        sys.stderr.write(f"{text} …\n")
        outcome = run()
        cache.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps({"name": name, "outcome": asdict(outcome)}))
        part.replace(file)
    return kind(**json.loads(file.read_text())["outcome"])


def places(found: set[int]) -> str:
    """Places in the test part, in words."""
    return ", ".join(map(str, sorted(found))) or "none"
