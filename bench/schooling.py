"""Training where foreign code is in the defense or the net: in a child, which sees no test image; weights come back."""

from __future__ import annotations

import json
import math
import shutil
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch

from bench import wire
from bench.errors import IncompleteError, ModelError, SandboxError, TrainingError, UsageError
from bench.exam import Part, Shape
from bench.fence import PATIENCE
from bench.foreign import Foreign, file_of
from bench.place import build
from bench.recipe import Recipe
from bench.sandbox import Child, clean
from bench.threat import ThreatModel
from bench.training import TrainJob

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from bench.fence import Fence
    from bench.inmate import Inmate

EPOCHS = 100_000  # entries of a history, at most
_PARTS = ("train", "val")


@dataclass(frozen=True)
class Taught:
    """What came of a training in a child."""

    module: nn.Module
    snapshots: Mapping[int, dict[str, Tensor]]  # by epoch


def foreign_training(defense: Recipe, net: Recipe) -> bool:
    """Whether a training would run code that is not imported here; what is only loaded runs none."""
    trains = getattr(defense.plugin, "trains", True)
    return bool(file_of(defense.plugin)) or (bool(file_of(net.plugin)) and trains)


def school(fence: Fence, defense: Recipe, net: Recipe, job: TrainJob) -> Taught:
    """Train in a child; the job has its history, passes and best weights afterwards.

    The child reads the training and validation images, and writes into the job's scratch folder, which outlives it.
    """
    _refuse(defense)
    job.scratch.mkdir(parents=True, exist_ok=True)
    files = list(dict.fromkeys(filter(None, (file_of(defense.plugin), file_of(net.plugin)))))
    with _emptied(job.scratch.with_name(f"{job.scratch.name}.lesson")) as shown:
        for name in _PARTS:
            _write(shown, name, getattr(job, name))
        lesson = {
            "defense": defense.written, "net": net.written, "shape": list(astuple(job.shape)), "seed": job.seed,
            "threat": str(job.threat), "key": job.key, "scratch": str(job.scratch.resolve()), "data": str(shown),
            "hashes": {name: getattr(job, name).hash for name in _PARTS}, "threads": torch.get_num_threads(),
        }  # fmt: skip
        try:
            child = Child(fence, files, everything=True, shown=[shown], written=[job.scratch.resolve()])
            try:
                return _follow(child, lesson, net, job)
            finally:
                child.end("the training is over")
        except SandboxError as error:
            raise TrainingError(f"defense {defense}: {error}; no record was written") from error
        except ModelError as error:  # its own words
            raise TrainingError(str(error)) from error


@contextmanager
def _emptied(folder: Path) -> Iterator[Path]:
    """An empty folder, which is gone afterwards; what a killed process left in it is gone before."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise IncompleteError(f"cannot write {folder}: {error.strerror}") from error
    try:
        yield folder.resolve()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _refuse(defense: Recipe) -> None:
    function = defense.plugin.function
    if isinstance(function, Foreign) and function.refused:
        raise UsageError(f"--sandbox: the defense {defense.name} {function.refused}")
    if defense.settings.get("extra"):
        raise UsageError(f"--sandbox: {defense} asks for a file of images (extra=…); a sandbox has no such file")


def _write(folder: Path, name: str, part: Part) -> None:
    """A part of a data set as files, a few images at a time: they may be more than fit into memory."""
    try:
        np.save(folder / f"{name}-y.npy", part.y)
        if not len(part):  # numpy maps no empty file
            np.save(folder / f"{name}-x.npy", part.x)
            return
        x: np.memmap[Any, np.dtype[np.uint8]] = np.lib.format.open_memmap(
            folder / f"{name}-x.npy", mode="w+", dtype=np.uint8, shape=part.x.shape
        )
        for start in range(0, len(part), 4096):
            x[start : start + 4096] = part.x[start : start + 4096]
        x.flush()
    except OSError as error:
        raise IncompleteError(f"cannot write {folder}: {error.strerror}") from error


def _follow(child: Child, lesson: Mapping[str, Any], net: Recipe, job: TrainJob) -> Taught:
    """Tell the child what to do, and take what it sends until it is done."""
    silence = child.fence.seconds * PATIENCE
    module = build(net, job.shape)
    size = sum(math.prod(v.shape) * v.dtype.itemsize for v in module.state_dict().values())
    weights = min(2 * size + (1 << 20), child.fence.memory)
    most = {wire.LINE: wire.TEXT, wire.HISTORY: wire.JSON, wire.WEIGHTS: weights, wire.DONE: wire.TEXT}
    came: dict[str, dict[str, Tensor]] = {}
    weight = 0
    child.tell(wire.TRAIN, json.dumps(lesson).encode(), seconds=silence)
    while True:
        said = child.hear(most, seconds=silence)
        match said.kind:
            case wire.LINE:
                job.report(clean(said.content.decode(errors="replace")))
            case wire.HISTORY:
                job.history[:] = _history(child, said.content)
                job.log(job.history)
            case wire.WEIGHTS:
                name, _, content = said.content.partition(b"\n")
                weight += len(content)
                if weight > 2 * child.fence.memory:  # all of it is held here
                    raise child.end(f"it sends more than {child.fence.gib} of weights, twice (--sandbox-memory)")
                came[name.decode(errors="replace")] = _tensors(child, content)
            case _:
                break
    try:
        forwards, backwards = json.loads(said.content)
        if not all(type(n) is int and 0 <= n < 2**62 for n in (forwards, backwards)):
            raise ValueError("no counts")
        job.passes[:] = forwards, backwards
        last, job.best = came.pop("last"), came.pop("best", None)
        snapshots = {int(name): state for name, state in came.items()}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise child.end(f"it ended without weights: {error!r}") from None
    try:
        module.load_state_dict(last)
    except RuntimeError:
        raise ModelError(
            f"the defense gave a module that is not the net {net}: their weights differ in name or shape"
        ) from None
    return Taught(module, snapshots)


def _tensors(child: Child, content: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(content)
    except Exception as error:  # noqa: BLE001  whatever a reader of a stranger's bytes raises
        raise child.end(f"its weights cannot be read: {error!r}") from None


def _history(child: Child, content: bytes) -> list[dict[str, Any]]:
    """Entries of numbers, texts and lists of numbers, with a number of seconds where one is given."""

    def fits(value: object) -> bool:
        if isinstance(value, list):
            return len(value) <= 10_000 and all(isinstance(v, int | float) for v in value)
        return value is None or isinstance(value, int | float | str)

    try:
        found = json.loads(content, parse_constant=lambda _: None)
        good = isinstance(found, list) and len(found) <= EPOCHS and all(
            isinstance(entry, dict) and all(map(fits, entry.values())) and float(entry.get("seconds", 0)) >= 0
            for entry in found
        )  # fmt: skip
    except (ValueError, TypeError, RecursionError):
        good = False
    if not good:
        raise child.end("its history is no list of numbers")
    return [dict(entry) for entry in found]


def learn(inmate: Inmate, told: Mapping[str, Any]) -> None:
    """In the child: train, and send the weights."""
    from bench.obtain import train
    from bench.victim import be_exact

    be_exact(told["threads"])
    registry, folder, shape = inmate.registry, Path(told["data"]), Shape(*told["shape"])
    parts = [
        Part(np.load(folder / f"{n}-x.npy", mmap_mode="r"), np.load(folder / f"{n}-y.npy"), told["hashes"][n])
        for n in _PARTS
    ]
    defense, net = registry.parse("defense", told["defense"]), registry.parse("net", told["net"])
    job = TrainJob(
        train=parts[0], val=parts[1], shape=shape, build=partial(build, net, shape),
        threat=ThreatModel.parse(told["threat"]), seed=told["seed"], device=torch.device("cpu"),
        scratch=Path(told["scratch"]), key=told["key"],
        report=lambda line: inmate.send(wire.LINE, line.encode(errors="replace")[: wire.TEXT]),
        log=lambda history: inmate.send(wire.HISTORY, json.dumps(history).encode()),
        build_other=lambda recipe: build(registry.parse("net", recipe), shape),
    )  # fmt: skip
    module = train(defense, net, job)
    states: dict[str, Mapping[str, Tensor]] = {"last": module.state_dict()}
    if job.best is not None:
        states["best"] = job.best
    for path in (job.scratch / "snapshots").glob("*.pt"):
        states[path.stem] = torch.load(path, map_location="cpu", weights_only=True)
    for name, state in states.items():
        whole = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
        inmate.send(wire.WEIGHTS, name.encode() + b"\n" + safetensors.torch.save(whole))
    inmate.send(wire.HISTORY, json.dumps(job.history).encode())
    inmate.send(wire.DONE, json.dumps(job.passes).encode())
