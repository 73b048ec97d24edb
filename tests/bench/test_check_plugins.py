"""bench check: what each broken plugin is told, and that a sound one is told nothing."""

from __future__ import annotations

import json

import pytest

from bench.check_plugins import check
from bench.faults import Findings, places
from bench.records import TrainingRecord

BAD = '''"""Plugins that break their contract, one way each."""
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import Batch, Course, Dataset, Draws, Model, Part, ThreatModel, TrainJob
from bench import attack, corruption, dataset, defense, fit, net


@attack(norms=("linf",), access="scores", cost=lambda: (0, 0))
def global_noise(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws) -> Tensor:
    """Takes its noise from torch."""
    return threat.project(x + float(threat.eps) * torch.randn_like(x), x)


@attack(norms=("linf",), access="scores", cost=lambda: (0, 0))
def batch_mean(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws) -> Tensor:
    """Moves towards the mean of the batch."""
    return threat.project(x + float(threat.eps) * (x.mean(0, keepdim=True) - x).sign(), x)


@attack(norms=("linf",), access="scores", cost=lambda: (0, 0))
def by_place(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws) -> Tensor:
    """Does more for the images that come first."""
    reach = 1 / (1 + torch.arange(len(x))).view(-1, 1, 1, 1)
    return threat.project(x + float(threat.eps) * reach, x)


@attack(norms=("linf",), access="gradients", cost=lambda: (1, 1))
def spends(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws) -> Tensor:
    """Takes ten passes and declares one."""
    for _ in range(10):
        _, _, grad = model.gradient(x, y, lambda z, y: F.cross_entropy(z, y, reduction="none"))
    return threat.project(x + float(threat.eps) * threat.uphill(grad), x)


@attack(norms=("linf",), access="scores", cost=lambda: (0, 0))
def overwrites(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws) -> Tensor:
    """Works in place."""
    return x.add_(float(threat.eps) / 2).clamp_(0, 1)


@attack(norms=("linf",), access="scores", cost=lambda: (0, 0))
def squeezes(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws) -> Tensor:
    """Loses an axis of length one."""
    return x.squeeze(0)


@attack(norms=("linf",), access="scores", cost=lambda: (1, 0))
def three(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws) -> Tensor:
    """Reads the third logit."""
    model(x).sort(1).values[:, -3]
    return x


@attack(norms=("linf",), access="scores", cost=lambda: (0, 0))
def moves_at_zero(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws) -> Tensor:
    """Always moves by a tenth."""
    return (x + 0.1).clamp(0, 1)


@corruption()
def global_dust(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Takes its dust from torch."""
    return (x + severity * 0.01 * torch.rand_like(x)).clamp(0, 1)


@corruption()
def too_bright(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Leaves the box."""
    return x + 0.2 * severity


@corruption()
def nothing(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Does nothing."""
    return x


@corruption()
def dust(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Is as it should be."""
    return (x + severity * 0.02 * draws.uniform(*x.shape[1:])).clamp(0, 1)


@corruption(unfit=lambda shape: "it is for images of 1,000 pixels a side")
def huge(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Fits nothing here."""
    return x


@net()
def forgets(*, classes: int, channels: int, size: int) -> nn.Module:
    """Keeps a drawn mask outside its weights."""
    class Forgets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(channels * size * size, classes)
            self.mask = (torch.rand(channels * size * size) > 0.5).float()
        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.flatten(1) * self.mask)
    return Forgets()


@net()
def one_class_short(*, classes: int, channels: int, size: int) -> nn.Module:
    """Gives a logit too few."""
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes - 1))


@net()
def soft(*, classes: int, channels: int, size: int) -> nn.Module:
    """Gives probabilities."""
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes), nn.Softmax(1))


@defense()
def unseeded(job: TrainJob, *, epochs: int = 5) -> nn.Module:
    """Adds noise that no seed knows."""
    def loss(model: nn.Module, feed: Batch) -> Tensor:
        noise = torch.empty_like(feed.x).uniform_(generator=torch.Generator().manual_seed(torch.seed() % 2**31))
        return F.cross_entropy(model(feed.x + 0.1 * noise), feed.y)
    return fit(job, job.net(), loss, Course(epochs=epochs, lr=0.1, batch=64, select="clean"))


@defense()
def seedless(job: TrainJob) -> nn.Module:
    """Gives one model for all seeds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return job.build()


def _parts(*shares):
    rng = np.random.RandomState(0)
    x, y = rng.randint(0, 256, (400, 1, 4, 4), np.uint8), np.arange(400) % 4
    return [Part(x[a:b], y[a:b]) for a, b in shares]


@dataset(threat="linf:0.1")
def leaky(root) -> Dataset:
    """Tests on what it trains on."""
    return Dataset("leaky", *_parts((0, 300), (300, 350), (200, 400)), tuple("abcd"))


@dataset(threat="linf:0.1")
def dark(root) -> Dataset:
    """Has its pixels in [0, 1] already."""
    return Dataset("dark", *(Part(p.x // 255, p.y) for p in _parts((0, 300), (300, 350), (350, 400))), tuple("abcd"))
'''


@pytest.fixture
def bad(place, tmp_path):
    """A place that knows them."""
    from dataclasses import replace

    (tmp_path / "bad_plugins.py").write_text(BAD)
    return replace(place, plugin_files=(*place.plugin_files, str(tmp_path / "bad_plugins.py")))


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("global-noise", "seed", "differ between two runs of one seed"),
        ("batch-mean", "batch", "differ when images come one at a time"),
        ("by-place", "batch", "differ when images come"),
        ("spends", "cost", "spends 10 forwards and 10 backwards on an image that never falls, and declares 1 and 1"),
        ("overwrites", "writes", "writes into the images"),
        ("squeezes", "batch", "expected images of shape (1, 1, 8, 8)"),
        ("three", "contract", "IndexError"),
        ("moves-at-zero", "eps-0", "it leaves the ball linf:0 by 0.1"),
        ("leaves-ball", "contract", "image 7: it leaves the ball"),
        ("gives-nan", "contract", "image 3: it has pixels that are not numbers"),
        ("peeks", "contract", "declares access='scores' and asked for a gradient"),
        ("global_dust", "seed", "differ of one seed in two runs"),
        ("too_bright", "range", "leaves [0, 1] by"),
        ("nothing", "idle", "changes nothing"),
        ("forgets", "rebuild", "a second one with the same weights answers differently"),
        ("one-class-short", "classes", "gives 9 logits for 10 classes"),
        ("soft", "distribution", "probabilities, not with logits"),
        ("moody", "mixes", "depends on the images beside it"),
        ("unseeded", "seed", "two trainings of one seed end in other weights"),
        ("seedless", "one-seed", "seeds 0 and 1 end in the same weights"),
        ("stranger", "contract", "stranger gave a module that is not the net"),
        ("leaky", "leak", "100 images of its test part are in its"),
        ("dark", "range", "0 and 1 of 255"),
    ],
)
def test_what_is_wrong_is_said_with_where_why_and_how(bad, name, code, said):
    """Each plugin breaks one promise, and is told which."""
    (found,) = check(name, bad, "digits")
    faults = {fault.code: fault for fault in found.faults}
    assert code in faults, found.lines()
    fault = faults[code]
    assert said in fault.what
    assert all((fault.where, fault.why, fault.mend))
    assert "bad_plugins.py:" in found.place or "tiny.py:" in found.place


@pytest.mark.parametrize(
    "name", ["fgsm", "pgd(steps=3, keep='any')", "clean", "walks", "slow", "dust", "tiny", "noisy", "cnn", "digits"]
)
def test_what_is_sound_is_told_nothing(bad, name):
    """Attacks of both goals, a corruption, nets (one that says it is random) and a data set."""
    (found,) = check(name, bad, "digits")
    assert found.faults == []
    assert found.passed


def test_a_defense_with_its_own_preset_is_tried_in_small(bad):
    """Standard training keeps its seed, and its model raises nothing."""
    (found,) = check("defense:standard", bad, "digits")
    assert found.faults == [], found.lines()
    assert found.passed == ["it trains", "one seed, one model", "its model raises no doubt"]


def test_what_cannot_be_checked_is_named(bad):
    """A corruption that fits no shape, an attack that needs the weights of another model."""
    (corruption,) = check("huge", bad, "digits")
    assert (corruption.passed, corruption.faults) == ([], [])
    assert corruption.skipped == ["it is for images of 1,000 pixels a side"]
    (transfer,) = check("transfer(surrogate='abc')", bad, "digits")
    assert transfer.skipped == ["it needs the weights of another model (surrogate)"]


def test_weights_are_found_by_the_beginning_of_their_hash(bench, tmp_path):
    """Exit 1 and the doubt where they raise one, else 0; and 2 where nothing is called so."""
    plugin = ("--plugin", "bad_plugins.py")
    (tmp_path / "bad_plugins.py").write_text(BAD)
    for net, code in (("soft", 1), ("cnn", 0)):
        words = ("--columns", "clean", "-n", "20", "--ledger", net, "--executor", "inline", *plugin)
        assert bench("run", "--defense", "seedless", "--net", net, *words).returncode == 0
        from bench.ledger import Ledger

        (made,) = (d for d in Ledger(tmp_path / net).all() if isinstance(d, TrainingRecord))
        done = bench("check", made.weights["best"][:9], "--ledger", net, *plugin, "--json")
        assert done.returncode == code, done.stderr
        document = json.loads(done.stdout)
        assert document["exit_code"] == code
        (found,) = document["found"]
        assert found["kind"] == "weights"
        assert [f["code"] for f in found["faults"]] == (["distribution"] if code else [])
    unknown = bench("check", "fgsn")
    assert unknown.returncode == 2
    assert "there is no attack or defense or net or corruption or dataset 'fgsn'" in unknown.stderr
    assert "did you mean 'fgsm'?" in unknown.stderr
    assert bench("check", "net:fgsm").returncode == 2
    missing = bench("check", "checkpoint(path='no.pth')", "--net", "cnn")
    assert missing.returncode in {2, 4}
    assert "no.pth" in missing.stderr
    assert bench("check", "huge", *plugin).returncode == 4


def test_findings_read_like_a_compilers_messages():
    """What, where, why, mend; a kind of fault is told once; few images are named."""
    found = Findings("attack", "wobbly", "wobbly.py:3")
    for what in ("one", "two"):
        found.fault("batch", what, "here", "since", "thus")
    found.passed.append("it runs")
    assert found.lines() == [
        "attack wobbly  (wobbly.py:3)", "  wrong[batch]: one", "    where: here", "    why:   since",
        "    mend:  thus", "  1 check passed: it runs",
    ]  # fmt: skip
    assert places([4]) == "image 4"
    assert places(range(8)) == "images 0, 1, 2, 3, 4 and 3 more"
