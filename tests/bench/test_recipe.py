"""Recipes: every setting filled in, every mistake named."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Literal

import pytest

from bench.errors import UsageError, nearest
from bench.recipe import Plugin, Recipe, attack, corruption, dataset, defense, net


@attack(norms=("linf",), access="gradients", version=3, paper="arXiv:1706.06083")
def a_walk(model, x, y, threat, draws, *, steps: int = 40, step: float = 0.25, keep: Literal["last", "any"] = "last"):
    """Walks uphill.

    The rest is not the summary.
    """
    return x + steps


@defense(unkeyed=("path",))
def from_file(job, *, path: str, sha256: str = "", notes: tuple[str, ...] = (), seed: int | None = None):
    """Reads a file."""


@net()
def wide(*, classes: int, channels: int, size: int, depth: int = 28, drop: bool = False):
    """A wide net."""
    return classes, channels, size, depth, drop


def test_names_and_summaries():
    """A plugin is called as its function, with dashes; its summary is the first line of the docstring."""
    assert (a_walk.name, a_walk.summary, a_walk.version) == ("a-walk", "Walks uphill.", 3)
    assert a_walk.where.endswith("test_recipe.a_walk") and a_walk.kind == "attack"

    @corruption()
    def heavy_fog(x, severity, draws):
        return x

    @dataset(threat="linf:8/255", name="other-name")
    def loads(root):
        return root

    assert (heavy_fog.name, loads.name, loads.threat) == ("heavy_fog", "other-name", "linf:8/255")
    assert a_walk(None, 2, None, None, None, steps=5) == 7
    assert wide(classes=10, channels=3, size=32, depth=34) == (10, 3, 32, 34, False)


def test_a_recipe_is_written_in_full():
    """The key holds version and all settings in order of name; the short text only what was changed."""
    plain, changed = a_walk.recipe(), a_walk.recipe(steps=50, step=1)
    assert plain.key == "a-walk@3(keep='last', step=0.25, steps=40)" and str(plain) == "a-walk"
    assert changed.key == "a-walk@3(keep='last', step=1.0, steps=50)" and str(changed) == "a-walk(steps=50, step=1.0)"
    assert wide.recipe().key == "wide@1(depth=28, drop=False)"  # what the bench fills in is no setting
    assert plain.with_settings({"steps": 50}).key == a_walk.recipe(steps=50).key


def test_where_is_not_what():
    """A setting that says where something lies is in the text that reads back, but not in the key."""
    here, there = from_file.recipe(path="/a/w.pth", sha256="12"), from_file.recipe(path="/b/w.pth", sha256="12")
    assert here.key == there.key == "from-file@1(notes=(), seed=None, sha256='12')"
    assert here.written != there.written and "/a/w.pth" in here.written
    assert "w.pth" in str(here) and "/a" not in str(here)


def test_equality():
    """Recipes are equal when plugin and settings are, and can be kept in sets."""
    assert a_walk.recipe(steps=40) == a_walk.recipe() != a_walk.recipe(steps=41)
    assert len({a_walk.recipe(), a_walk.recipe(step=0.25), a_walk.recipe(keep="any")}) == 2

    @attack(norms=("linf",), access="scores", version=3)
    def another(model, x, y, threat, draws, *, steps: int = 40, step: float = 0.25, keep: str = "last"):
        return x

    assert another.recipe() != a_walk.recipe() != "a-walk"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stpes": 3}, "no setting 'stpes'; did you mean 'steps'"),
        ({"steps": "3"}, "expected int"),
        ({"steps": 3.0}, "expected int"),
        ({"steps": True}, "expected int"),
        ({"steps": None}, "expected int"),
        ({"step": True}, "expected float"),
        ({"step": (1.0,)}, "expected float"),
        ({"keep": "lats"}, "did you mean 'last'"),
        ({"keep": 3}, "'last', 'any'"),
    ],
)
def test_mistakes(settings, words):
    """A misspelt setting, a wrong type or a value that is no choice is an error that says what was expected."""
    with pytest.raises(UsageError, match=words):
        a_walk.recipe(**settings)


def test_more_mistakes():
    """A setting without a default must be given; a setting whose default is None or () takes what it says."""
    with pytest.raises(UsageError, match="from-file needs a setting: from-file\\(path="):
        from_file.recipe()
    assert from_file.recipe(path="x", notes=("a",), seed=3).settings["seed"] == 3
    with pytest.raises(UsageError, match="expected tuple"):
        from_file.recipe(path="x", notes="a")
    with pytest.raises(UsageError, match="expected bool"):
        wide.recipe(drop=1)


@pytest.mark.parametrize(
    ("name", "known", "words"),
    [
        ("tredes", ["trades", "part"], "; did you mean 'trades'?"),
        ("zzz", ["b", "a"], "; there are a, b"),
        ("zzz", [], ""),
        ("zzz", [f"name{i}" for i in range(41)], ""),
    ],
)
def test_nearest(name, known, words):
    """The nearest name where one is near, else all of them where they are few."""
    assert nearest(name, known) == words


def test_recipes_cross_processes():
    """A recipe of an importable plugin reads the same after pickling."""
    from bench.registry import Registry  # the plugin of this test file has no importable module: its text is enough

    registry = Registry({("attack", "a-walk"): a_walk})
    there = pickle.loads(pickle.dumps(a_walk.recipe(steps=7).written))
    back = registry.parse("attack", there)
    assert isinstance(back, Recipe) and back == a_walk.recipe(steps=7)


def test_settings_of_a_frozen_dataclass_stand_beside_the_others() -> None:
    """Its fields are settings, also one of the argument's own name; given whole, it is taken whole."""

    @dataclass(frozen=True)
    class Pace:
        pace: str = "slow"
        steps: int = 3

        def __post_init__(self) -> None:
            if self.steps < 1:
                raise UsageError(f"steps={self.steps}: expected 1 or more")

    def walk(*, far: bool = False, pace: Pace = Pace(steps=5)) -> object:
        return far, pace

    plugin = Plugin(name="walk", function=walk)
    assert plugin.defaults == {"far": False, "pace": "slow", "steps": 5}
    assert walk(**plugin.arguments(plugin.recipe(pace="fast", far=True).settings)) == (True, Pace("fast", 5))
    assert walk(**plugin.arguments({"pace": Pace("whole", 1)})) == (False, Pace("whole", 1))
    assert walk(**plugin.arguments({"pace": Pace("whole", 1), "steps": 2})) == (False, Pace("whole", 2))
    with pytest.raises(UsageError, match="steps=0: expected 1 or more"):
        plugin.recipe(steps=0)
