"""What an attack cannot do is refused when it is read, before any training or image."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.errors import UsageError
from bench.place import Place
from bench.recipe import attack
from bench.registry import plugins
from bench.request import Request, resolve
from tests.conftest import TINY

Bench = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("apgd-ce(eot=0)", "apgd-ce(eot=0): expected 1 or more"),
        ("apgd-ce(restarts=0)", "apgd-ce(restarts=0): expected 1 or more"),
        ("pgd(steps=0)", "pgd(steps=0): expected 1 or more"),
        ("pgd(step=0)", "pgd(step=0): expected more than 0"),
        ("fmn(steps=0)", "fmn(steps=0): expected 1 or more"),
        ("ddn(steps=0)", "ddn(steps=0): expected 1 or more"),
        ("deepfool(steps=0)", "deepfool(steps=0): expected 1 or more"),
        ("cw-l2(rounds=0)", "cw-l2(rounds=0): expected 1 or more"),
        ("cw-l2(confidence=-0.1)", "cw-l2(confidence=-0.1): expected 0 or more"),
        ("fab-min(targets=-1)", "fab-min(targets=-1): expected 0 or more"),
        ("fab-t(targets=0)", "fab-t(targets=0): expected 1 or more"),
        ("fab(eta=0.0)", "fab(eta=0.0): expected more than 0"),
        ("square(queries=0)", "square(queries=0): expected 1 or more"),
        ("square(p=-0.5)", "square(p=-0.5): expected more than 0"),
        ("mim(decay=-1.0)", "mim(decay=-1.0): expected 0 or more"),
        ("noise(tries=0)", "noise(tries=0): expected 1 or more"),
        ("md(steps=20)", "md: the loss changes at step 20, which must lie below the 20 steps: change=…"),
        ("mdmt(change=50)", "mdmt: the loss changes at step 50, which must lie below the 50 steps: change=…"),
    ],
)
def test_nonsense_is_named_with_what_was_expected(recipe: str, expected: str) -> None:
    """No passes, no steps, no restarts, no queries, a step or a factor of nothing."""
    with pytest.raises(UsageError) as refused:
        plugins().parse("attack", recipe)
    assert str(refused.value) == expected


@pytest.mark.parametrize(
    "recipe", ["mim(decay=0.0)", "fab(alpha_max=0)", "deepfool(overshoot=0)", "fab-min(targets=0)", "md(change=0)"]
)
def test_a_zero_that_means_something_is_taken(recipe: str) -> None:
    """No momentum, no pull to the image, no overshoot, the nearest class instead of targets, one loss all the way."""
    plugins().parse("attack", recipe)


def test_a_default_that_is_negative_allows_any_number() -> None:
    """An author who begins below zero knows why."""

    @attack(norms=("linf",), access="scores")
    def sinks(model, x, y, threat, draws, *, level: float = -1.0, depth: int = 0):  # type: ignore[no-untyped-def]
        return x

    assert sinks.recipe(level=-2).settings["level"] == -2
    assert sinks.recipe(level=0).settings["level"] == 0
    with pytest.raises(UsageError, match="expected 0 or more"):
        sinks.recipe(depth=-1)


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A data set of two classes."""
    rng = np.random.RandomState(0)
    x = rng.randint(0, 256, (40, 1, 6, 6)).astype(np.uint8)
    np.savez(tmp_path / "few.npz", x_train=x, y_train=np.arange(40) % 2, x_test=x, y_test=np.arange(40) % 2)
    return tmp_path / "few.npz"


@pytest.mark.parametrize(
    ("column", "attack", "least"),
    [("apgd-dlr", "apgd-dlr", 3), ("aa-plus", "apgd-dlr", 3), ("aa-rand", "apgd-dlr", 3),
     ("aa-reference", "reference-apgd-t", 4)],
)  # fmt: skip
def test_too_few_classes_are_refused_by_column(place: Place, few: Path, column: str, attack: str, least: int) -> None:
    """The ratio of logit differences needs a third logit, its targeted form a fourth; nothing is written."""
    request = Request(
        defenses=("quick",), net="tiny", dataset=f"npz:{few}", threat="linf:0.1", columns=("clean", column)
    )
    with pytest.raises(UsageError) as refused:
        resolve(request, place)
    said = f"column {column}: {attack} needs {least} classes or more; the data set has 2"
    assert str(refused.value) == said
    assert not place.ledger_root.exists()
    assert resolve(replace(request, columns=("aa",)), place).dataset.shape.classes == 2


@pytest.mark.parametrize("command", ["plan", "run"])
def test_the_command_line_exits_with_2(bench: Bench, command: str, few: Path, tmp_path: Path) -> None:
    """Both ways to be refused, before anything is trained."""
    words = ["--defense", "quick", "--net", "tiny", "--plugin", str(TINY), "--dataset", f"npz:{few}",
             "--threat", "linf:0.1"]  # fmt: skip
    for column, said in (("apgd-ce(eot=0)", "expected 1 or more"), ("apgd-dlr", "needs 3 classes or more")):
        done = bench(command, *words, "--columns", column)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "results").exists()
