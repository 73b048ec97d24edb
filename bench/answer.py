"""Answering one question: attack some images of a cell, judge, and write the record."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bench.doubts import doubts_of
from bench.evaluate import Verdict, images, judge
from bench.exam import Cell, Condition, Shape
from bench.origin import about, source_hash
from bench.place import THREADS
from bench.records import Record, Spent
from bench.surrogates import surrogates
from bench.threat import ThreatModel
from bench.victim import be_exact

if TYPE_CHECKING:
    from bench.place import Place


@dataclass(frozen=True)
class Question:
    """Some images of a cell; plain values, so that it travels to other processes."""

    cell: Cell
    asked: tuple[int, ...]
    dataset: str  # recipe
    shape: Shape

    def do(self, place: Place) -> Record:
        """Answer it here."""
        return answer(place, self)


def answer(place: Place, question: Question) -> Record:
    """Attack, judge, write; the record is in the ledger when this returns."""
    be_exact(THREADS)
    cell, started = question.cell, time.perf_counter()
    attack = place.registry.parse("attack", cell.attack)
    condition = Condition.parse(cell.condition)
    dataset = place.dataset(place.registry.parse("dataset", question.dataset))
    subject = place.subject(cell.net, cell.weights, question.shape, cell.precision)
    corruption = place.registry.parse("corruption", condition.corruption) if condition.corruption else None
    first = torch.tensor(question.asked[: subject.tile])
    doubts = doubts_of(subject, images(dataset.test, first, place.device, corruption, condition.severity)[0])
    verdict = judge(
        subject, attack, ThreatModel.of_cell(cell.threat) if cell.threat else None, dataset.test,
        torch.tensor(question.asked), seed=cell.seed, batch=place.batch, device=place.device,
        corruption=corruption, severity=condition.severity, surrogates=surrogates(attack, place, question.shape),
    )  # fmt: skip
    record = Record(
        key=cell.key, net=cell.net, weights=cell.weights, dataset=dataset.name, test=cell.test,
        condition=cell.condition, threat=cell.threat, attack=cell.attack, seed=cell.seed, precision=cell.precision,
        asked=verdict.asked.tolist(), fell=verdict.asked[verdict.fell].tolist(),
        images=_sidecar(place, cell, verdict), bundle=_bundle(place, verdict), source=source_hash(attack.plugin),
        cost=Spent(
            forwards=int(verdict.forwards.sum()), backwards=int(verdict.backwards.sum()),
            seconds=round(time.perf_counter() - started, 3),
        ),
        doubts=doubts, **about(place.device, subject.tile),
    )  # fmt: skip
    place.ledger.add(record)
    return record


def _sidecar(place: Place, cell: Cell, verdict: Verdict) -> str:
    arrays = {
        "predicted": verdict.predicted.int(), "margin": verdict.margin, "distance": verdict.distance,
        "forwards": verdict.forwards.int(), "backwards": verdict.backwards.int(),
    }  # fmt: skip
    return place.ledger.put_images(cell.key, {k: v.numpy() for k, v in arrays.items()})


def _bundle(place: Place, verdict: Verdict) -> str | None:
    """Keep the fallen images, and their places, as the evidence."""
    if not verdict.fell.any():
        return None
    return place.store.put({"ids": verdict.asked[verdict.fell], "images": verdict.adversarial})
