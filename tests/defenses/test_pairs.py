"""One process and two that train together, side by side."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def pairs(dtype, *names):
    """What differs, by defense."""
    words = [sys.executable, "-m", "tests.defenses.pairs", dtype, *names]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_two_processes_train_what_one_trains():
    """In float32, after 20 steps of batches that do not halve: within 1e-5, and the two bit for bit the same."""
    for name, found in pairs("float32", "at", "trades", "part", "part-trades").items():
        assert found["apart"] == 0, name
        assert found["off"] < 1e-5, name
        assert found["moved"] > 0.1, name
        assert found["loss"] < 1e-5, name
        assert (found["validation"], found["watched"]) == (0, pytest.approx(0, abs=1e-6)), name


def test_what_looks_at_the_whole_batch_sees_it():
    """Balanced weights of images, weights moved uphill, a teacher, an attack in training mode: in float64."""
    for name, found in pairs("float64", "gairat", "vir-at", "at-awp", "lbgat", "fgsm-rs").items():
        assert found["apart"] == 0, name
        assert found["off"] < 1e-6, name
        assert found["moved"] > 0.1, name
        assert (found["validation"], found["watched"]) == (0, pytest.approx(0, abs=1e-6)), name
