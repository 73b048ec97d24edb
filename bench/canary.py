"""Canaries: models that are broken on purpose, by which the harness shows that it notices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from bench.exam import Part


@dataclass(frozen=True, eq=False)
class Canary:
    """A trained model with one thing broken, or an honest control.

    make: the broken model, of a trained one and of the test part, which a cheat may know.  caught_by: the code of the
    doubt that it must raise; empty for an honest control, which must raise none.
    """

    name: str
    summary: str
    make: Callable[[nn.Module, Part], nn.Module]
    caught_by: str = ""
    defense: str = "at"  # recipes of what is trained, on digits
    net: str = "cnn"
    random: bool = False  # it says that it draws random numbers
