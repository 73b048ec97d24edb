"""Real weights on real images, with figures known from elsewhere; needs the folder `shared` beside the checkout."""

import json
import shutil
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared" / "data"
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


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data is not beside this checkout")
def test_a_public_checkpoint_has_its_published_accuracy(bench, tmp_path):
    """Adversarially trained MNIST weights: 98.99 % of 10,000 clean; about 92 % of the first 200 under PGD at 0.3."""
    raw = tmp_path / "datasets" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (SHARED / "mnist").glob("*.gz"):
        shutil.copy(file, raw)
    (tmp_path / "fast_mnist.py").write_text(NET)
    weights = SHARED / "checkpoints" / "mnist_fast_adversarial_pgd.pth"
    common = (
        "--defense", f"checkpoint(path={str(weights)!r})", "--net", "fast-mnist", "--plugin", "fast_mnist.py",
        "--dataset", "mnist", "--executor", "inline", "--json",
    )  # fmt: skip
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
