"""Weights for the exam: from the ledger and store if they are there, else trained or fetched."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from bench.errors import RampartError, TrainingError, UsageError
from bench.exam import Training
from bench.files import locked
from bench.fitting import out_of_memory
from bench.history import Log
from bench.origin import about, source_hash
from bench.place import build, cores
from bench.recipe import Recipe
from bench.records import Document, Spent, TrainingRecord
from bench.report import Reporter
from bench.sandbox import Sandboxed
from bench.schooling import foreign_training, school
from bench.size import count
from bench.threat import ThreatModel
from bench.together import announce, local_ranks, ranks, sum_over_ranks
from bench.training import TrainJob
from bench.victim import be_exact, logits_of, small

if TYPE_CHECKING:
    from bench.place import Place


@dataclass(frozen=True)
class Lesson:
    """A training to be had; its recipes are texts, so that it travels to other processes."""

    training: Training
    defense: str
    net: str
    dataset: str
    label: str  # the defense as a person would write it: what differs from its preset
    threat: str  # the one that is trained for, or where there is none validated under

    @property
    def name(self) -> str:
        """The training's key."""
        return self.training.key

    def __str__(self) -> str:
        """For a person."""
        return f"{self.label} (seed {self.training.seed})"

    def do(self, place: Place) -> list[Document]:
        """Obtain it here; progress goes to standard error."""
        return [obtain(place, self, report=Reporter().line)[0]]

    def beside(self, place: Place) -> None:
        """Take part in it where another process leads, and keep nothing."""
        _learn(place, self, _job(place, self, report=lambda _line: None))


def existing(place: Place, training: Training) -> TrainingRecord | None:
    """The record of a training whose weights are all in the store."""
    for record in place.ledger.of(training.key, TrainingRecord):
        if all(name in place.store for name in record.weights.values()):
            return record
    return None


def obtain(place: Place, lesson: Lesson, *, report: Callable[[str], None]) -> tuple[TrainingRecord, bool]:
    """The record of the weights, and whether they were made now.

    A second process that wants the same training waits for the first, then finds it done.
    """
    training = lesson.training
    with locked(place.store.root / "locks" / training.key):
        record = existing(place, training)
        if record is not None:
            return record, False
        announce(lesson)
        name = f"{lesson.label} (seed {training.seed})"
        job = _job(place, lesson, report=lambda line: report(f"{name}: {line}"))
        job.log = Log(place.store.root / "histories" / f"{training.key}.jsonl", place.tensorboard, name)
        record = _record(place, lesson, job, _learn(place, lesson, job))
        place.ledger.add(record)
        shutil.rmtree(job.scratch, ignore_errors=True)
    return record, True


def _job(place: Place, lesson: Lesson, *, report: Callable[[str], None]) -> TrainJob:
    """What the defense is given."""
    dataset, training = place.dataset(place.registry.parse("dataset", lesson.dataset)), lesson.training
    net = place.registry.parse("net", lesson.net)
    return TrainJob(
        train=dataset.train, val=dataset.val, shape=dataset.shape, build=partial(build, net, dataset.shape),
        threat=ThreatModel.parse(lesson.threat), seed=training.seed, device=place.device,
        scratch=place.store.scratch(training.key), key=training.key, report=report,
        build_other=lambda recipe: build(place.registry.parse("net", recipe), dataset.shape),
    )  # fmt: skip


@dataclass(frozen=True)
class Learnt:
    """What a training came to; fence: the sandbox that it ran in, if any."""

    module: nn.Module
    snapshots: Iterator[tuple[int, dict[str, torch.Tensor]]]  # by epoch
    fence: str = ""


def _learn(place: Place, lesson: Lesson, job: TrainJob) -> Learnt:
    """Train; passes are those of all processes that train together."""
    defense, net = place.registry.parse("defense", lesson.defense), place.registry.parse("net", lesson.net)
    be_exact(max(1, training_threads(job.build()) // local_ranks()))
    if place.fence is not None and foreign_training(defense, net):
        if ranks() > 1:
            raise UsageError(f"--sandbox trains {defense} in one process; torchrun started {ranks()}")
        taught = school(place.fence, defense, net, job)
        check_taught(defense, net, job, taught.module)
        return Learnt(taught.module, iter(taught.snapshots.items()), place.fence.mode)
    module = train(defense, net, job)
    job.passes[:] = sum_over_ranks(torch.tensor(job.passes, device=job.device)).tolist()
    return Learnt(module, _snapshots(job))


def training_threads(module: nn.Module) -> int:
    """Threads of a training: one for small nets, which gain nothing from more, else one a core."""
    return 1 if small(module) else cores()


def train(defense: Recipe, net: Recipe, job: TrainJob) -> nn.Module:
    """The defense's model, checked; an exception of its own is named after it."""
    try:
        module: object = defense.plugin.function(job, **defense.plugin.arguments(defense.settings))
    except TrainingError as error:
        raise TrainingError(f"defense {defense}: {error}") from error
    except (RampartError, KeyboardInterrupt):
        raise
    except BaseException as error:  # also sys.exit(): a defense does not end a run
        if out_of_memory(error):
            raise TrainingError(f"defense {defense} ran out of memory; a smaller batch=… may fit") from error
        raise TrainingError(f"defense {defense} failed: {error!r}; no record was written") from error
    if not isinstance(module, nn.Module):
        raise TrainingError(f"defense {defense} gave {type(module).__name__}; expected a torch module of job.net()")
    check_taught(defense, net, job, module)
    return module


def check_taught(defense: Recipe, net: Recipe, job: TrainJob, module: nn.Module) -> None:
    """TrainingError unless the weights are the net's and numbers, and the net gives one logit a class."""
    _rebuildable(defense, net, job, module.state_dict())
    if job.best is not None:
        _rebuildable(defense, net, job, job.best)
    if not isinstance(module, Sandboxed):  # of which every pass is looked at
        _answers(net, job)


def _answers(net: Recipe, job: TrainJob) -> None:
    """A module of the net must give one logit a class."""
    shape = job.shape
    with torch.no_grad():
        logits = logits_of(job.build().eval(), torch.zeros(2, shape.channels, shape.size, shape.size))
    if logits.shape[1] != shape.classes:
        raise TrainingError(f"the net {net} gives {logits.shape[1]} logits; the data set has {shape.classes} classes")


def _rebuildable(defense: Recipe, net: Recipe, job: TrainJob, state: dict[str, torch.Tensor]) -> None:
    """Weights must fit the registered net, so that anyone can rebuild the model, and be numbers."""
    wanted = {k: v.shape for k, v in job.build().state_dict().items()}
    if {k: v.shape for k, v in state.items()} != wanted:
        raise TrainingError(
            f"defense {defense} gave a module that is not the net {net}: their weights differ in name or "
            "shape; another forward or layout is another net, to be registered with @net"
        )
    for name, tensor in state.items():
        if not tensor.float().isfinite().all():
            raise TrainingError(f"defense {defense}: {name} has values that are not numbers; nothing was published")


def _snapshots(job: TrainJob) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """The weights that were kept on the way, by epoch."""
    files = (job.scratch / "snapshots").glob("*.pt")
    for path in sorted(files, key=lambda p: int(p.stem)):
        yield int(path.stem), torch.load(path, map_location="cpu", weights_only=True)


def _record(place: Place, lesson: Lesson, job: TrainJob, learnt: Learnt) -> TrainingRecord:
    training, shape = lesson.training, job.shape
    defense, net = place.registry.parse("defense", lesson.defense), place.registry.parse("net", lesson.net)
    dataset = place.dataset(place.registry.parse("dataset", lesson.dataset))
    parameters, macs = count(learnt.module, shape)
    described = {
        "net": training.net, "classes": str(shape.classes), "channels": str(shape.channels), "size": str(shape.size)
    }  # fmt: skip
    last = place.store.put(learnt.module.state_dict(), described)
    best = last if job.best is None else place.store.put(job.best, described)
    kept = {f"epoch-{epoch}": place.store.put(state, described) for epoch, state in learnt.snapshots}
    return TrainingRecord(
        key=training.key, defense=training.defense, net=training.net, label=lesson.label, net_label=str(net),
        dataset=dataset.learnt or dataset.name, train=training.train, val=training.val, threat=training.threat,
        seed=training.seed, parameters=parameters, macs=macs, weights={"best": best, "last": last, **kept},
        history=job.history,
        cost=Spent(
            forwards=job.passes[0], backwards=job.passes[1],
            seconds=round(sum(float(h["seconds"]) for h in job.history if "seconds" in h), 3),
        ),
        source=source_hash(defense.plugin), **about(place.device, 0, learnt.fence),
    )  # fmt: skip
