"""Real records of two tiny models, to be verified, spoilt and carried about."""

import shutil
from dataclasses import replace

import pytest

from bench.executors import Inline
from bench.place import Place, _subject
from bench.request import Request, resolve
from bench.run import run
from tests.conftest import TINY

ASK = Request(defenses=("quick",), net="tiny", columns=("clean", "slow", "walks"), n=120, seeds=(0, 1))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A place with real records of two models: clean, in a ball, and of minimum norm."""
    root = tmp_path_factory.mktemp("made")
    place = Place(root / "ledger", root / "store", root / "datasets", (str(TINY),))
    run(resolve(ASK, place), place, Inline(), report=lambda _line: None)
    return place


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A copy that may be spoilt, which the command line finds; no model of an earlier test's is remembered."""
    _subject.cache_clear()
    monkeypatch.setenv("BENCH_LEDGER", "ledger")
    monkeypatch.setenv("BENCH_STORE", "store")
    for name in ("ledger", "store"):
        shutil.copytree(made.ledger_root.parent / name, tmp_path / name)
    return replace(made, ledger_root=tmp_path / "ledger", store_root=tmp_path / "store")
