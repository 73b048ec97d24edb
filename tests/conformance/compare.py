"""Compare attacks as they are here with other people's, on public weights: writes docs/conformance.md.

    make conformance CONFORMANCE_DATA=DIR CONFORMANCE_WEIGHTS=DIR

AutoAttack beside pyautoattack, and others beside foolbox and adversarial-library, where these are installed.  The
folder of data holds MNIST/raw, and cifar-10-batches-py or a file cifar10.npz with the first test images (x_test,
y_test); that of weights the two files named in scene.py.  What has been run is kept under results/conformance, so that
an interrupted comparison goes on; other versions of an attack, a library or torch are run again.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from pyautoattack import AutoAttack

from attacks.suites import AA
from bench.evaluate import Subject, images, judge
from bench.registry import plugins
from bench.victim import be_exact, tile_size
from tests.conformance import libraries
from tests.conformance.scene import CHECKPOINTS, CPU, IMAGES, Counted, Scene, kept, load, places

ROOT = Path(__file__).parents[2]
SEEDS = range(5)
NAMES = [text.partition("(")[0] for text in AA.attacks]


@dataclass(frozen=True)
class Outcome:
    """What one run left, and what it spent."""

    standing: list[int]  # places of the images that are read right after it
    forwards: int
    backwards: int
    seconds: float  # of CPU


def native(scene: Scene, attacks: tuple[str, ...], seed: int) -> Outcome:
    """Our attacks one after another, each on what stands, as a column is run; the judge's passes included."""
    subject, start = Subject(scene.module, tile_size(CPU, scene.module)), time.process_time()
    standing, spent = torch.arange(len(scene.part)), [0, 0]
    for text in ("clean", *attacks):
        threat = None if text == "clean" else scene.threat
        recipe = plugins().parse("attack", text)
        done = judge(subject, recipe, threat, scene.part, standing, seed=seed, batch=IMAGES, device=CPU)
        standing = standing[~done.fell]
        spent[0] += int(done.forwards.sum())
        spent[1] += int(done.backwards.sum())
    return Outcome(standing.tolist(), *spent, time.process_time() - start)


def reference(scene: Scene, names: tuple[str, ...], seed: int) -> Outcome:
    """The reference's standard version, cut down to the attacks of these names, on all images in one batch."""
    counted, start = Counted(scene.module), time.process_time()
    run = AutoAttack(counted, norm="Linf", eps=float(scene.threat.eps), seed=seed, version="standard")
    run.attacks_to_run = list(names)
    x, y = images(scene.part, torch.arange(len(scene.part)), CPU)
    moved, predicted = run.run_standard_evaluation(x, y, batch_size=IMAGES)
    seconds = time.process_time() - start
    if not scene.threat.holds(scene.threat.size(moved.double() - x.double())).all():
        sys.exit(f"the reference left the ball {scene.threat}")
    return Outcome((predicted == y).nonzero()[:, 0].tolist(), *counted.counts, seconds)


def outcomes(scene: Scene, cache: Path) -> dict[tuple[str, str, int], Outcome]:
    """Every run of a checkpoint, by tool, attack and seed: the column over all seeds, and its members at seed 0."""
    found = {}
    members = dict(zip(NAMES, AA.attacks, strict=True))
    for attack, seed in [("aa", seed) for seed in SEEDS] + [(name, 0) for name in NAMES]:
        names = tuple(NAMES) if attack == "aa" else (attack,)
        texts = tuple(members[name] for name in names)
        version = importlib.metadata.version("pyautoattack")
        tile = f"tiles of {tile_size(CPU, scene.module)}"
        keys = [*(plugins().parse("attack", text).key for text in texts), tile]
        found["reference", attack, seed] = kept(
            cache, scene.named("reference", [*names, version], seed), partial(reference, scene, names, seed), Outcome
        )
        found["native", attack, seed] = kept(
            cache, scene.named("native", keys, seed), partial(native, scene, texts, seed), Outcome
        )
    return found


def section(scene: Scene, found: dict[tuple[str, str, int], Outcome]) -> list[str]:
    """What the page says about a checkpoint."""
    checkpoint, right = scene.checkpoint, len(native(scene, (), 0).standing)
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
    """Run what has not been run, and write the page, or its last section alone."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("data", "weights"):
        folder = os.environ.get(f"CONFORMANCE_{name.upper()}")
        parser.add_argument(f"--{name}", type=Path, default=folder, required=not folder, help=f"folder of {name}")
    parser.add_argument("--cache", type=Path, default=ROOT / "results" / "conformance")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "conformance.md")
    parser.add_argument("--libraries", action="store_true", help="write only the section on other libraries anew")
    options = parser.parse_args()
    be_exact(threads=1)
    first, *more = (partial(load, checkpoint, options.data, options.weights) for checkpoint in CHECKPOINTS)
    mnist = first()
    if options.libraries:
        rest = options.page.read_text().partition(f"\n{libraries.TITLE}\n")[0]
    else:
        rest = page([section(scene, outcomes(scene, options.cache)) for scene in (mnist, *(other() for other in more))])
    last = libraries.section(mnist, options.cache, machine())
    options.page.write_text("\n".join([rest.rstrip("\n"), "", *last, ""]))


if __name__ == "__main__":
    main()
