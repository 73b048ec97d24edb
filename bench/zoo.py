"""Published models: what a board elsewhere says of weights that can be pulled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from bench.ledger import Ledger
    from bench.records import ReportedCard
    from bench.registry import Registry

State = Literal["fine", "note", "wrong"]  # a note: work goes on without it


@dataclass(frozen=True)
class Finding:
    """One thing of a machine's set-up that was looked at: how it is, and how to mend it."""

    what: str
    state: State
    said: str
    mend: str = ""


@dataclass(frozen=True)
class Published:
    """A model on a board elsewhere, with what is reported of it there; accuracies are percentages."""

    name: str
    dataset: str
    threat: str  # linf | l2 | corruptions
    eps: str  # as it is written there; empty for corruptions
    clean: float
    autoattack: float | None  # under that threat
    worse: float | None  # under attacks that were found to do better
    corruptions: float | None  # over 15 corruptions at 5 severities
    claimed: float | None  # by its paper
    doubted: bool  # by that board itself
    architecture: str
    extra_data: bool
    paper: str
    link: str
    venue: str
    weights: bool  # whether its weights are published, so that they can be pulled
    licence: str  # of the weights; empty where there are none

    @property
    def accuracy(self) -> float | None:
        """What the board there sorts by."""
        return self.corruptions if self.threat == "corruptions" else self.worse or self.autoattack


@dataclass(frozen=True)
class Zoo:
    """A collection of published models; `recipe` writes the defense that pulls one.

    look: what of the set-up its models need, and how that is here, given the store.  hosts: where its weights lie.
    """

    name: str
    read: Callable[[], Sequence[Published]]
    recipe: Callable[[Published], str]
    look: Callable[[Path], Iterable[Finding]] = lambda _store: ()
    hosts: tuple[str, ...] = ()  # https://HOST

    def entries(self) -> list[dict[str, Any]]:
        """Its models as plain values, each with the recipe that pulls it, or none."""
        return [
            {"zoo": self.name, **asdict(p), "recipe": self.recipe(p) if p.weights else None} for p in self.read()
        ]  # fmt: skip

    def card(self, made: str) -> ReportedCard:
        """What is reported of its models, for the ledger; made: now."""
        from bench.exam import digest
        from bench.records import ReportedCard

        models = [{name: value for name, value in entry.items() if name != "zoo"} for entry in self.entries()]
        facts = {"board": self.name, "models": models}
        return ReportedCard.model_validate({"key": digest(facts), "made": made, **facts})


def write_down(registry: Registry, ledger: Ledger) -> None:
    """Write what the zoos that were found report into the ledger, unless it has it."""
    from bench.records import ReportedCard

    for zoo in registry.all("zoo"):
        assert isinstance(zoo, Zoo)
        card = zoo.card(datetime.now(UTC).isoformat(timespec="seconds"))
        if not ledger.of(card.key, ReportedCard):
            ledger.add(card)
