"""The checks of weights on a test part, those before any attack and the thorough ones: once, and then in the ledger."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from bench.doubts import distrusts
from bench.files import locked
from bench.honesty import VERSION, Checked, check_model
from bench.origin import about
from bench.place import THREADS
from bench.records import CheckRecord, Document, Doubted, Spent, check_key
from bench.sandbox import sandbox_of
from bench.thorough import VERSION as THOROUGH_VERSION
from bench.thorough import check_thoroughly
from bench.threat import ThreatModel
from bench.victim import be_exact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.evaluate import Subject
    from bench.exam import Dataset
    from bench.place import Place


@dataclass(frozen=True)
class Check:
    """Weights to be looked at; plain values, so that it travels to other processes."""

    net: str  # recipe key
    weights: str
    dataset: str  # recipe

    @property
    def name(self) -> str:
        """The hash of the weights."""
        return f"{self.weights}-check"

    def __str__(self) -> str:
        """For a person."""
        return f"the checks of {self.weights[:8]}"

    def do(self, place: Place) -> list[Document]:
        """Look at them here, unless it was done before."""
        dataset = place.dataset(place.registry.parse("dataset", self.dataset))
        return [checked(place, self.net, self.weights, dataset)]


@dataclass(frozen=True)
class Thorough:
    """Weights to be looked at thoroughly under a threat; plain values, so that it travels to other processes."""

    net: str  # recipe key
    weights: str
    dataset: str  # recipe
    threat: str

    @property
    def name(self) -> str:
        """The hash of the weights."""
        return f"{self.weights}-thorough"

    def __str__(self) -> str:
        """For a person."""
        return f"the thorough checks of {self.weights[:8]}"

    def do(self, place: Place) -> list[Document]:
        """Look at them here, unless it was done before, or no number about them can be trusted anyway."""
        dataset = place.dataset(place.registry.parse("dataset", self.dataset))
        first = checked(place, self.net, self.weights, dataset)
        if any(distrusts(doubt.code) for doubt in first.doubts):
            return [first]
        return [first, thorough(place, self.net, self.weights, dataset, ThreatModel.parse(self.threat), first)]


def known(place: Place, net: str, weights: str, test: str) -> CheckRecord | None:
    """What the ledger says of weights on a test part, if they were checked."""
    found = place.ledger.of(check_key(net, weights, test, VERSION), CheckRecord)
    return found[0] if found else None


def checked(place: Place, net: str, weights: str, dataset: Dataset) -> CheckRecord:
    """The record of the checks of weights on a test part; made now where there is none.

    A copy of the model is looked at, so that one that changes while it is asked is attacked as it was.
    """

    def look(subject: Subject) -> Checked:
        return check_model(subject, dataset.test, place.device)

    return _recorded(place, net, weights, dataset, VERSION, None, look)


def thorough(
    place: Place, net: str, weights: str, dataset: Dataset, threat: ThreatModel, first: CheckRecord
) -> CheckRecord:
    """The record of the thorough checks of weights under a threat; made now where there is none.

    first: what the checks before any attack said; a model that is found to be random is taken for one.
    """
    fickle = any(doubt.code == "fickle" for doubt in first.doubts)

    def look(subject: Subject) -> Checked:
        subject = replace(subject, random=subject.random or fickle)
        find = partial(place.registry.parse, "attack")
        return check_thoroughly(subject, dataset.test, threat, find, place.device)

    return _recorded(place, net, weights, dataset, THOROUGH_VERSION, str(threat), look)


def known_thorough(place: Place, net: str, weights: str, test: str, threat: str) -> CheckRecord | None:
    """What the ledger says of weights on a test part under a threat, if they were looked at thoroughly."""
    found = place.ledger.of(check_key(net, weights, test, THOROUGH_VERSION, threat), CheckRecord)
    return found[0] if found else None


def _recorded(
    place: Place, net: str, weights: str, dataset: Dataset, version: int, threat: str | None,
    look: Callable[[Subject], Checked],
) -> CheckRecord:  # fmt: skip
    """What a look at a fresh model says, from the ledger where it is there."""
    test = dataset.test.hash
    key = check_key(net, weights, test, version, threat)
    with locked(place.store.root / "locks" / key):
        known = place.ledger.of(key, CheckRecord)
        if known:
            return known[0]
        be_exact(THREADS)
        started = time.perf_counter()
        subject = place.fresh(net, weights, dataset.shape)
        found = look(subject)
        be_exact(THREADS)  # whatever the model left behind
        seconds = round(time.perf_counter() - started, 3)
        record = CheckRecord(
            key=key, net=net, weights=weights, dataset=dataset.name, test=test, threat=threat, version=version,
            n=found.images, doubts=doubted(found), figures=finite(found.figures),
            cost=Spent(forwards=found.forwards, backwards=found.backwards, seconds=seconds),
            **about(place.device, subject.tile, sandbox_of(subject.module)),
        )  # fmt: skip
        place.ledger.add(record)
        return record


def finite(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures that JSON has a word for."""
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def doubted(found: Checked) -> list[Doubted]:
    """Doubts as a record has them."""
    return [
        Doubted(code=d.code, text=d.text, images=list(d.images), figures=finite(d.figures), what=d.what)
        for d in found.doubts
    ]
