"""The training loop that most defenses share: schedule, averages, validation, checkpoints, alarms."""

from __future__ import annotations

import io
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.average import Average
from bench.course import Course
from bench.errors import IntegrityError, TrainingError
from bench.feed import Batch
from bench.files import write_atomically
from bench.passes import lean
from bench.report import duration
from bench.together import add_up, of_the_first, rank, ranks, share, sum_over_ranks
from bench.training import TrainJob, weights_of

Loss = Callable[[nn.Module, Batch], Tensor]  # a scalar, to go down
Hook = Callable[[nn.Module, Batch], None]
LAYOUT = 2  # of a checkpoint; raise it when what is in one changes
TELL = 5.0  # seconds between lines inside an epoch
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)  # noqa: SLF001


def fit(
    job: TrainJob,
    model: nn.Module,
    loss: Loss,
    course: Course,
    *,
    before_epoch: Callable[[nn.Module, int], None] = lambda _model, _epoch: None,
    after_step: Hook = lambda _model, _feed: None,
    also: Mapping[str, nn.Module] | None = None,
    replays: int = 1,
) -> nn.Module:
    """Train, and return the last weights (or their average); the best by validation go to the job.

    loss: a mean over the images of the batch.  Where several processes train together each is given its part of the
    batch, and what a loss takes from all of its images it must take by sum_over_ranks.
    before_epoch is called with the model and the epoch, after_step with the model and the batch.  `also` are modules
    that they change and that must survive a crash; those of their weights that want gradients are trained, too.
    replays: how often a batch is used in a row.  Killed at any moment and run again, or stopped by SIGTERM, it ends
    in the same weights on the same machine.
    """
    with _low_precision(model, course):
        return _Training(job, lean(model), course, also or {}, replays).run(loss, before_epoch, after_step)


class _Training:
    """All that the next step depends on, and the steps."""

    def __init__(
        self, job: TrainJob, model: nn.Module, course: Course, also: Mapping[str, nn.Module], replays: int
    ) -> None:
        self.job, self.model, self.course, self.also, self.replays = job, model, course, also, replays
        self.optimizer = _optimizer([model, *also.values()], course)
        self.feed = job.feed(course)
        self.batches = self.feed.steps(course.batch)
        share(self.feed.least(course.batch))  # or an error, before the first step
        self.average: Average | None = None
        if course.ema or course.swa:
            follower = lean(job.net())
            follower.load_state_dict(model.state_dict())
            self.average = Average(follower, course, course.epochs * self.batches * replays)
        self.epoch, self.place, self.seconds = 1, 0, 0.0  # the next batch
        self.total, self.images = torch.zeros((), device=job.device), 0  # of the running epoch
        self.told = time.perf_counter()
        self.before: dict[str, Tensor] | None = None  # the judged weights of the epoch before
        self.halted = False
        self.asked: Callable[[], bool] = lambda: False  # to stop
        self.stop = False  # whether any process that trains with this one was asked

    @property
    def judged(self) -> nn.Module:
        """The model whose weights count."""
        return self.model if self.average is None or not self.average.started else self.average.module

    def run(self, loss: Loss, before_epoch: Callable[[nn.Module, int], None], after_step: Hook) -> nn.Module:
        """From where it was left to the end."""
        self._resume()
        with _deferred() as self.asked:
            while self.epoch <= self.course.epochs and not self.halted:
                if self.place == 0:
                    self._draw_anew()
                    before_epoch(self.model, self.epoch)
                started = time.perf_counter()
                for place in range(self.place, self.batches):
                    self._batch(loss, after_step, place)
                    if self.stop or (ranks() == 1 and self.asked()):
                        self.seconds += time.perf_counter() - started
                        self._save()
                        raise KeyboardInterrupt
                    self._tell(started)
                self._end_epoch(started)
            if self.asked():  # in the validation of the last epoch
                raise KeyboardInterrupt
        self._check_collapse()
        return self.judged

    def _draw_anew(self) -> None:
        """Seed what draws without names, as dropout does: by epoch, and for each process of its own."""
        torch.manual_seed(self.job.seed * 1_000_003 + self.epoch + rank() * 7_368_787 * (1 + self.place))

    def _batch(self, loss: Loss, after_step: Hook, place: int) -> None:
        feed = self.feed.batch(self.course.batch, self.epoch, place, self.course.augment)
        for replay in range(self.replays):
            step = place * self.replays + replay
            rate, momentum = self.course.rate(self.epoch, step, self.batches * self.replays)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
                if "momentum" in group:
                    group["momentum"] = momentum
            self.model.train()
            images = self._step(loss, feed)
            if not images:
                raise TrainingError(self._what_fits(loss, feed))
            after_step(self.model, feed)
            if self.average is not None:
                self.average.after_step(self.model)
        self.place, self.images = place + 1, self.images + images

    def _step(self, loss: Loss, feed: Batch) -> int:
        """Move the weights; the images that counted, or 0 where memory ran out: what was held then is free again."""
        try:
            value = loss(self.model, feed)
            self.optimizer.zero_grad(set_to_none=True)
            if ranks() == 1:
                value.backward()
                total, images = value.detach() * len(feed), len(feed)
            else:
                total, images = self._together(value * len(feed), len(feed))
            self.optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            return 0
        self.total += total / self.replays
        return images

    def _together(self, loss: Tensor, images: int) -> tuple[Tensor, int]:
        """Gradients of the whole batch: the sum of the losses of its images, and how many these are."""
        loss.backward()
        every = [p for group in self.optimizer.param_groups for p in group["params"]]
        total, images, self.stop = add_up(every, loss.detach(), images, self.asked())
        return total, images

    def _what_fits(self, loss: Loss, feed: Batch) -> str:
        """The message of a training that ran out of memory: which batch would not have."""
        if ranks() > 1:  # the others are not here to try
            return f"a batch of {self.course.batch} images on {ranks()} processes does not fit in memory"
        size = len(feed) // 2
        while size:
            self.optimizer.zero_grad(set_to_none=True)
            if self.job.device.type == "cuda":
                torch.cuda.empty_cache()
            try:
                loss(self.model, feed[:size]).backward()
            except Exception as error:  # noqa: BLE001  a loss may not take a part of a batch
                if not out_of_memory(error):
                    return f"a batch of {self.course.batch} images does not fit in memory; a smaller batch=… may"
                size //= 2
                continue
            return f"a batch of {self.course.batch} images does not fit in memory; batch={size} does"
        return f"not even a batch of one image fits in memory (batch={self.course.batch} was asked for)"

    def _end_epoch(self, started: float) -> None:
        job, course = self.job, self.course
        mean = float(self.total) / self.images
        if not math.isfinite(mean):
            raise TrainingError(f"the loss is {mean} in epoch {self.epoch}; nothing was published; a lower lr may help")
        if self.average is not None:
            self.average.after_epoch(self.model, self.epoch, self._clean_images)
        robust, clean = job.validate(self.judged)
        best = False
        if len(job.val) and job.predicted != 1:  # a model that gives one class to everything is robust and worthless
            best = job.keep_if_best(self.judged, (robust, clean) if course.select == "robust" else (clean, robust))
        seconds = self.seconds + time.perf_counter() - started
        entry = {
            "epoch": self.epoch, "loss": mean, "val_clean": clean, "val_pgd10": robust,
            "lr": self.optimizer.param_groups[0]["lr"], "seconds": round(seconds, 3),
            **({"best": True} if best else {}), **({"ranks": ranks()} if ranks() > 1 else {}), **job.seen(),
        }  # fmt: skip
        self._keep_snapshot()
        self._watch_for_collapse(entry)
        job.history.append(entry)
        if course.collapse == "stop" and not self.halted:
            self.before = weights_of(self.judged)
        self.epoch, self.place, self.seconds = self.epoch + 1, 0, 0.0
        self.total.zero_()
        self.images = 0
        self._save()
        job.log(job.history)
        job.report(self._sentence(entry))

    def _watch_for_collapse(self, entry: dict[str, Any]) -> None:
        """Catastrophic overfitting (Wong et al., 2020): from one epoch to the next the robustness is gone."""
        if self.course.select != "robust" or not self.job.history or not len(self.job.val):
            return
        before, now = self.job.history[-1]["val_pgd10"], entry["val_pgd10"]
        if before - now <= self.course.fall:
            return
        entry["note"] = f"collapse: PGD-10 accuracy fell from {before:.1%} to {now:.1%} in one epoch"
        if self.course.collapse == "stop" and self.before is not None:
            entry["note"] += "; stopped, and the weights before were kept"
            self.judged.load_state_dict(self.before)
            self.halted = True
        self.job.report(f"epoch {self.epoch}: {entry['note']}")

    def _check_collapse(self) -> None:
        """A model that is blind is an error, whatever its loss says."""
        varied = len(self.job.val) >= 20 and len(set(self.job.val.y.tolist())) > 1
        if varied and self.job.predicted == 1 and not self.halted:
            raise TrainingError(
                "the training collapsed: the model gives every validation image the same class; "
                "nothing was published; a lower lr, or a ramp of eps, may help"
            )

    def _clean_images(self) -> Iterator[Tensor]:
        """The training images of an epoch of its own, augmented."""
        for place in range(self.batches):
            yield self.feed.batch(self.course.batch, self.epoch, place, self.course.augment).x

    def _keep_snapshot(self) -> None:
        every = self.course.snapshots
        if every and self.epoch % every == 0 and rank() == 0:
            buffer = io.BytesIO()
            torch.save(weights_of(self.judged), buffer)
            write_atomically(self.job.scratch / "snapshots" / f"{self.epoch}.pt", buffer.getvalue())

    def _tell(self, started: float) -> None:
        """Say how far a long epoch has come."""
        now = time.perf_counter()
        left = (self.seconds + now - started) / self.place * (self.batches - self.place)
        if now - self.told < TELL or left < TELL:
            return
        self.told = now
        whole = left + (self.course.epochs - self.epoch) * (left + self.seconds + now - started)
        self.job.report(
            f"epoch {self.epoch}/{self.course.epochs}, batch {self.place}/{self.batches}: {duration(whole, 0)} left"
        )

    def _sentence(self, entry: dict[str, Any]) -> str:
        left = (self.course.epochs - entry["epoch"]) * entry["seconds"]
        time_left = f", {duration(left, 0)} left" if left and not self.halted else ""
        validation = f"{entry['val_clean']:.1%} clean, {entry['val_pgd10']:.1%} under PGD-10"
        return (
            f"epoch {entry['epoch']}/{self.course.epochs}: loss {entry['loss']:.4f}, "
            f"validation {validation}, {entry['seconds']:.1f} s{time_left}"
        )

    def _save(self) -> None:
        """Write all that the next step depends on, whole or not at all; the first of several processes does."""
        job, rng = self.job, [torch.get_rng_state()]
        passes = sum_over_ranks(torch.tensor(job.passes, device=job.device)).tolist()
        watched = {name: sum_over_ranks(total) for name, total in job.watched.items()}
        if rank():
            return
        if job.device.type == "cuda":
            rng.append(torch.cuda.get_rng_state(job.device))
        buffer = io.BytesIO()
        torch.save(
            {
                "layout": LAYOUT, "of": self._of(), "images": self.images, "predicted": job.predicted,
                "epoch": self.epoch, "place": self.place, "seconds": self.seconds, "total": self.total, "rng": rng,
                "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                "also": {k: v.state_dict() for k, v in self.also.items()},
                "average": None if self.average is None else self.average.state(),
                "before": self.before, "halted": self.halted, "history": job.history, "watched": watched,
                "best": job.best, "best_score": job.best_score, "passes": passes,
            },
            buffer,
        )  # fmt: skip
        write_atomically(job.scratch / "checkpoint.pt", buffer.getvalue())

    def _of(self) -> str:
        """What a checkpoint must be of, to be continued."""
        job = self.job
        return (
            f"{job.key} seed {job.seed} for {job.threat} on {len(job.train)} images: {replace(self.course, extra='')}"
        )

    def _resume(self) -> None:
        """Go on from the last checkpoint, if there is one."""
        job, path = self.job, self.job.scratch / "checkpoint.pt"
        content = of_the_first(path) if ranks() > 1 else b"here" if path.exists() else None
        if content is None:
            return
        refused = "delete it to train from the start"
        try:
            source = path if ranks() == 1 else io.BytesIO(content)
            saved = torch.load(source, map_location=job.device, weights_only=True)
        except Exception as error:
            raise IntegrityError(f"{path} is damaged and cannot be continued; {refused}") from error
        if not isinstance(saved, dict) or saved.get("layout") != LAYOUT:
            raise IntegrityError(f"{path} was written by another version and cannot be continued; {refused}")
        if saved["of"] != self._of():
            raise IntegrityError(f"{path} is of another training, {saved['of']}; expected {self._of()}; {refused}")
        try:
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            for name, module in self.also.items():
                module.load_state_dict(saved["also"][name])
            if self.average is not None:
                self.average.load(saved["average"])
            job.history[:], job.best, job.best_score = saved["history"], saved["best"], tuple(saved["best_score"])
            job.passes[:], job.watched, job.predicted = saved["passes"], saved["watched"], saved["predicted"]
            self.epoch, self.place, self.seconds = saved["epoch"], saved["place"], saved["seconds"]
            self.total, self.images = saved["total"], saved["images"]
            self.before, self.halted = saved["before"], saved["halted"]
            torch.set_rng_state(saved["rng"][0].cpu())
            if job.device.type == "cuda":
                torch.cuda.set_rng_state(saved["rng"][1].cpu(), job.device)
            if rank():  # the first has the counts of all
                job.passes[:], job.watched = [0, 0], {k: torch.zeros_like(v) for k, v in job.watched.items()}
                self._draw_anew()
        except Exception as error:
            raise IntegrityError(f"{path} does not fit this training: {error}; {refused}") from error
        if job.history:
            job.log(job.history)  # it may have ended between the checkpoint and the log
        where = f"epoch {self.epoch - 1}" if not self.place else f"batch {self.place} of epoch {self.epoch}"
        job.report(f"continuing after {where}")


def _optimizer(modules: list[nn.Module], course: Course) -> torch.optim.Optimizer:
    """SGD or Adam over all weights that want gradients; normalisation layers decay only where the course says so."""
    norms = {
        p for module in modules for m in module.modules()
        if isinstance(m, NORMS) for p in m.parameters()
    }  # fmt: skip
    every = [p for module in modules for p in module.parameters() if p.requires_grad]
    spared = [p for p in every if p in norms and not course.decay_norms]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in every if not any(p is s for s in spared)], "weight_decay": course.decay},
        *([{"params": spared, "weight_decay": 0.0}] if spared else []),
    ]
    if course.optimizer == "adam":
        return torch.optim.Adam(groups, lr=course.lr)
    return torch.optim.SGD(groups, lr=course.lr, momentum=course.momentum, nesterov=course.nesterov)


@contextmanager
def _low_precision(model: nn.Module, course: Course) -> Iterator[None]:
    """Passes of the model in bfloat16 where the course asks for it; its logits are float32 all the same."""
    if course.precision == "float32":
        yield
        return
    plain = model.forward

    def forward(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            logits: Tensor = plain(x)
        return logits.float()

    model.forward = forward
    try:
        yield
    finally:
        del model.forward


@contextmanager
def _deferred() -> Iterator[Callable[[], bool]]:
    """SIGTERM and Ctrl-C wait for the end of a step, so that the checkpoint is whole; a second Ctrl-C does not."""
    asked: list[int] = []

    def note(number: int, _frame: object) -> None:
        if number == signal.SIGINT and number in asked:  # a worker is told twice to end, by a terminal and its parent
            raise KeyboardInterrupt
        asked.append(number)

    try:
        heard = [n for n in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(n) != signal.SIG_IGN]
        before = {number: signal.signal(number, note) for number in heard}
    except ValueError:  # signals belong to the main thread
        yield lambda: False
        return
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def out_of_memory(error: BaseException) -> bool:
    """Whether that is what an error says, on an accelerator or a CPU."""
    said = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return said or isinstance(error, torch.OutOfMemoryError | MemoryError)
