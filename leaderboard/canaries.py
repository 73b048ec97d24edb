"""How well the checks notice: models that are broken on purpose, and false alarms on honest ones, as was measured.

The figures lie beside this file as JSON, written by `make canaries` and `make
false-alarms`; where they are missing, the page says so.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench import REASONS, IntegrityError, wilson

CANARIES = Path(__file__).with_name("canaries.json")
ALARMS = Path(__file__).with_name("alarms.json")


Measured = TypeVar("Measured", bound=BaseModel)


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # what scripts measure beside it is no concern of the page


Share = Annotated[float | None, Field(ge=0, le=1)]


class Canary(_Document):
    """What the checks said of a model that is broken on purpose, or of an honest control."""

    name: str
    summary: str
    expected: str  # the code of the doubt that it must raise; empty for an honest one
    found: tuple[str, ...]
    said: Share = None  # accuracy under PGD-100, which is what a board would say
    probed: Share = None  # the same after the attacks that its doubts call for; None where it is not trusted
    stands: Share = None  # what the truth is at most

    @property
    def right(self) -> bool:
        """Caught by its own doubt; of an honest one, doubted by none."""
        return self.expected in self.found if self.expected else not self.found


class Canaries(_Document):
    """All of them."""

    canaries: tuple[Canary, ...]

    @cached_property
    def broken(self) -> list[Canary]:
        """Those with something wrong."""
        return [c for c in self.canaries if c.expected]

    @cached_property
    def honest(self) -> list[Canary]:
        """The controls."""
        return [c for c in self.canaries if not c.expected]

    @property
    def caught(self) -> int:
        """How many broken ones raise the doubt that they must."""
        return sum(c.right for c in self.broken)

    @property
    def false(self) -> int:
        """How many honest ones raise any."""
        return sum(not c.right for c in self.honest)


class Alarm(_Document):
    """A doubt, and how many of the honest models that were looked at for it raise it."""

    code: str
    raised: int = Field(ge=0)
    models: int = Field(ge=1)
    stage: str = ""  # when it is looked for: before, thorough, records

    @property
    def text(self) -> str:
        """Its sentence."""
        return REASONS[self.code].text if self.code in REASONS else self.code

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, at 95 %."""
        return wilson(self.raised, self.models)


class Alarms(_Document):
    """How often each doubt is raised by models that were trained honestly."""

    models: int = Field(ge=1)
    about: str = ""  # which models
    rates: tuple[Alarm, ...]

    @cached_property
    def lines(self) -> list[Alarm]:
        """A line a doubt, the most frequent first."""
        return sorted(self.rates, key=lambda a: (-a.raised / a.models, a.code))


def canaries(path: Path = CANARIES) -> Canaries | None:
    """What was measured on canaries; None where nobody did."""
    return _read(Canaries, path)


def alarms(path: Path = ALARMS) -> Alarms | None:
    """What was measured on honest models; None where nobody did."""
    return _read(Alarms, path)


def _read(kind: type[Measured], path: Path) -> Measured | None:
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise IntegrityError(f"{path}: not what make canaries writes: {error}") from None
