"""What is wrong with a plugin, said as a good compiler says it: what, where, why it matters, how to mend it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.exam import Part, Shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.recipe import Plugin


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong."""

    code: str
    what: str
    where: str  # under which circumstances it shows
    why: str
    mend: str


@dataclass
class Findings:
    """What the checks of one thing found; filled in as they go."""

    kind: str
    name: str
    place: str  # file and line
    passed: list[str] = field(default_factory=list)  # the checks that it passed
    faults: list[Fault] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # what was not checked, and why

    def fault(self, code: str, what: str, where: str, why: str, mend: str) -> None:
        """Take a fault down; of one kind the first is enough."""
        if code not in {f.code for f in self.faults}:
            self.faults.append(Fault(code, what, where, why, mend))

    def document(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "kind": self.kind, "name": self.name, "place": self.place, "passed": self.passed,
            "faults": [vars(f) for f in self.faults], "skipped": self.skipped,
        }  # fmt: skip

    def lines(self) -> list[str]:
        """As a person reads it."""
        found = [f"{self.kind} {self.name}" + (f"  ({self.place})" if self.place else "")]
        for f in self.faults:
            found += [f"  wrong[{f.code}]: {f.what}", f"    where: {f.where}", f"    why:   {f.why}"]
            found += [f"    mend:  {f.mend}"]
        found += [f"  not checked: {reason}" for reason in self.skipped]
        sound = f"{len(self.passed)} {'check' if len(self.passed) == 1 else 'checks'} passed"
        if self.passed:
            sound += f": {', '.join(self.passed)}"
        return [*found, f"  {sound}"]


def place_of(plugin: Plugin) -> str:
    """The file and the line that a plugin is written in."""
    function = inspect.unwrap(plugin.function)
    try:
        file, (_, line) = inspect.getsourcefile(function), inspect.getsourcelines(function)
    except (OSError, TypeError):
        return plugin.where
    here = Path(file or "")
    return f"{here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here}:{line}"


def drawn(shape: Shape, n: int, seed: int = 0) -> Part:
    """Random smooth images of a shape, with random labels."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((n, shape.channels, -(-shape.size // 4), -(-shape.size // 4)))
    x = coarse.repeat(4, 2).repeat(4, 3)[:, :, : shape.size, : shape.size]
    pixels: NDArray[np.uint8] = (230 * x + 25 * rng.random(x.shape)).astype(np.uint8)
    return Part(pixels, rng.integers(0, shape.classes, n))


def places(images: Sequence[int], most: int = 5) -> str:
    """`images 3, 5 and 2 more`."""
    more = f" and {len(images) - most} more" if len(images) > most else ""
    word = "image" if len(images) == 1 else "images"
    return f"{word} {', '.join(map(str, images[:most]))}{more}"
