"""Public checkpoints, read and asked; needs the folder `shared` beside the checkout."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from defenses.checkpoint import opened
from defenses.zoo_names import fit
from defenses.zoo_read import read
from tests.conftest import SHARED

pytestmark = pytest.mark.shared


@pytest.mark.parametrize(
    ("name", "steps", "prefix"),
    [
        ("mnist_fast_adversarial_pgd", [], "0."),
        ("mnist_rays_standard", [], "module."),
        ("cifar10_resnet20", ["its 'state_dict'"], "module."),
        ("cifar10_convex_small_8px", ["its 'state_dict'", "the first of a list"], "0."),
    ],
)
def test_every_public_checkpoint_opens(name, steps, prefix):
    """Four files of four projects: how each is wrapped, and that its weights fit a net of its own names."""
    path = SHARED / "data" / "checkpoints" / f"{name}.pth"
    found, weights = opened(path, "")
    assert (weights.steps, found.size) == (steps, path.stat().st_size)
    assert next(iter(weights.state)).startswith(prefix)
    bare = {k.removeprefix("module."): v for k, v in weights.state.items()}
    assert fit(name, weights, bare).state.keys() == bare.keys()


@pytest.mark.slow
def test_the_wheels_undefended_net_has_its_known_accuracy(bench, tmp_path):
    """ResNet-18 of the pyautoattack wheel, in torch's old format: 93.7 % of the first 1,000 lossless test images."""
    (home,) = importlib.util.find_spec("pyautoattack").submodule_search_locations
    weights = Path(home) / "examples" / "model_test.pt"
    assert read(weights).format == "torch, before 1.6"
    images = np.load(SHARED / "data" / "cifar10" / "lossless_subset.npz")
    np.savez(
        tmp_path / "lossless.npz",
        x_train=images["x_train"][:100], y_train=images["y_train"][:100].astype(np.int64),
        x_test=images["x_test"], y_test=images["y_test"].astype(np.int64), classes=np.array(list("0123456789")),
    )  # fmt: skip
    done = bench(
        "run", "--defense", f"checkpoint(path={str(weights)!r})", "--net", "resnet18", "--dataset", "npz:lossless.npz",
        "--columns", "clean", "-n", "1000", "--executor", "inline", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["board"]["sections"][0]["rows"]
    assert row["numbers"]["clean"]["standing"] == 937
