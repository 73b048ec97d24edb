"""A plan of very many cells, as a program: DEFENSES SEEDS TRAINED.  It prints, as JSON, what it took."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.exam import digest
from bench.place import Place
from bench.plan import Speed, plan
from bench.records import TrainingRecord
from bench.request import Exam, Request, resolve
from tests.conftest import TINY

IMAGES = 10_000
COLUMNS = ("clean", *(f"slow(pause={n}.0)" for n in range(1, 18)), "walks", "idle")
CONDITIONS = ("clean", "brightness", "contrast", "gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise",
              "defocus_blur", "gaussian_blur", "spatter", "saturate", "pixelate", "jpeg_compression",
              "motion_blur", "zoom_blur", "elastic_transform", "snow", "fog", "glass_blur")  # fmt: skip


def pretend(exam: Exam, place: Place) -> None:
    """Records of trainings, and empty files in the place of their weights."""
    for lesson in exam.lessons:
        training, name = lesson.training, digest(lesson.training.key)
        place.store.path(name).parent.mkdir(parents=True, exist_ok=True)
        place.store.path(name).touch()
        place.ledger.add(TrainingRecord.model_validate({
            "key": training.key, "defense": training.defense, "net": training.net, "label": lesson.label,
            "net_label": "tiny", "dataset": "digits", "train": training.train, "val": training.val,
            "threat": training.threat, "seed": training.seed, "parameters": 1, "macs": 1,
            "weights": {"best": name, "last": name}, "history": [],
            "cost": {"forwards": 0, "backwards": 0, "seconds": 0.0}, "source": digest("source"),
            "machine": {"device": "cpu", "name": "none", "threads": 1, "tile": 0}, "versions": {}, "commit": "",
            "made": "2026-01-01T00:00:00Z",
        }))  # fmt: skip


def main(defenses: int, seeds: int, trained: bool) -> dict[str, float]:
    """Plan it, with speeds that are given."""
    root = Path(tempfile.mkdtemp())
    place = Place(root / "ledger", root / "store", root / "data", (str(TINY),))
    root.joinpath("data").mkdir()
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (IMAGES, 1, 28, 28), np.uint8), np.arange(IMAGES) % 10
    np.savez(root / "data" / "noise.npz", x_train=x[:100], y_train=y[:100], x_test=x, y_test=y)
    request = Request(
        defenses=tuple(f"quick(epochs={1 + n})" for n in range(defenses)), net="tiny", columns=COLUMNS,
        conditions=CONDITIONS, dataset="npz:noise.npz", seeds=tuple(range(seeds)),
    )  # fmt: skip
    exam = resolve(request, place)
    if trained:
        pretend(exam, place)
    began = time.perf_counter()
    lines = plan(exam, place, dict.fromkeys(exam.nets, Speed(1e-6, 1e-5)))
    seconds = time.perf_counter() - began
    return {
        "cells": len(lines) - len(exam.lessons), "seconds": round(seconds, 2),
        "cpu_seconds": round(time.process_time(), 2),  # of the whole process, its imports too
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "trained")))  # noqa: T201
