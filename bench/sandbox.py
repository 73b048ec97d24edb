"""A model that runs in a child process: images go in, logits and gradients come out, and nothing else is believed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import weakref
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bench import wire
from bench.errors import ModelError, SandboxError
from bench.inside import holding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from bench.fence import Fence

START = 120.0  # seconds in which a child must have loaded torch and its plugin, beside those of a pass
FAILED = {wire.FAILED: wire.TEXT}
CLASSES = 1024  # there is room for the logits of at least so many


class Child:
    """A process that runs foreign code, and what is asked of it.  One that broke a rule is ended, and stays so."""

    def __init__(
        self, fence: Fence, files: Sequence[str], *, everything: bool = False,
        shown: Sequence[Path] = (), written: Sequence[Path] = (),
    ) -> None:  # fmt: skip
        """Start it and let it import its files; everything: the installed plugins too."""
        self.fence, self.ended = fence, ""
        self.classes = CLASSES
        self.freed: list[int] = []  # graphs that nobody will ask again
        self.differentiated = 0
        self._number = self._graphs = 0
        self._room: wire.Room | None = None
        self._process, end, own = fence.start(files, shown=shown, written=written)
        self._wire = wire.Wire(end)
        self._over = weakref.finalize(self, _end, self._process, self._wire, own)
        hello = {"files": list(files), "memory": fence.memory, "all": everything}
        self.brought = self.json(wire.HELLO, hello, seconds=START + fence.seconds)

    def json(self, kind: int, document: object, *, content: bytes = b"", seconds: float = 0.0) -> Any:
        """Ask something, and get plain values; SandboxError where what comes is none."""
        said = self.ask(kind, content or json.dumps(document).encode(), {wire.DONE: wire.JSON}, seconds=seconds).content
        try:
            return json.loads(said, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise self.end(f"its answer is no JSON: {type(error).__name__}") from None

    def ask(
        self, kind: int, content: bytes, most: Mapping[int, int], *, fd: int = -1, seconds: float = 0.0
    ) -> wire.Message:
        """Send a message and take its answer, of the kinds and sizes in `most`; SandboxError where there is none."""
        self.tell(kind, content, fd=fd, seconds=seconds)
        return self.hear(most, seconds=seconds)

    def tell(self, kind: int, content: bytes, *, fd: int = -1, seconds: float = 0.0) -> None:
        """Send a message."""
        if self.ended:
            raise SandboxError(self.ended)
        self._number += 1
        with self._named(seconds):
            self._wire.send(kind, self._number & 0xFFFFFFFF, content, fd=fd, until=self._until(seconds))

    def hear(self, most: Mapping[int, int], *, seconds: float = 0.0) -> wire.Message:
        """Take one answer."""
        with self._named(seconds):
            said = self._wire.receive({**most, **FAILED}, until=self._until(seconds))
        if said.number != self._number & 0xFFFFFFFF:
            raise self.end("it answers what it was not asked")
        if said.kind == wire.FAILED:
            text = clean(said.content.decode(errors="replace"))
            if said.why == wire.MEMORY:
                raise self.end(f"it took more memory than {self.fence.gib} (--sandbox-memory): {text}")
            raise ModelError(text if said.why == wire.SAID else f"in the sandbox it raised {text}")
        return said

    def _until(self, seconds: float) -> float:
        return time.monotonic() + (seconds or self.fence.seconds)

    @contextmanager
    def _named(self, seconds: float) -> Iterator[None]:
        """What goes wrong on the wire ends the child, and is named."""
        try:
            yield
        except TimeoutError:
            said = f"it gave no answer for {seconds or self.fence.seconds:g} seconds (--sandbox-seconds)"
            raise self.end(said) from None
        except wire.ClosedError:
            raise self.end(_fate(self._process)) from None
        except wire.WireError as error:
            raise self.end(f"it does not keep to the protocol: {error}") from None
        except BaseException:
            self.end("it was interrupted")
            raise

    def end(self, why: str) -> SandboxError:
        """End it for good; the error that says why."""
        self.ended = self.ended or f"the sandbox was ended: {why}"
        self._over()
        return SandboxError(self.ended)

    def forward(self, x: Tensor, *, wants: bool, seed: int | None) -> tuple[Tensor, int, bool]:
        """Logits of images (N, C, H, W), the number of their graph, and whether there is one."""
        if x.ndim != 4 or x.dtype not in wire.DTYPES:
            raise SandboxError(f"a sandboxed model takes images (N, C, H, W), not {tuple(x.shape)} {x.dtype}")
        n, size = len(x), x.numel() * x.dtype.itemsize
        room = self._with_room(size, n * self.classes * 8)
        room.images(tuple(x.shape), x.dtype).copy_(x.detach())
        self._graphs += 1
        freed, self.freed = self.freed, []
        content = wire.PASS_.pack(
            self._graphs, seed or 0, *x.shape, wire.DTYPES.index(x.dtype), wants, seed is not None,
            torch.get_num_threads(),
        ) + b"".join(graph.to_bytes(8, "little") for graph in freed)  # fmt: skip
        said = self.ask(wire.PASS, content, {wire.LOGITS: wire.LOGITS_.size}).content
        if len(said) != wire.LOGITS_.size:
            raise self.end("its answer is too short")
        rows, classes, kind, graph, wrote, backwards = wire.LOGITS_.unpack(said)
        if rows != n or classes < 2 or kind >= len(wire.DTYPES):
            raise self.end(f"it says that it gave logits ({rows}, {classes}) for {n} images")
        try:
            logits = room.logits((rows, classes), wire.DTYPES[kind]).clone()
        except wire.WireError as error:
            raise self.end(str(error)) from None
        self.differentiated += backwards
        if wrote and not wants:
            x.copy_(room.images(tuple(x.shape), x.dtype))
        return logits, self._graphs, bool(graph)

    def backward(self, graph: int, above: Tensor, shape: torch.Size, dtype: torch.dtype, *, again: bool) -> Any:
        """The gradient by the images of a pass, from that by its logits; None where there is none."""
        assert self._room is not None
        self._room.logits(tuple(above.shape), above.dtype).copy_(above)
        content = wire.BACK_.pack(graph, *above.shape, wire.DTYPES.index(above.dtype), again)
        said = self.ask(wire.BACK, content, {wire.GRAD: wire.GRAD_.size}).content
        return self._room.images(tuple(shape), dtype).clone() if said == b"\1" else None

    def _with_room(self, images: int, logits: int) -> wire.Room:
        """The shared memory, large enough."""
        if self._room is None or images > self._room.sizes[0] or logits > self._room.sizes[1]:
            images = -(-images // 64) * 64
            fd = wire.Room.file(images, logits)
            try:
                self.ask(wire.ROOM, json.dumps([images, logits]).encode(), {wire.DONE: wire.TEXT}, fd=fd)
            except BaseException:
                os.close(fd)
                raise
            self._room = wire.Room(fd, images, logits)
        return self._room


def _end(process: subprocess.Popen[bytes], end: wire.Wire, own: str) -> None:
    """Kill a child, wait for it, and remove its folder."""
    process.kill()
    process.wait()
    end.close()
    if process.stderr:
        process.stderr.close()
    if own:
        shutil.rmtree(own, ignore_errors=True)


def _fate(process: subprocess.Popen[bytes]) -> str:
    """How a child ended by itself."""
    try:
        code = process.wait(5)
    except subprocess.TimeoutExpired:
        return "it closed the connection"
    said = ""
    if process.stderr:
        os.set_blocking(process.stderr.fileno(), False)
        said = (process.stderr.read(4000) or b"").decode(errors="replace").strip()
    last = f": {clean(said.splitlines()[-1])}" if said else ""
    if code < 0 or code > 128:
        return f"it was killed by signal {-code if code < 0 else code - 128}{last}"
    return f"it exited with code {code}{last}"


def clean(text: str) -> str:
    """A stranger's words, fit for a terminal: one line, no control characters, not too long."""
    return re.sub(" +", " ", "".join(c if c.isprintable() else " " for c in text[:4000]))[:1000]


def _no_number(name: str) -> float:
    raise ValueError(name)


@dataclass(frozen=True)
class Told:
    """What a child says of a net that it built."""

    parameters: int
    macs: int | None
    state: Mapping[str, tuple[tuple[int, ...], torch.dtype]]
    prefix: str | None = None
    ignored: tuple[str, ...] = ()

    @classmethod
    def read(cls, said: Any) -> Told:
        """From plain values; ValueError, TypeError or KeyError where they are others."""
        state = {str(k): (tuple(int(d) for d in shape), _DTYPES[dtype]) for k, (shape, dtype) in said["state"].items()}
        if min((d for shape, _ in state.values() for d in shape), default=0) < 0:
            raise ValueError("a negative size")
        macs, prefix = said["macs"], said["prefix"]
        return cls(
            _count(said["parameters"]), None if macs is None else _count(macs), state,
            None if prefix is None else str(prefix), tuple(str(k) for k in said["ignored"]),
        )  # fmt: skip


_DTYPES = {
    str(d).removeprefix("torch."): d
    for d in (*wire.DTYPES, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
}


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(f"{value!r} is no count")
    return value


@dataclass
class Cage:
    """What the copies of a sandboxed module share: how to start its child, and the child once it runs."""

    fence: Fence
    start: Callable[[], Child]  # one that has built the net
    told: Told
    classes: int
    random: bool
    child: Child | None = None
    state: dict[str, Tensor] = field(default_factory=dict)

    def running(self) -> Child:
        """The child, started when it is first needed; one that was ended stays ended."""
        if self.child is None:
            self.child = self.start()
            self.child.classes = max(CLASSES, self.classes)
            if self.state:
                self.load()
        return self.child

    def forward(self, x: Tensor, *, wants: bool) -> tuple[Tensor, int, bool]:
        """Logits of images, one a class, the number of their graph, and whether there is one."""
        # The bench alone decides what a random net draws.
        seed = int(torch.randint(2**62, ())) if self.random else None
        found = self.running().forward(x, wants=wants, seed=seed)
        if found[0].shape[1] != self.classes:
            raise ModelError(f"the net gives {found[0].shape[1]} logits; the data set has {self.classes} classes")
        return found

    def load(self) -> None:
        """Hand the weights to the child, if it runs."""
        if self.child is not None:
            self.child.json(wire.LOAD, None, content=safetensors.torch.save(self.state))


class Sandboxed(nn.Module):
    """A net whose passes are run by a child process; what is inside it cannot be reached from here."""

    def __init__(self, cage: Cage, *, double: bool = False) -> None:
        super().__init__()
        self.cage, self._double = cage, double
        if cage.told.prefix is not None:
            self.public_prefix = cage.told.prefix
        self.ignored_keys = cage.told.ignored

    @property
    def view(self) -> Testimony:
        """What the child says of its module."""
        return Testimony(self.cage)

    def forward(self, x: Tensor) -> Any:
        """The child's logits, in its own number format."""
        if x.dtype == torch.float64 and not self._double:
            raise ModelError("the model computes in float32, and was given float64")
        if x.requires_grad and torch.is_grad_enabled():
            through: Callable[..., Tensor] = _Pass.apply
            return through(x, self.cage)
        return self.cage.forward(x, wants=False)[0]

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:  # noqa: ARG002  torch's arguments
        """One without storage, of as many values as the child's have together."""
        yield nn.Parameter(torch.empty(self.cage.told.parameters, device="meta"))

    def state_dict(self, *_args: Any, **_settings: Any) -> dict[str, Any]:  # type: ignore[override]
        """The weights that were loaded; before that only their names, shapes and number formats."""
        told = self.cage.told.state
        return {k: self.cage.state.get(k, torch.empty(shape, dtype=d, device="meta")) for k, (shape, d) in told.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], *_args: Any, **_settings: Any) -> Any:
        """Hand the weights to the child; RuntimeError, as torch's, where they do not fit."""
        wanted = {k: shape for k, (shape, _) in self.cage.told.state.items()}
        if {k: tuple(v.shape) for k, v in state_dict.items()} != wanted:
            raise RuntimeError("the weights do not fit the net: their names or shapes differ")
        kept = {k: v.detach().cpu().contiguous().clone() for k, v in state_dict.items()}
        self.cage.state = kept
        self.cage.load()

    def double(self) -> Sandboxed:
        """The same child's module in float64."""
        return Sandboxed(self.cage, double=True)

    def __deepcopy__(self, memo: object) -> Sandboxed:
        return Sandboxed(self.cage, double=self._double)


def sandbox_of(module: nn.Module) -> str:
    """How a module is kept apart; empty where it runs here."""
    return module.cage.fence.mode if isinstance(module, Sandboxed) else ""


class Testimony:
    """What a child says of the module inside it.  Weights are known here too; the rest is its word."""

    def __init__(self, cage: Cage) -> None:
        self._cage = cage

    def _look(self, what: str, **more: Any) -> Any:
        return self._cage.running().json(wire.LOOK, {"what": what, **more})

    def training(self) -> list[str]:
        """The parts that are in training mode."""
        return _names(self._look("training"))

    def fingerprints(self) -> dict[str, str]:
        """What it is at this moment."""
        found = self._look("fingerprints")
        return {clean(str(k)): str(v)[:200] for k, v in found.items()} if isinstance(found, dict) else {}

    def stands_in(self) -> bool:
        """Whether it has a Bpda."""
        return self._look("stands_in") is True

    def holding(self, images: Tensor) -> list[str]:
        """The tensors that hold one of these images; the weights are searched here."""
        own = holding(iter(self._cage.state.items()), images)
        return list(dict.fromkeys([*_names(self._look("holding", images=images.tolist())), *own]))

    @contextmanager
    def differentiations(self) -> Iterator[Callable[[], int]]:
        """How often anything was differentiated in forward passes."""
        child = self._cage.running()
        before = child.differentiated
        yield lambda: child.differentiated - before


def _names(said: Any) -> list[str]:
    return [clean(str(name)) for name in said[:1000]] if isinstance(said, list) else []


class _Graph:
    """A graph that a child keeps as long as this is held."""

    def __init__(self, child: Child, number: int) -> None:
        self.child, self.number = child, number

    def __del__(self) -> None:
        self.child.freed.append(self.number)


class _Pass(torch.autograd.Function):
    """A pass of a child, which keeps the graph for the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cage: Cage) -> Tensor:
        """Its logits."""
        logits, number, there = cage.forward(x, wants=True)
        ctx.graph, ctx.like = _Graph(cage.running(), number), (x.shape, x.dtype)
        if not there:
            ctx.mark_non_differentiable(logits)
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *above: Tensor) -> Any:
        """Its gradient by the images."""
        again = torch._C._autograd._get_current_graph_task_keep_graph()  # noqa: SLF001
        graph = ctx.graph
        return graph.child.backward(graph.number, above[0].contiguous(), *ctx.like, again=again), None
