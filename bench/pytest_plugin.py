"""The fixture `robustness` of pytest: a test that fails where a model became less robust than in a baseline.

    def test_robust(robustness):
        robustness(model, dataset="digits", suite="quick").no_worse_than("baseline.json")

pytest --rampart-update records the baseline.  torch and the bench are imported when a test asks for the fixture.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from bench.robustness import Robustness

SAID = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the command line."""
    group = parser.getgroup("rampart", "robustness against a baseline")
    group.addoption("--rampart-update", action="store_true", help="record the baselines that tests name, and pass")
    group.addoption("--rampart-data", default="datasets", metavar="DIR", help="where data sets lie (datasets)")
    group.addoption("--rampart-device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1 (auto)")


def pytest_configure(config: pytest.Config) -> None:
    """A place for what is said at the end."""
    config.stash[SAID] = []


@pytest.fixture
def robustness(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Robustness]:
    """A function that examines a model, whose answer is held to a baseline by no_worse_than(FILE).

    model: a torch module from images in [0, 1] to logits, or a defense as on the command line, which is trained.  The
    options are those of `bench run`: net, dataset, threat, suite, columns, conditions, n, seeds, attack_seed, plugin.
    A module is called by the test's name in the baseline, or by `name`.
    """
    from bench.errors import RampartError
    from bench.robustness import Scene, examine

    config = request.config
    scene = Scene(
        tmp_path / "rampart", config.rootpath, config.rootpath / config.getoption("--rampart-data"),
        config.getoption("--rampart-device"), bool(config.getoption("--rampart-update")), config.stash[SAID].append,
    )  # fmt: skip
    usual = re.sub(r"[^A-Za-z0-9_.+-]+", "-", f"{request.path.stem}.{request.node.name}").strip("-")
    used: list[str] = []

    def ask(model: Any, **words: Any) -> Robustness:
        name = words.pop("name", usual + (f"-{len(used) + 1}" if used else ""))
        used.append(name)
        __tracebackhide__ = True
        try:
            return examine(scene, model, name, **words)
        except RampartError as error:  # its message is for a person; the way to it is not
            raise pytest.fail.Exception(str(error), pytrace=False) from error

    return ask


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which baselines were recorded."""
    for line in config.stash[SAID]:
        terminalreporter.write_line(line)
