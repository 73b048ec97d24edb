"""Compare AutoAttack as it is here with the reference, pyautoattack, on public weights: writes docs/conformance.md.

    make conformance CONFORMANCE_DATA=DIR CONFORMANCE_WEIGHTS=DIR

The folder of data holds MNIST/raw, and cifar-10-batches-py or a file cifar10.npz with the first test images (x_test,
y_test); that of weights the two files named below.  What has been run is kept under results/conformance, so that an
interrupted comparison goes on; other versions of an attack, the reference or torch are run again.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from attacks.suites import AA
from bench import Part, ThreatModel
from bench.evaluate import Subject, images, judge
from bench.registry import plugins
from bench.victim import be_exact, freeze, tile_size
from data.cifar import cifar10
from data.mnist import mnist

ROOT = Path(__file__).parents[2]
SEEDS = range(5)
IMAGES = 128
CPU = torch.device("cpu")
NAMES = [text.partition("(")[0] for text in AA.attacks]


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


@dataclass(frozen=True)
class Outcome:
    """What one run left, and what it spent."""

    standing: list[int]  # places of the images that are read right after it
    forwards: int
    backwards: int
    seconds: float  # of CPU


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

    def native(self, attacks: tuple[str, ...], seed: int) -> Outcome:
        """Our attacks one after another, each on what stands, as a column is run; the judge's passes included."""
        subject, start = Subject(self.module, tile_size(CPU, self.module)), time.process_time()
        standing, spent = torch.arange(len(self.part)), [0, 0]
        for text in ("clean", *attacks):
            threat = None if text == "clean" else self.threat
            recipe = plugins().parse("attack", text)
            done = judge(subject, recipe, threat, self.part, standing, seed=seed, batch=IMAGES, device=CPU)
            standing = standing[~done.fell]
            spent[0] += int(done.forwards.sum())
            spent[1] += int(done.backwards.sum())
        return Outcome(standing.tolist(), *spent, time.process_time() - start)

    def reference(self, names: tuple[str, ...], seed: int) -> Outcome:
        """The reference's standard version, cut down to the attacks of these names, on all images in one batch."""
        counted, start = Counted(self.module), time.process_time()
        run = AutoAttack(counted, norm="Linf", eps=float(self.threat.eps), seed=seed, version="standard")
        run.attacks_to_run = list(names)
        x, y = images(self.part, torch.arange(len(self.part)), CPU)
        moved, predicted = run.run_standard_evaluation(x, y, batch_size=IMAGES)
        seconds = time.process_time() - start
        if not self.threat.holds(self.threat.size(moved.double() - x.double())).all():
            sys.exit(f"the reference left the ball {self.threat}")
        return Outcome((predicted == y).nonzero()[:, 0].tolist(), *counted.counts, seconds)


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


def kept(cache: Path, name: dict[str, Any], run: Callable[[], Outcome]) -> Outcome:
    """The outcome of that name, run now if it was not run before."""
    text = json.dumps(name, sort_keys=True)
    file = cache / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if not file.exists():
        sys.stderr.write(f"{text} …\n")
        outcome = run()
        cache.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps({"name": name, "outcome": asdict(outcome)}))
        part.replace(file)
    return Outcome(**json.loads(file.read_text())["outcome"])


def outcomes(scene: Scene, cache: Path) -> dict[tuple[str, str, int], Outcome]:
    """Every run of a checkpoint, by tool, attack and seed: the column over all seeds, and its members at seed 0."""
    found = {}
    members = dict(zip(NAMES, AA.attacks, strict=True))
    for attack, seed in [("aa", seed) for seed in SEEDS] + [(name, 0) for name in NAMES]:
        names = tuple(NAMES) if attack == "aa" else (attack,)
        texts = tuple(members[name] for name in names)
        version = importlib.metadata.version("pyautoattack")
        keys = [plugins().parse("attack", text).key for text in texts]
        reference, native = partial(scene.reference, names, seed), partial(scene.native, texts, seed)
        found["reference", attack, seed] = kept(cache, scene.named("reference", [*names, version], seed), reference)
        found["native", attack, seed] = kept(cache, scene.named("native", keys, seed), native)
    return found


def section(scene: Scene, found: dict[tuple[str, str, int], Outcome]) -> list[str]:
    """What the page says about a checkpoint."""
    checkpoint, right = scene.checkpoint, len(scene.native((), 0).standing)
    ours, theirs = ([set(found[tool, "aa", s].standing) for s in SEEDS] for tool in ("native", "reference"))
    changing = set.union(*theirs) - set.intersection(*theirs)
    differing = ours[0] ^ theirs[0]
    lines = [
        f"## {checkpoint.name}, {checkpoint.threat}",
        "",
        f"Weights: {checkpoint.origin}; here `{checkpoint.file}`, sha256 `{checkpoint.sha256}`,",
        f"as the net `{checkpoint.net}`.",
        f"The first {len(scene.part)} test images, of which {right} are read right; the authors' AutoAttack is known",
        f"to leave {checkpoint.official} standing.",
        "",
        "| images left standing | " + " | ".join(f"seed {s}" for s in SEEDS) + " |",
        "|---|" + "---|" * len(SEEDS),
        "| `aa` | " + " | ".join(str(len(s)) for s in ours) + " |",
        "| reference | " + " | ".join(str(len(s)) for s in theirs) + " |",
        "",
        f"- Images that change among the reference's seeds: {places(changing)}.",
        f"- Images that change among ours: {places(set.union(*ours) - set.intersection(*ours))}.",
        f"- Images that do not change there, and on which `aa` at seed 0 differs: {places(differing - changing)}.",
        "",
        "| member alone, seed 0 | left by ours | left by the reference | images that differ |",
        "|---|---|---|---|",
    ]
    for name in NAMES:
        mine, other = (set(found[tool, name, 0].standing) for tool in ("native", "reference"))
        lines.append(f"| {name} | {len(mine)} | {len(other)} | {places(mine ^ other)} |")
    lines += ["", "| spent, mean of the seeds | forwards | backwards | CPU seconds |", "|---|---|---|---|"]
    for label, tool in (("`aa`", "native"), ("reference", "reference")):
        runs = [found[tool, "aa", s] for s in SEEDS]
        means = [sum(getattr(r, field) for r in runs) / len(runs) for field in ("forwards", "backwards", "seconds")]
        lines.append(f"| {label} | {means[0]:,.0f} | {means[1]:,.0f} | {means[2]:.0f} |")
    return lines


def places(found: set[int]) -> str:
    """Places in the test part, in words."""
    return ", ".join(map(str, sorted(found))) or "none"


def page(sections: list[list[str]]) -> str:
    """The whole page."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("pyautoattack", "torch"))
    return "\n".join(
        [
            "# Conformance",
            "",
            "AutoAttack as it is here (the column `aa`) beside `pyautoattack`, on public weights.  Written by",
            "`make conformance` (what it needs: `tests/conformance/compare.py`); do not edit.",
            "",
            "Ours draws the randomness of every image by itself, the reference that of a whole batch, so the two agree",
            "image for image only where the seed decides nothing.  The reference saw all images in one batch.  Passes",
            "are those of all images together; ours include the judge's, the reference's its own checks.",
            f"Measured on one thread of {machine()}, with {versions}.",
            *(line for lines in sections for line in ("", *lines)),
            "",
        ]
    )


def machine() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"an {names[0]} ({platform.machine()})" if names else platform.machine()


def main() -> None:
    """Run what has not been run, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("data", "weights"):
        folder = os.environ.get(f"CONFORMANCE_{name.upper()}")
        parser.add_argument(f"--{name}", type=Path, default=folder, required=not folder, help=f"folder of {name}")
    parser.add_argument("--cache", type=Path, default=ROOT / "results" / "conformance")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "conformance.md")
    options = parser.parse_args()
    be_exact(threads=1)
    scenes = [load(checkpoint, options.data, options.weights) for checkpoint in CHECKPOINTS]
    options.page.write_text(page([section(scene, outcomes(scene, options.cache)) for scene in scenes]))


if __name__ == "__main__":
    main()
