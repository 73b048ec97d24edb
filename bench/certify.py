"""Certificates: images that no attack within a threat can fell are proven to stand, and no attack is asked about them.

What is proven is what an attack that is asked would find, so that leaving it out changes no number.  A minimum-norm
attack is asked all the same: its question is how far the nearest misread image is, and a certificate does not say.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from bench.bounds import VERSION, NoBoundError, certified
from bench.checked import checked
from bench.evaluate import images
from bench.exam import Condition
from bench.files import locked
from bench.official import corruption as find_corruption
from bench.origin import about
from bench.outcomes import Outcome
from bench.place import THREADS
from bench.records import CertificateRecord, Document, Spent, certificate_key
from bench.threat import ThreatModel
from bench.victim import be_exact

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.exam import Cell
    from bench.executors import Executor
    from bench.ledger import Ledger
    from bench.place import Place
    from bench.request import Exam

METHOD = "ibp"
# Doubts that the model is one function of one image: a proof about its forward says nothing then.
NO_FUNCTION = {
    "training", "state", "writes", "fickle", "mixes", "drifts", "dynamic", "not-a-number", "recognises", "jumps",
    "holds-images",
}  # fmt: skip


@dataclass(frozen=True)
class Certify:
    """Weights to be bounded around the first n images; plain values, so that it travels to other processes."""

    net: str  # recipe key
    weights: str
    test: str
    condition: str
    threat: str
    dataset: str  # recipe
    n: int

    @property
    def key(self) -> str:
        """The name of its certificates in the ledger."""
        return certificate_key(self.net, self.weights, self.test, self.condition, self.threat, METHOD, VERSION)

    @property
    def name(self) -> str:
        """Its key."""
        return f"{self.key}-certificate"

    def __str__(self) -> str:
        """For a person."""
        return f"the certificates of {self.weights[:8]}"

    def do(self, place: Place) -> list[Document]:
        """Bound what was not bounded before."""
        with locked(place.store.root / "locks" / self.key):
            missing = missing_of(place.ledger, self)
            if not missing:
                return []
            record = _record(place, self, missing)
            place.ledger.add(record)
            return [record]


def missing_of(ledger: Ledger, wanted: Certify) -> list[int]:
    """The images that no certificate was asked about; none where there is no bound whatever the images."""
    known = ledger.of(wanted.key, CertificateRecord)
    if any(record.without for record in known):
        return []
    asked = {i for record in known for i in record.asked}
    return [i for i in range(wanted.n) if i not in asked]


def certify(
    exam: Exam, place: Place, executor: Executor, models: Sequence[tuple[str, str]], report: Callable[[str], None]
) -> None:
    """Bound every model, by net and weights, under each condition in which attacks are asked; what fails is told."""
    conditions = dict.fromkeys(
        condition for name, condition in exam.questions
        if any(cell.threat and ":" in cell.threat for cell in exam.cells("", "", name, condition))
    )  # fmt: skip
    test, recipe = exam.dataset.test.hash, exam.dataset_recipe.written
    wanted = [
        Certify(net, weights, test, condition, str(exam.threat), recipe, exam.n)
        for net, weights in dict.fromkeys(models) for condition in conditions
    ]  # fmt: skip
    for task, result in executor(place, [task for task in wanted if missing_of(place.ledger, task)]):
        if not isinstance(result, list):
            report(f"no certificate: {result}")
            continue
        for found in result:
            if isinstance(found, CertificateRecord):
                report(f"certificate: {task.weights[:8]}: {said(found)}")


def said(record: CertificateRecord) -> str:
    """What a certificate says, for a person."""
    if record.without:
        return record.without
    return f"{len(record.certified)} of {len(record.asked)} images are certified under {record.threat}"


def key_for(cell: Cell) -> str:
    """The key of what may be certified of a cell; empty for a cell without a ball."""
    if not cell.threat or ":" not in cell.threat:
        return ""
    return certificate_key(cell.net, cell.weights, cell.test, cell.condition, cell.threat, METHOD, VERSION)


def standing(ledger: Ledger, cell: Cell, n: int) -> set[int]:
    """The images that are certified to stand in a cell; none of a cell without a ball."""
    key = key_for(cell)
    return {i for record in ledger.of(key, CertificateRecord) for i in record.certified if i < n} if key else set()


def with_certificates(outcome: Outcome, ledger: Ledger, cell: Cell) -> Outcome:
    """A cell's outcome, in which certified images count as asked: what the attack would find is known."""
    held = standing(ledger, cell, len(outcome.asked))
    if not held:
        return outcome
    asked = outcome.asked.copy()
    asked[list(held)] = True
    return replace(outcome, asked=asked)


def _record(place: Place, wanted: Certify, asked: Sequence[int]) -> CertificateRecord:
    be_exact(THREADS)
    started = time.perf_counter()
    dataset = place.dataset(place.registry.parse("dataset", wanted.dataset))
    subject = place.fresh(wanted.net, wanted.weights, dataset.shape)
    condition = Condition.parse(wanted.condition)
    corruption = find_corruption(condition.corruption, place.registry, dataset) if condition.corruption else None
    doubted = [d.code for d in checked(place, wanted.net, wanted.weights, dataset).doubts if d.code in NO_FUNCTION]
    held: list[int] = []
    done, without = 0, ""
    try:
        if subject.random:
            raise NoBoundError("no bound: the model draws random numbers")
        if doubted:
            raise NoBoundError(f"no bound: a check doubts that the model is one function: {', '.join(doubted)}")
        for some in torch.tensor(asked).split(place.batch):
            x, y = images(dataset.test, some, place.device, corruption, condition.severity)
            found = certified(subject.module, x, y, ThreatModel.parse(wanted.threat), subject.tile)
            held += some[found.cpu()].tolist()
            done += len(some)
    except NoBoundError as error:
        held, without = [], str(error)
    be_exact(THREADS)
    seconds = round(time.perf_counter() - started, 3)
    return CertificateRecord(
        key=wanted.key, net=wanted.net, weights=wanted.weights, dataset=dataset.name, test=wanted.test,
        condition=wanted.condition, threat=wanted.threat, method=METHOD, version=VERSION, asked=list(asked),
        certified=held, without=without, cost=Spent(forwards=PASSES * done, backwards=0, seconds=seconds),
        **about(place.device, subject.tile),
    )  # fmt: skip


PASSES = 6  # forwards of an image that a bound costs: of its middle, its width and its rounding, and three to hold it
