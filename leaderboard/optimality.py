"""How near the attacks come to the truth, where the truth is known: a page from a table that ships with the code.

`make optimality` measures the table.  It is about attacks, not about defenses, so it does not come from the ledger.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from leaderboard.shell import File, Site

PAGE = "optimality.html"
FILE = Path(__file__).parent / "optimality.json"
NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1", "l0": "L0"}


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InBall(_Fact):
    """What an attack found in a ball: of the edge images by how far the ball reaches, and on plain ones."""

    attack: str  # as one writes it
    version: int
    edge: list[int]  # images found, for each of the table's reaches
    says: float  # the robust accuracy of the plain images, a share; the table has the exact one
    impossible: int  # images that it found, it seems, and that cannot be


class Distance(_Fact):
    """The distances that a minimum-norm attack found, over the exact ones; of the images that it found."""

    attack: str
    version: int
    found: int
    median: float | None  # none where it found no image
    largest: float | None
    impossible: int  # images that it found nearer than any is


class Against(_Fact):
    """One model under one norm: what is true, and what each attack found."""

    model: str
    norm: Literal["linf", "l2", "l1", "l0"]
    about: str
    images: int  # plain ones, which it reads right
    eps: float
    exact: float  # the robust accuracy in a ball of that size, a share
    edge_images: int  # all at one distance
    edge: float  # that distance; 0 where there are none
    in_ball: list[InBall]
    distances: list[Distance]

    @property
    def heading(self) -> str:
        """For a person."""
        return f"{self.model}, {NORMS[self.norm]}"


class Optimality(_Fact):
    """The measured table, and what it was measured with."""

    schema_: Literal["rampart/optimality-1"] = Field(alias="schema")
    reaches: list[float]  # the radii of the balls around edge images, over their distance
    tables: list[Against]
    machine: str
    versions: dict[str, str]
    commit: str


@lru_cache(maxsize=1)
def measured() -> Optimality:
    """The table that ships with the code."""
    return Optimality.model_validate_json(FILE.read_bytes())


def pages(site: Site) -> Iterator[File]:
    """The page."""
    yield site.render("optimality.html", PAGE, title="Attacks beside the truth", found=measured(), nav="Method")
