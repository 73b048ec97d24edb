"""AutoAttack beside its reference implementation on public weights: CPU seconds of both in one run, and passes.

The ratios and counts are in each benchmark's extra_info.  Needs the folder `shared` beside the checkout.
"""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.evaluate import Subject, judge
from bench.exam import Part
from bench.fast import hasten
from bench.registry import plugins
from bench.threat import ThreatModel
from bench.victim import be_exact, freeze, small, tile_size
from data.mnist import mnist
from tests.conftest import SHARED

CPU = torch.device("cpu")
MEMBERS = ("apgd-ce", "apgd-t", "fab-t", "square(queries=5000)")


def build(name, weights, **shape):
    """Two copies of a net with these weights: one for us, one that stays as torch has it."""
    recipe, nets = plugins().parse("net", name), []
    for _ in range(2):
        net = recipe.plugin(**shape, **recipe.settings)
        net.load_state_dict(weights)
        nets.append(net.eval())
    return freeze(nets[0], CPU), nets[1]


def undefended(_tmp_path):
    """The ResNet-18 that the reference brings as its example, and 64 CIFAR-10 images."""
    import pyautoattack

    images = np.load(SHARED / "data" / "cifar10" / "lossless_subset.npz")
    part = Part(images["x_test"][:64], images["y_test"][:64].astype(np.int64))
    weights = torch.load(Path(pyautoattack.__file__).parent / "examples" / "model_test.pt", map_location="cpu")
    return *build("resnet18", weights, classes=10, channels=3, size=32), part, "8/255"


def robust(tmp_path):
    """The adversarially trained MNIST net of Fast AT, and 128 images."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (SHARED / "data" / "mnist").glob("*.gz"):
        (raw / file.name).symlink_to(file)
    test = mnist(tmp_path).test
    path = SHARED / "data" / "checkpoints" / "mnist_fast_adversarial_pgd.pth"
    weights = torch.load(path, map_location="cpu")
    return *build("cnn", weights, classes=10, channels=1, size=28), Part(test.x[:128], test.y[:128]), "0.3"


def ours(subject, part, threat):
    """The cascade as a run asks it: places left standing, and forwards and backwards of all."""
    registry, standing, spent = plugins(), torch.arange(len(part)), [0, 0]
    for text in ("clean", *MEMBERS):
        attack = registry.parse("attack", text)
        asked = subject if attack.plugin.coarse else replace(subject, search=None)  # as a run asks
        verdict = judge(
            asked, attack, threat if text != "clean" else None, part, standing, seed=0, batch=512, device=CPU
        )
        standing = standing[~verdict.fell]
        spent = [s + int(p.sum()) for s, p in zip(spent, (verdict.forwards, verdict.backwards), strict=True)]
        if not len(standing):
            break
    return standing, spent


def theirs(net, part, eps):
    """The reference's standard evaluation: places left standing."""
    from pyautoattack import AutoAttack

    x, y = torch.tensor(part.x).float() / 255, torch.tensor(part.y)
    attack = AutoAttack(net, norm="Linf", eps=eps, version="standard", seed=0, device="cpu")
    found = attack.run_standard_evaluation(x, y, batch_size=len(y))
    found = found[0] if isinstance(found, tuple) else found
    with torch.no_grad():
        return (net(found).argmax(1) == y).nonzero()[:, 0]


def seconds(work):
    """CPU seconds, and what it gave."""
    started = time.process_time()
    found = work()
    return time.process_time() - started, found


@pytest.mark.shared
@pytest.mark.parametrize("scene", [undefended, robust], ids=["undefended", "robust"])
def test_cpu_seconds_over_the_reference(benchmark, tmp_path, scene):
    """On one thread each: exact and fast, with how many times as long the reference takes."""
    be_exact(1)
    mine, plain, part, eps = scene(tmp_path)
    threat, tile = ThreatModel.parse(f"linf:{eps}"), tile_size(CPU, mine)
    x = torch.tensor(part.x[:tile]).float() / 255
    fast = hasten(mine, x)
    subjects = {"exact": Subject(mine, tile), "fast": Subject(mine, tile, search=fast, blind=small(mine))}
    reference, left = seconds(lambda: theirs(plain, part, float(threat.eps)))
    benchmark.extra_info["reference"] = {"seconds": round(reference, 2), "standing": len(left)}
    for name, subject in subjects.items():
        spent, (standing, passes) = seconds(lambda subject=subject: ours(subject, part, threat))
        benchmark.extra_info[name] = {
            "seconds": round(spent, 2), "reference over ours": round(reference / spent, 2),
            "standing": len(standing), "forwards": passes[0], "backwards": passes[1],
        }  # fmt: skip
        assert abs(len(standing) - len(left)) <= 2
        assert spent < reference
    benchmark.pedantic(lambda: None, rounds=1)


def least(work, rounds):
    """The least of some CPU times, in seconds."""
    return min(seconds(work)[0] for _ in range(rounds))


@pytest.mark.shared
@pytest.mark.parametrize(
    "text",
    [
        "pgd(steps=100)",
        "apgd-ce",
        "apgd-t(targets=2)",
        "fab-t(targets=2)",
        "square(queries=1000)",
        "md",
        "fmn(steps=100)",
    ],
)
def test_cpu_seconds_over_raw_passes(benchmark, tmp_path, text):
    """A full tile of images that stand: the judge's whole work over what its counted passes take in plain torch.

    A raw pass is the bare net's forward, or its forward and the gradient of a loss to the images, on one tile.
    """
    be_exact(1)
    registry = plugins()
    mine, plain, part, eps = robust(tmp_path)
    threat, tile = ThreatModel.parse(f"linf:{eps}"), tile_size(CPU, mine)
    subject, everyone = Subject(mine, tile), torch.arange(len(part))
    strong = judge(subject, registry.parse("attack", "apgd-ce"), threat, part, everyone, seed=0, batch=512, device=CPU)
    standing = np.resize(everyone[~strong.fell].numpy(), tile)
    part = Part(part.x[standing], part.y[standing])
    x, y = torch.tensor(part.x).float() / 255, torch.tensor(part.y)

    def forward():
        with torch.no_grad():
            plain(x)

    def both():
        z = x.clone().requires_grad_()
        torch.autograd.grad(torch.nn.functional.cross_entropy(plain(z), y, reduction="sum"), z)

    attack = registry.parse("attack", text)
    if attack.plugin.goal == "minimum-norm":
        threat = ThreatModel.of_cell(threat.norm)

    def asked():
        return judge(subject, attack, threat, part, torch.arange(tile), seed=0, batch=512, device=CPU)

    verdict = asked()
    forwards, backwards = (int(p.sum()) / tile for p in (verdict.forwards, verdict.backwards))
    raw = least(forward, 30) * (forwards - backwards) + least(both, 30) * backwards
    ratio = least(asked, 2) / raw
    benchmark.extra_info["cpu over raw passes"] = round(ratio, 3)
    benchmark.pedantic(lambda: None, rounds=1)
    assert ratio < 1.15
