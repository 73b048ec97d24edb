"""What all tests share: a place in a temporary folder, and a shorthand for runs in it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.cli import main
from bench.place import Place

TINY = Path(__file__).parent / "plugins" / "tiny.py"


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started in the background; the commands under test must hear it
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).parents[2] / "shared"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip, by name and with the reason, what cannot run here or was not asked for."""
    asked = str(config.getoption("markexpr"))
    reasons = {
        "slow": None if "slow" in asked else "slow: takes minutes; run it with -m slow",
        "net": None if "net" in asked else "net: needs the network; run it with -m net",
        "shared": None if SHARED.is_dir() else f"shared: needs reference files in {SHARED}",
        "gpu": None if torch.cuda.is_available() else "gpu: needs a CUDA device",
    }
    for item in items:
        for name, reason in reasons.items():
            if reason and item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Empty folders and the tests' own plugins."""
    return Place(tmp_path / "ledger", tmp_path / "store", tmp_path / "datasets", (str(TINY),))


@pytest.fixture
def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line, run in the temporary folder and in this process."""

    def run(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as here:
            here.chdir(tmp_path)
            here.setattr(sys, "argv", ["bench", *words])
            for name, value in (env or {}).items():
                here.setenv(name, value)
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                main()
        said = capsys.readouterr()
        return subprocess.CompletedProcess(words, int(ended.value.code or 0), said.out, said.err)

    return run
