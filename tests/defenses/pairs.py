"""Trainings of one process and of two, side by side, as a program: DTYPE DEFENSE…; it prints what differs as JSON.

Torch is imported once, and the processes are forks; the two talk by gloo.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from bench.registry import plugins
from bench.together import ranks, share
from tests.defenses.scene import CLASSES, job

# 45 images in batches of 13: four steps an epoch, the last of 6 images, and parts that are not equal.
COURSE = "epochs=5, batch=13, lr=0.02, drops=(4,), falls=(), augment='crop-flip'"
SETTINGS = {
    "part": "warm_up=1", "part-trades": "warm_up=1, align='shuffled'", "gairat": "first=2", "at-awp": "gamma=0.01",
    "mail-at": "first=2, norm='batch'", "vir-at": "first=2, norm='batch'", "at": "mix=0.3, clean_pass=True",
    "trades": "ema=0.9", "fgsm-rs": "swa=3",
}  # fmt: skip


class Cast(nn.Module):
    """Images to the precision of the net."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """Shape kept."""
        return x.to(self.dtype)


def net(dtype: torch.dtype) -> nn.Module:
    """Convolutions with batch statistics."""
    return nn.Sequential(
        Cast(dtype), nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, CLASSES),
    ).to(dtype)  # fmt: skip


def trained(name: str, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """The weights and the history of a training."""
    recipe = plugins().parse("defense", f"{name}({', '.join(filter(None, [COURSE, SETTINGS.get(name)]))})")
    here = job(folder / name, partial(net, dtype), images=45)
    module = recipe.plugin.function(here, **recipe.plugin.arguments(recipe.settings))
    history = [{k: v for k, v in entry.items() if k not in {"seconds", "ranks"}} for entry in here.history]
    return {"weights": module.state_dict(), "history": history}


def run(folder: Path, names: list[str], dtype: torch.dtype, rank: int, size: int) -> None:
    """Train all and keep them; as one of several processes, or alone."""
    torch.set_num_threads(1)
    if size > 1:
        store = distributed.FileStore(str(folder / "meeting"), size)
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(minutes=2))
        assert ranks() == size and share(13) == (slice(0, 6), slice(6, 13))[rank]
    found = {name: trained(name, folder / f"of-{size}", dtype) for name in names}
    torch.save(found, folder / f"{size}-{rank}.pt")


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of a weight or a statistic."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def main(names: list[str], dtype: torch.dtype) -> dict[str, dict[str, float]]:
    """For each defense: how far the two are from each other, from the one, and how far the one has come."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        children = []
        for rank, size in ((0, 1), (0, 2), (1, 2)):
            child = os.fork()
            if child == 0:
                try:
                    run(folder, names, dtype, rank, size)
                    os._exit(0)
                except BaseException as error:
                    sys.stderr.write(f"{rank} of {size}: {error!r}\n")
                    raise
                finally:
                    os._exit(1)
            children.append(child)
        assert not any(os.waitpid(child, 0)[1] for child in children)
        one, first, second = (torch.load(folder / name, weights_only=False) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    torch.manual_seed(0)
    start = net(dtype).state_dict()
    return {
        name: {
            "apart": distance(first[name]["weights"], second[name]["weights"]),
            "off": distance(one[name]["weights"], first[name]["weights"]),
            "moved": distance(start, one[name]["weights"]),
            "loss": max(
                abs(a["loss"] - b["loss"]) for a, b in zip(one[name]["history"], first[name]["history"], strict=True)
            ),
            "validation": max(
                abs(a[of] - b[of]) for a, b in zip(one[name]["history"], first[name]["history"], strict=True)
                for of in ("val_clean", "val_pgd10")
            ),
            "watched": max(
                (abs(a[of] - b[of]) for a, b in zip(one[name]["history"], first[name]["history"], strict=True)
                 for of in ("weight_mean", "mask_density") if of in a), default=0.0,
            ),
        }
        for name in names
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[2:], getattr(torch, sys.argv[1]))))  # noqa: T201
