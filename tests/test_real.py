"""Real weights on real images, with figures known from elsewhere; needs the folder `shared` beside the checkout."""

import json
import shutil

import numpy as np
import pytest

from tests.conftest import SHARED as ROOT

SHARED = ROOT / "data"
NET = '''
"""The net of a public checkpoint (Wong et al., 2020, fast_adversarial), as a stranger would write it."""
from torch import nn
from bench import net

@net(paper="arXiv:2001.03994")
def fast_mnist(*, classes: int, channels: int, size: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * (size // 4) ** 2, 100), nn.ReLU(), nn.Linear(100, classes),
    )
'''


def robust_mnist(tmp_path):
    """The words that name the checkpoint and MNIST, which is laid out in the temporary folder."""
    raw = tmp_path / "datasets" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (SHARED / "mnist").glob("*.gz"):
        shutil.copy(file, raw)
    (tmp_path / "fast_mnist.py").write_text(NET)
    weights = SHARED / "checkpoints" / "mnist_fast_adversarial_pgd.pth"
    return (
        "--defense", f"checkpoint(path={str(weights)!r})", "--net", "fast-mnist", "--plugin", "fast_mnist.py",
        "--dataset", "mnist", "--executor", "inline", "--json",
    )  # fmt: skip


@pytest.mark.shared
def test_a_public_checkpoint_has_its_published_accuracy(bench, tmp_path):
    """Adversarially trained MNIST weights: 98.99 % of 10,000 clean; about 92 % of the first 200 under PGD at 0.3."""
    common = robust_mnist(tmp_path)
    clean, robust = (
        json.loads(done.stdout)["board"]["sections"][0]["rows"][0]["numbers"]
        for done in (
            bench("run", *common, "--columns", "clean"),
            bench("run", *common, "--columns", "pgd-20", "-n", "200"),
        )
    )
    assert clean["clean"] == clean["clean"] | {"n": 10_000, "standing": 9_899}
    assert robust["pgd-20"]["n"] == 200
    assert 0.90 <= robust["pgd-20"]["accuracy"] <= 0.95


@pytest.mark.shared
@pytest.mark.slow
def test_autoattack_leaves_what_the_reference_leaves(bench, tmp_path):
    """Of the first 128 images the reference leaves 114; seeds, ours and its own, differ by an image or two."""
    done = bench("run", *robust_mnist(tmp_path), "--suite", "standard", "--threat", "linf:0.3", "-n", "128")
    assert done.returncode == 0, done.stderr
    numbers = json.loads(done.stdout)["board"]["sections"][0]["rows"][0]["numbers"]
    assert numbers["clean"]["standing"] == 128
    assert 112 <= numbers["aa"]["standing"] <= 115
    checked = json.loads(bench("verify", "--plugin", "fast_mnist.py", "--json").stdout)
    assert checked["hold"] == checked["records"] >= 5 and checked["cost_passes"] >= 200 * checked["forwards"]


@pytest.mark.shared
def test_a_public_colour_net_has_its_known_accuracies(bench, tmp_path):
    """Provably trained CIFAR-10 weights: 31.2 % clean, 29.0 % under PGD-20 at 2/255 and 24.4 % at 8/255."""
    images = np.load(SHARED / "cifar10" / "lossless_subset.npz")
    np.savez(
        tmp_path / "lossless.npz",
        x_train=images["x_train"][:100], y_train=images["y_train"][:100].astype(np.int64),
        x_test=images["x_test"], y_test=images["y_test"].astype(np.int64), classes=np.array(list("0123456789")),
    )  # fmt: skip
    weights = SHARED / "checkpoints" / "cifar10_convex_small_8px.pth"
    net = "cnn(mean=(0.485, 0.456, 0.406), std=(0.225, 0.225, 0.225))"
    found = {}
    for eps in ("2/255", "8/255"):
        done = bench(
            "run", "--defense", f"checkpoint(path={str(weights)!r})", "--net", net, "--dataset", "npz:lossless.npz",
            "--threat", f"linf:{eps}", "--columns", "clean, pgd-20", "-n", "1000", "--executor", "inline", "--json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (row,) = json.loads(done.stdout)["board"]["sections"][0]["rows"]
        found[eps] = row["numbers"]["pgd-20"]["accuracy"]
        assert row["numbers"]["clean"]["accuracy"] == pytest.approx(0.312, abs=0.003)
    assert found == {"2/255": pytest.approx(0.290, abs=0.005), "8/255": pytest.approx(0.244, abs=0.005)}
