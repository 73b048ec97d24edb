"""The checks before any attack, once for weights and a test part: their record is in the ledger."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.files import locked
from bench.honesty import VERSION, Checked, check_model
from bench.origin import about
from bench.place import THREADS
from bench.records import CheckRecord, Document, Doubted, Spent, check_key
from bench.victim import be_exact

if TYPE_CHECKING:
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


def known(place: Place, net: str, weights: str, test: str) -> CheckRecord | None:
    """What the ledger says of weights on a test part, if they were checked."""
    found = place.ledger.of(check_key(net, weights, test, VERSION), CheckRecord)
    return found[0] if found else None


def checked(place: Place, net: str, weights: str, dataset: Dataset) -> CheckRecord:
    """The record of the checks of weights on a test part; made now where there is none.

    A copy of the model is looked at, so that one that changes while it is asked is attacked as it was.
    """
    test = dataset.test.hash
    key = check_key(net, weights, test, VERSION)
    with locked(place.store.root / "locks" / key):
        record = known(place, net, weights, test)
        if record is None:
            be_exact(THREADS)
            started = time.perf_counter()
            subject = place.fresh(net, weights, dataset.shape)
            found = check_model(subject, dataset.test, place.device)
            be_exact(THREADS)  # whatever the model left behind
            seconds = round(time.perf_counter() - started, 3)
            record = CheckRecord(
                key=key, net=net, weights=weights, dataset=dataset.name, test=test, version=VERSION, n=found.images,
                doubts=doubted(found), figures=dict(found.figures),
                cost=Spent(forwards=found.forwards, backwards=found.backwards, seconds=seconds),
                **about(place.device, subject.tile),
            )  # fmt: skip
            place.ledger.add(record)
        return record


def doubted(found: Checked) -> list[Doubted]:
    """Doubts as a record has them."""
    return [
        Doubted(code=d.code, text=d.text, images=list(d.images), figures=dict(d.figures), what=d.what)
        for d in found.doubts
    ]
