"""What several documents of the JSON interface share: its numbers, and what it says of a model's trust and rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1, description="a share of 1")]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Address = Annotated[str, Field(description="a path from the site's folder")]


class Strict:
    """No other fields."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class FindingOf(Strict):
    """A doubt about a model, its evidence, and what became of it.

    code: its kind; empty where it has none.  probe: the column that it calls for.  state: settled (its probe was asked
    on all images, and `worst` counts what it felled), open (it was not), for good (no attack can settle it), or told
    (it does not say that the number lies).
    """

    code: str
    text: str
    state: Annotated[str, Field(pattern=r"^(settled|open|for good|told)$")]
    probe: str | None
    what: str
    images: list[int]
    figures: dict[str, float]


@dataclass(frozen=True)
class RuleOf(Strict):
    """A rule of the closed division, and what the records say of it."""

    name: str
    demand: str
    verdict: Annotated[str, Field(pattern=r"^(passed|failed|not checked)$")]
    evidence: str
