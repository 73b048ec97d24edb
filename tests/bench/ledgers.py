"""A ledger and a store of a real run, and ways to read and to spoil them."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from bench.files import INCOMING
from tests.conftest import TINY

ROOT = Path(__file__).parents[2]
WORDS = ("run", "--net", "tiny", "--plugin", str(TINY), "--columns", "clean, slow, walks", "--executor", "inline")


@cache
def run_once(folder):
    """A ledger and a store of two trainings, three columns each, of 40 digits; one for all tests of a session."""
    folder = folder / "a-real-run"
    folder.mkdir()
    words = [sys.executable, "-m", "bench", *WORDS, "--defense", "quick", "quick(epochs=1)", "-n", "40"]
    subprocess.run(
        [*words, "--ledger", "ledger", "--store", "store"], cwd=folder, check=True, capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return folder


@pytest.fixture
def made(tmp_path_factory):
    """The real run's folder, which no test may change."""
    return run_once(tmp_path_factory.getbasetemp())


@pytest.fixture
def here(made, tmp_path):
    """A copy of them in the folder where the commands run."""
    shutil.copytree(made / "ledger", tmp_path / "ledger")
    shutil.copytree(made / "store", tmp_path / "store")
    return tmp_path


def ledger(bench, *words):
    """The command and its JSON."""
    done = bench("ledger", *words, "--json")
    return done, json.loads(done.stdout)


def documents(root):
    """The path and content of every document and sidecar."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.glob("*/*") if INCOMING not in p.parts}


def rewritten(path, change):
    """A record with changed text, under the name that its new content has."""
    text = change(path.read_text())
    assert text != path.read_text()
    path.unlink()
    path = path.with_name(f"{hashlib.sha256(text.encode()).hexdigest()}.json")
    path.write_text(text)
    return path


def attack(root, name):
    """The file of one record of an attack."""
    return next(p for p in sorted(root.glob("*/*.json")) if f'"attack":"{name}@' in p.read_text())


def flipped(path):
    """One bit changed."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def halves(root, one, two):
    """Two ledgers whose union is the first."""
    for place, folder in enumerate(sorted(root.iterdir())):
        if place % 3 != 2:
            shutil.copytree(folder, one / folder.name)
        if place % 3 != 1:
            shutil.copytree(folder, two / folder.name)
