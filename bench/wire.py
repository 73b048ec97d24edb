"""Messages between the bench and a process that it does not trust: fixed binary headers, bounded, never unpickled."""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

HELLO, ROOM, BUILD, LOAD, PASS, BACK, LOOK, TRAIN = range(1, 9)  # what the bench asks
DONE, LOGITS, GRAD, FAILED, LINE, HISTORY, WEIGHTS = range(101, 108)  # what it is answered
RAISED, MEMORY, SAID = range(3)  # why something failed: an exception, no more memory, or words for the user
TEXT, JSON = 4096, 16 << 20  # the most bytes of a text and of a JSON document
HEADER = struct.Struct("<4sHHIQ")  # magic, kind, why, number, length of what follows
PASS_ = struct.Struct("<QQIIIIBBBxI")  # graph, seed, images (N, C, H, W), number format, wants a graph, seeded; threads
LOGITS_ = struct.Struct("<IIBBBxI")  # rows, classes, number format, has a graph, wrote; times differentiated
BACK_ = struct.Struct("<QIIBBxx")  # graph, rows, classes, number format, whether the graph is asked again
GRAD_ = struct.Struct("<B")  # whether there is one
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_MAGIC = b"RMP1"
_SEALS = 0x0001 | 0x0002 | 0x0004  # F_SEAL_SEAL, SHRINK and GROW: neither side can take the memory from the other


class WireError(Exception):
    """What came is not a message, or not one that is allowed here."""


class ClosedError(WireError):
    """The other side is gone."""


@dataclass(frozen=True)
class Message:
    """One message; fd is a file that came with it, -1 where none did."""

    kind: int
    why: int
    number: int
    content: bytes
    fd: int = -1


class Wire:
    """One end of a connection."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(
        self, kind: int, number: int, content: bytes = b"", *, why: int = 0, fd: int = -1, until: float | None = None
    ) -> None:  # fmt: skip
        """Send a message, and a file with it; until: a time of the monotonic clock, then TimeoutError."""
        header = HEADER.pack(_MAGIC, kind, why, number, len(content))
        try:
            self._wait(until)
            if fd >= 0:
                socket.send_fds(self._end, [header], [fd])
            elif len(content) < TEXT:
                header += content
                content = b""
                self._end.sendall(header)
            else:
                self._end.sendall(header)
            if content:
                self._end.sendall(content)
        except (BrokenPipeError, ConnectionError) as error:
            raise ClosedError from error

    def receive(self, most: Mapping[int, int], *, until: float | None = None, fds: bool = False) -> Message:
        """The next message, of a kind in `most` and with no more bytes than that says; fds: files may come with it."""
        files: list[int] = []
        header = self._read(HEADER.size, until, files if fds else None)
        magic, kind, why, number, length = HEADER.unpack(header)
        if magic != _MAGIC or kind not in most:
            raise WireError(f"{bytes(header[:8])!r} is not the beginning of an answer")
        if length > most[kind]:
            raise WireError(f"an answer of {length} bytes; at most {most[kind]} are expected")
        return Message(kind, why, number, bytes(self._read(length, until)), files[0] if files else -1)

    def _read(self, size: int, until: float | None, files: list[int] | None = None) -> bytearray:
        found = bytearray()
        while len(found) < size:
            self._wait(until)
            wanted = min(size - len(found), 1 << 20)
            try:
                if files is None:
                    part = self._end.recv(wanted)
                else:
                    part, came, _, _ = socket.recv_fds(self._end, wanted, 1)
                    files += came
            except ConnectionError as error:
                raise ClosedError from error
            if not part:
                raise ClosedError
            found += part
        return found

    def _wait(self, until: float | None) -> None:
        """No longer than until then; the next call raises TimeoutError."""
        left = None if until is None else until - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError
        self._end.settimeout(left)

    def close(self) -> None:
        """End the connection."""
        self._end.close()


class Room:
    """Memory that both processes see: images (or the gradient by them), then logits (or the gradient by those)."""

    def __init__(self, fd: int, images: int, logits: int) -> None:
        self.sizes = images, logits
        with open(fd, "r+b", closefd=True) as file:
            self._bytes = torch.frombuffer(mmap.mmap(file.fileno(), images + logits), dtype=torch.uint8)

    @staticmethod
    def file(images: int, logits: int) -> int:
        """A new file of memory of so many bytes, whose size nobody can change."""
        fd = os.memfd_create("rampart", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, images + logits)
        fcntl.fcntl(fd, 1033, _SEALS)  # F_ADD_SEALS
        return fd

    def images(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The first part, as images of this shape."""
        return self._view(0, self.sizes[0], shape, dtype)

    def logits(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The second part, as logits of this shape."""
        return self._view(self.sizes[0], self.sizes[1], shape, dtype)

    def _view(self, start: int, room: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size = torch.Size(shape).numel() * dtype.itemsize
        if size > room:
            raise WireError(f"{tuple(shape)} {dtype} do not fit into {room} bytes")
        return self._bytes[start : start + size].view(dtype).view(shape)
