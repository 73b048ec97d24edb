"""The child's side of a sandbox: it imports the plugin, builds its nets, and answers what it is asked about images.

Nothing here is trusted by the bench: once the plugin is imported, it may have changed all of it.
"""

from __future__ import annotations

import copy
import ctypes
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor

from bench import wire
from bench.confine import confine
from bench.errors import RampartError
from bench.exam import Shape
from bench.inside import Inside, counted_backwards
from bench.place import build
from bench.registry import Registry, load_file, plugins
from bench.size import count
from bench.victim import be_exact, freeze

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from bench.recipe import Plugin

_CPU = torch.device("cpu")
_ASKED = dict.fromkeys(range(wire.HELLO, wire.TRAIN + 1), 1 << 40)


def main() -> None:
    """Answer until the bench is gone."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the bench
    null = os.open(os.devnull, os.O_RDWR)
    ends = wire.Wire(socket.socket(fileno=int(sys.argv[1])))
    inmate = Inmate(ends)
    for fd in (1, 2):  # what it prints belongs to nobody
        os.dup2(null, fd)
    with suppress(wire.ClosedError):
        while True:
            inmate.answer(ends.receive(_ASKED, fds=True))


class Inmate:
    """One plugin and one model of it."""

    def __init__(self, ends: wire.Wire) -> None:
        self.wire = ends
        self.registry = Registry()
        self.number = 0
        self.module: nn.Module | None = None
        self.double: nn.Module | None = None
        self.room: wire.Room | None = None
        self.graphs: dict[int, tuple[Tensor, Tensor]] = {}  # images and logits
        self.threads = 0

    def answer(self, asked: wire.Message) -> None:
        """Do what a message asks; whatever is raised becomes an answer too."""
        self.number = asked.number
        tasks: dict[int, Callable[[wire.Message], None]] = {
            wire.HELLO: self._hello, wire.ROOM: self._room, wire.BUILD: self._build, wire.LOAD: self._load,
            wire.PASS: self._pass, wire.BACK: self._back, wire.LOOK: self._look, wire.TRAIN: self._train,
        }  # fmt: skip
        try:
            tasks[asked.kind](asked)
        except wire.ClosedError:
            raise
        except RampartError as error:
            self._fail(wire.SAID, f"{error}")
        except BaseException as error:  # noqa: BLE001  also SystemExit: it is the plugin's
            memory = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
            self._fail(wire.MEMORY if memory else wire.RAISED, repr(error))

    def send(self, kind: int, content: bytes = b"", why: int = 0) -> None:
        """An answer to what was asked last."""
        self.wire.send(kind, self.number, content, why=why)

    def say(self, document: object) -> None:
        """An answer in JSON."""
        self.send(wire.DONE, json.dumps(document).encode())

    def _fail(self, why: int, text: str) -> None:
        self.send(wire.FAILED, text.encode(errors="replace")[: wire.TEXT - 16], why)

    def _hello(self, asked: wire.Message) -> None:
        """Give up what is not needed, then import the plugins, and say what they bring."""
        told = json.loads(asked.content)
        if told["all"]:
            self.registry = plugins(())
        else:
            be_exact(1)
        confine(told["memory"])
        own = []
        for file in told["files"]:
            module = load_file(Path(file))
            alone = Registry()
            alone.collect(module)
            self.registry.collect(module)
            own += [_described(thing) for thing in alone.things.values()]
            if alone.presets:
                own.append({"kind": "preset", "name": alone.presets[0].defense})
        self.say(own)

    def _room(self, asked: wire.Message) -> None:
        images, logits = json.loads(asked.content)
        self.room = wire.Room(asked.fd, images, logits)
        self.say(None)

    def _build(self, asked: wire.Message) -> None:
        told = json.loads(asked.content)
        shape = Shape(*told["shape"])
        self.module = module = build(self.registry.parse("net", told["net"]), shape)
        parameters, macs = count(module, shape)
        self.say({
            "parameters": parameters, "macs": macs, "prefix": getattr(module, "public_prefix", None),
            "ignored": list(getattr(module, "ignored_keys", ())),
            "state": {k: [list(v.shape), str(v.dtype).removeprefix("torch.")] for k, v in module.state_dict().items()},
        })  # fmt: skip

    def _load(self, asked: wire.Message) -> None:
        assert self.module is not None
        self.module.load_state_dict(safetensors.torch.load(asked.content))
        self.module, self.double = freeze(self.module, _CPU), None
        self.say(None)

    def _variant(self, dtype: torch.dtype) -> nn.Module:
        """The module, or its copy in float64."""
        assert self.module is not None
        if dtype != torch.float64:
            return self.module
        if self.double is None:
            self.double = copy.deepcopy(self.module).double()
        return self.double

    def _pass(self, asked: wire.Message) -> None:
        """A forward pass; the graph stays here until it is released."""
        graph, seed, n, c, h, w, kind, wants, seeded, threads = wire.PASS_.unpack_from(asked.content)
        for done in memoryview(asked.content[wire.PASS_.size :]).cast("Q"):
            self.graphs.pop(done, None)
        if threads != self.threads:
            torch.set_num_threads(threads)
            self.threads = threads
        if seeded:
            torch.manual_seed(seed)
        assert self.room is not None
        shown = self.room.images((n, c, h, w), wire.DTYPES[kind])
        x, module = shown.clone(), self._variant(shown.dtype)
        with torch.set_grad_enabled(bool(wants)), counted_backwards() as backwards:
            logits: object = module(x.requires_grad_(bool(wants)))
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != n or logits.shape[1] < 2:
            got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            self._fail(wire.SAID, f"the model gave {got} for {n} images; expected logits of shape ({n}, classes)")
            return
        if logits.dtype not in wire.DTYPES:
            logits = logits.float()
        wrote = not wants and not torch.equal(x, shown)
        if wrote:
            shown.copy_(x)
        self.room.logits(tuple(logits.shape), logits.dtype).copy_(logits.detach())
        if logits.requires_grad:
            self.graphs[graph] = x, logits
        said = wire.LOGITS_.pack(
            n, logits.shape[1], wire.DTYPES.index(logits.dtype), logits.requires_grad, wrote, min(backwards(), 2**31)
        )
        self.send(wire.LOGITS, said)

    def _back(self, asked: wire.Message) -> None:
        """The gradient by the images of a pass that was asked before."""
        graph, n, k, kind, again = wire.BACK_.unpack(asked.content)
        assert self.room is not None
        x, logits = self.graphs[graph] if again else self.graphs.pop(graph)
        above = self.room.logits((n, k), wire.DTYPES[kind]).clone()
        (grad,) = torch.autograd.grad(logits, x, above, retain_graph=bool(again), allow_unused=True)
        if grad is not None:
            self.room.images(tuple(x.shape), x.dtype).copy_(grad)
        self.send(wire.GRAD, wire.GRAD_.pack(grad is not None))

    def _look(self, asked: wire.Message) -> None:
        told = json.loads(asked.content)
        assert self.module is not None
        view, what = Inside(self.module), told["what"]
        if what == "holding":
            self.say(view.holding(torch.tensor(told["images"])))
        else:
            self.say(
                {"training": view.training, "fingerprints": view.fingerprints, "stands_in": view.stands_in}[what]()
            )

    def _train(self, asked: wire.Message) -> None:
        from bench.schooling import learn

        learn(self, json.loads(asked.content))


def _described(thing: Any) -> dict[str, Any]:
    """A plugin as plain values."""
    from bench.recipe import Defense, Net

    if not isinstance(thing, Net | Defense):
        return {"kind": str(getattr(thing, "kind", type(thing).__name__.lower())), "name": str(thing.name)}
    return {
        "kind": thing.kind, "name": thing.name, "version": thing.version, "paper": thing.paper,
        "summary": thing.summary, "where": [thing.function.__module__, thing.function.__qualname__],
        "random": getattr(thing, "random", False), "adversarial": getattr(thing, "adversarial", True),
        "unkeyed": list(thing.hidden), "refused": _refused(thing), "settings": _settings(thing),
        "choices": {k: list(v) for k, v in thing.choices.items()},
    }  # fmt: skip


def _settings(plugin: Plugin) -> list[list[Any]]:
    """Each setting, and in a list its default if it has one."""
    import inspect

    empty = inspect.Parameter.empty
    return [[name, [] if default is empty else [default]] for name, default in plugin.defaults.items()]


def _refused(plugin: Plugin) -> str:
    """Why a defense cannot be run in a sandbox; empty where it can."""
    if getattr(plugin, "net", None) is not None and plugin.kind == "defense":
        return "brings its own net; name that by --net, and leave net= out"
    if getattr(plugin, "pin", None) is not None or not getattr(plugin, "trains", True):
        return "reads files, and there are none; load weights by checkpoint(path='…')"
    return ""
