"""Answering one question: attack some images of a cell, judge, and write the record."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.bundles import make
from bench.checked import checked, known_thorough
from bench.doubts import DRIFTS, FICKLE
from bench.evaluate import Verdict, images, judge_together
from bench.exam import CLEAN, Cell, Condition, Shape
from bench.files import range_locked
from bench.honesty import answers, drifted
from bench.official import corruption as find_corruption
from bench.origin import about, source_hash
from bench.place import THREADS
from bench.recipe import Access, Attack, Recipe
from bench.records import Document, Record, Spent
from bench.sandbox import sandbox_of
from bench.surrogates import surrogates
from bench.threat import ThreatModel
from bench.victim import be_exact

if TYPE_CHECKING:
    from bench.place import Place


@dataclass(frozen=True)
class Question:
    """Some images of a cell, in order; plain values, so that it travels to other processes."""

    cell: Cell
    asked: tuple[int, ...]
    dataset: str  # recipe
    shape: Shape
    also: tuple[Cell, ...] = ()  # cells of the same kin: one run of the attack answers them too
    patient: bool = False  # waits for another process that is answering some of it

    @property
    def name(self) -> str:
        """Its cell's key and its first image."""
        return f"{self.cell.key}-{self.asked[0]}"

    def __str__(self) -> str:
        """For a person."""
        cell = self.cell
        under = "" if cell.condition == CLEAN else f" under {cell.condition.partition('@')[0]}"
        attack = cell.attack.partition("@")[0]
        return f"{attack} on {cell.weights[:8]}{under}, images {self.asked[0]} to {self.asked[-1]}"

    def do(self, place: Place) -> list[Document]:
        """Answer it here: a record for each cell, about the images that nobody asked since the question was put.

        None where another process is answering some of it; with `patient` that one's end, good or bad, comes first.
        """
        cells = sorted({self.cell, *self.also}, key=lambda cell: cell.key)  # one order, so that no two wait in a ring
        with ExitStack() as held:
            for cell in cells:
                lock = range_locked(
                    place.store.root / "locks" / cell.key, self.asked[0], self.asked[-1], wait=self.patient
                )
                if not held.enter_context(lock):
                    return []
            known = {i for cell in cells for record in place.ledger.of(cell.key, Record) for i in record.asked}
            asked = tuple(i for i in self.asked if i not in known)
            return list(answer(place, replace(self, asked=asked))) if asked else []


def answer(place: Place, question: Question) -> list[Record]:
    """Attack, judge, write; the records are in the ledger when this returns."""
    be_exact(THREADS)
    cell, started = question.cell, time.perf_counter()
    attacks = [place.registry.parse("attack", c.attack) for c in (cell, *question.also)]
    condition = Condition.parse(cell.condition)
    dataset = place.dataset(place.registry.parse("dataset", question.dataset))
    subject = place.subject(cell.net, cell.weights, question.shape, cell.precision)
    spoilt = condition.corruption
    corruption = find_corruption(spoilt, place.registry, dataset) if spoilt else None

    def look(asked: Tensor) -> tuple[Tensor, Tensor]:
        return images(dataset.test, asked, place.device, corruption, condition.severity)

    doubts = [doubt.text for doubt in checked(place, cell.net, cell.weights, dataset).doubts]
    closer = known_thorough(place, cell.net, cell.weights, cell.test, cell.threat) if cell.threat else None
    doubts += [doubt.text for doubt in closer.doubts] if closer else []
    x = look(torch.tensor(question.asked[: subject.tile]))[0]
    before = None if subject.random or FICKLE in doubts else answers(subject, x)
    threat = ThreatModel.of_cell(cell.threat) if cell.threat else None
    verdicts = judge_together(
        subject, attacks, threat, dataset.test, torch.tensor(question.asked),
        seed=cell.seed, batch=place.batch, device=place.device, corruption=corruption, severity=condition.severity,
        surrogates=surrogates(attacks[0], place, question.shape),
    )  # fmt: skip
    if before is not None and drifted(subject, x, before):
        doubts.append(DRIFTS)
    records = []
    for c, attack, verdict in zip((cell, *question.also), attacks, verdicts, strict=True):
        seconds = time.perf_counter() - started if c is cell else 0.0
        kept = make(verdict, subject, threat, dataset.test, look) if _proves(attack, verdict) else None
        record = Record(
            key=c.key, net=c.net, weights=c.weights, dataset=dataset.name, test=c.test,
            condition=c.condition, threat=c.threat, attack=c.attack, seed=c.seed, precision=c.precision,
            asked=verdict.asked.tolist(), fell=verdict.asked[verdict.fell].tolist(),
            images=_sidecar(place, c, verdict), source=source_hash(attack.plugin), paper=attack.plugin.paper,
            bundle=place.store.put(kept) if kept else None,
            cost=Spent(
                forwards=int(verdict.forwards.sum()), backwards=int(verdict.backwards.sum()), seconds=round(seconds, 3)
            ),
            access=_access(attack) if c.threat else None, run=None if c is cell else cell.key, doubts=doubts,
            **about(place.device, subject.tile, sandbox_of(subject.module)),
        )  # fmt: skip
        place.ledger.add(record)
        records.append(record)
    return records


def _access(attack: Recipe) -> Access:
    """What an attack may ask of the model."""
    assert isinstance(attack.plugin, Attack)
    return attack.plugin.access


def _sidecar(place: Place, cell: Cell, verdict: Verdict) -> str:
    arrays = {
        "predicted": verdict.predicted.int(), "margin": verdict.margin, "distance": verdict.distance,
        "forwards": verdict.forwards.int(), "backwards": verdict.backwards.int(),
    }  # fmt: skip
    return place.ledger.put_images(cell.key, {k: v.numpy() for k, v in arrays.items()})


def _proves(attack: Recipe, verdict: Verdict) -> bool:
    """Whether there are fallen images to keep; those of clean are the test images."""
    return attack.name != CLEAN and bool(verdict.fell.any())
