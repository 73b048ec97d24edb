"""Every method learns: trained on real digits by its preset, shortened to ten epochs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import Defense, ThreatModel, TrainJob
from bench.place import build
from bench.registry import plugins
from data.digits import digits

SHORTER: dict[str, Any] = {"epochs": 10, "ramp": 2.0, "warm_up": 4, "helper_epochs": 5}
REGISTRY = plugins()
METHODS = sorted(p.defense for p in REGISTRY.presets if (p.dataset, p.name) == ("digits", ""))
WEIGHTED = {"gairat", "mail-at", "mail-trades", "mail-mart", "vir-at", "vir-trades"}


class Cosines(nn.Module):
    """The net of the others with its last layer's features and weights normalised."""

    def __init__(self, base: nn.Sequential) -> None:
        super().__init__()
        self.base, self.scale = nn.Sequential(*list(base)[:-1]), 10.0
        self.vectors = nn.Parameter(base[-1].weight.detach().clone())  # type: ignore[operator, union-attr]

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.normalize(self.base(x)) @ F.normalize(self.vectors).t()


def trained(method: str, folder: Path) -> TrainJob:
    """The job of a training by the digits preset, cut short: weights of images in the last two epochs alone."""
    images = digits(folder)
    cnn = partial(build, REGISTRY.parse("net", "cnn"), images.shape)
    here = TrainJob(
        train=images.train, val=images.val, shape=images.shape,
        build=(lambda: Cosines(cnn())) if method == "he" else cnn, build_other=lambda _recipe: cnn(),  # type: ignore[arg-type]
        threat=ThreatModel.parse("linf:0.2"), seed=0, device=torch.device("cpu"), scratch=folder,
        report=lambda _line: None,
    )  # fmt: skip
    recipe, _ = REGISTRY.parse_defense(method, "digits", "cnn")
    assert isinstance(recipe.plugin, Defense)
    settings = {**recipe.settings, **{k: v for k, v in SHORTER.items() if k in recipe.settings}}
    if settings["schedule"] == "drops":
        settings["drops"] = (8,)
    if method in WEIGHTED:
        settings["first"] = 9
    recipe.plugin(here, **settings)
    return here


@pytest.fixture(scope="module")
def undefended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The last epoch of standard training."""
    return trained("standard", tmp_path_factory.mktemp("standard")).history[-1]


@pytest.mark.parametrize("method", [m for m in METHODS if m != "standard"])
def test_a_method_learns_digits(method: str, undefended: dict[str, Any], tmp_path: Path) -> None:
    """At the end 80 % are right on clean validation images, and under PGD-10 30 % more than without a defense."""
    here = trained(method, tmp_path)
    last = here.history[-1]
    assert undefended["val_pgd10"] < 0.2
    assert undefended["val_clean"] > 0.9
    assert last["val_clean"] > 0.8
    assert last["val_pgd10"] > undefended["val_pgd10"] + 0.3
    assert not any("note" in h for h in here.history)
    assert here.predicted == 10
    weighted = [h["epoch"] for h in here.history if "weight_mean" in h]
    assert weighted == ([9, 10] if method in WEIGHTED else [])
    if method in WEIGHTED:
        assert len(last["weight_by_class"]) == 10
        assert sum(last["weight_by_class"]) == pytest.approx(len(here.train) * last["weight_mean"], rel=1e-4)
    masked = {h["epoch"]: h["mask_density"] for h in here.history if "mask_density" in h}
    assert list(masked) == (list(range(5, 11)) if method.startswith("part") else [])
    assert all(0.02 < density < 0.4 for density in masked.values())


def test_a_method_is_forgotten_by_nobody() -> None:
    """Every defense that trains has a preset for digits."""
    assert sorted(d.name for d in REGISTRY.all("defense") if isinstance(d, Defense) and d.trains) == METHODS
