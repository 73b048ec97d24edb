"""Published files by checked download: from several mirrors, resumed after a break, whole or absent.

pooch, which checks too, starts a broken download of gigabytes from its beginning and knows one address a file; hence
the few lines over urllib here.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import os
import re
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import urlsplit

from bench.archives import settle, workshop
from bench.errors import IncompleteError, IntegrityError, UsageError
from bench.files import locked

CONNECT = 4.0  # seconds in which a mirror must take the connection
STALL = 20.0  # seconds without an answer, or at less than SLOW, after which a mirror is given up
SLOW = 1_000  # bytes a second
BREAKS = 100  # times that one mirror may break off, as long as each time something came
FOLDER = ".downloads"  # below the data folder: what is on its way

Report = Callable[[str], None]
Unpack = Callable[[Path, Path, Path], None]  # (archive, an empty folder to fill, the data folder)


@dataclass(frozen=True)
class PublishedFile:
    """A published file: what it must be, where it may be had, and where it goes below the data folder."""

    file: str  # its published name
    checksum: str  # md5:… or sha256:…, as its publisher or torchvision has it; empty: nobody says
    urls: tuple[str, ...] = ()  # mirrors, in the order they are asked; none where an account is needed
    size: int = 0  # bytes; 0: not known
    into: str = ""  # the folder it is put in, or unpacked in
    unpack: Unpack | None = None  # for archives
    gives: tuple[str, ...] = ()  # what is there afterwards; default: the file itself
    page: str = ""  # where a person gets it

    def __post_init__(self) -> None:
        if not re.fullmatch(r"|md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", self.checksum):
            raise UsageError(f"{self.file}: checksum {self.checksum!r}; expected md5:… or sha256:… in hexadecimal")
        for url in self.urls:
            if not url.startswith(("http://", "https://")):
                raise UsageError(f"{self.file}: {url!r}; expected http:// or https://")

    @property
    def places(self) -> tuple[str, ...]:
        """What is there afterwards, below the data folder."""
        return self.gives or (str(PurePosixPath(self.into, self.file)),)

    def fault(self, path: Path) -> str:
        """What is wrong with a file that should be this one, and what was expected; empty if nothing is."""
        size = path.stat().st_size
        if self.size and size != self.size:
            return f"it has {size:,} bytes, expected {self.size:,}"
        algorithm, _, expected = self.checksum.partition(":")
        if not algorithm:
            return ""
        with path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
        return "" if found == expected else f"its {size:,} bytes have {algorithm} {found}, expected {expected}"


class _RefusedError(Exception):
    """A mirror does not give the file; the next one is asked."""


class _WrongError(_RefusedError):
    """A mirror gives another file under this name."""


class _BrokenError(Exception):
    """A mirror stopped in the middle; it may be asked for the rest."""


def obtain_all(
    name: str, downloads: Iterable[PublishedFile], root: Path, given: Iterable[Path], report: Report, command: str
) -> None:
    """Put each file of that data set in its place below the data folder: from what is given, or by wanted.

    command: what a person writes who has the files already, for the message.  Of files that nobody gives without an
    account only those that are given are taken.  Whoever calls holds a lock.
    """
    downloads, folder = tuple(downloads), root / FOLDER / name
    by_hand = _match(tuple(given), downloads)
    for wanted in downloads:
        path = by_hand.get(wanted.file)
        if path is None:
            if _is_in_place(wanted, root) or (by_hand and not wanted.urls):
                continue
            path = retrieve(wanted, folder, report, command)
        report(f"putting {wanted.file} in its place")
        _put(wanted, path, root, folder, keep=wanted.file in by_hand)


def download(
    urls: Sequence[str], to: Path, *, sha256: str | None = None, md5: str | None = None, size: int | None = None
) -> Path:
    """The file, downloaded from the first address that gives it whole, unless it is there; errors say what each said.

    Without a checksum nothing that was there before is gone on with, and the caller checks what came.
    """
    checksum = f"sha256:{sha256}" if sha256 else f"md5:{md5}" if md5 else ""
    return retrieve(PublishedFile(to.name, checksum, tuple(urls), size or 0), to.parent, lambda _line: None)


def retrieve(wanted: PublishedFile, folder: Path, report: Report, command: str = "") -> Path:
    """The whole published file in this folder, downloaded unless it is there; mirrors are asked in turn.

    A download that broke off goes on where it stopped.  IncompleteError says why each mirror failed and how to get the
    file by hand; IntegrityError that a mirror gives another file.
    """
    path = folder / wanted.file
    if not wanted.urls:
        raise IncompleteError(
            f"{wanted.file} cannot be downloaded without an account; {_by_hand(wanted, path, command)}"
        )
    faults: list[str] = []
    wrong = False
    with locked(folder / f".{wanted.file}.lock"):
        if path.is_file() and not wanted.fault(path):
            return path
        for url in wanted.urls:
            try:
                with _writing(path):
                    _from_mirror(wanted, url, folder / f"{wanted.file}.part", report)
                    os.replace(folder / f"{wanted.file}.part", path)
            except _RefusedError as error:
                faults.append(f"\n    {url}: {error}")
                wrong = wrong or isinstance(error, _WrongError)
                continue
            return path
    kind = IntegrityError if wrong else IncompleteError
    raise kind(f"no mirror gave {wanted.file}:{''.join(faults)}\n{_by_hand(wanted, path, command)}")


def _by_hand(wanted: PublishedFile, path: Path, command: str) -> str:
    """How a person gets a file."""
    where = wanted.page or next(iter(wanted.urls), "its publisher")
    known = [f"{wanted.size:,} bytes"] * bool(wanted.size) + [wanted.checksum] * bool(wanted.checksum)
    about = f" ({', '.join(known)})" if known else ""
    then = f", then\n    {command} --from-file PATH/{wanted.file}" if command else f", and put it at {path}"
    return f"by hand: get {wanted.file}{about} from {where}{then}"


def _match(given: tuple[Path, ...], downloads: tuple[PublishedFile, ...]) -> dict[str, Path]:
    """The published files that the user has, each checked, by published name; of a folder those of these names."""
    found: dict[str, Path] = {}
    for path in given:
        if path.is_dir():
            inside = [path / d.file for d in downloads if (path / d.file).is_file()]
            if not inside:
                names = ", ".join(d.file for d in downloads)
                raise UsageError(f"--from-file {path}: that folder holds none of {names}")
            found |= _match(tuple(inside), downloads)
        elif not path.is_file():
            raise UsageError(f"--from-file {path}: there is no such file")
        else:
            faults = {}
            for wanted in [d for d in downloads if d.file == path.name] or downloads:
                faults[wanted.file] = wanted.fault(path)
                if not faults[wanted.file]:
                    found[wanted.file] = path
                    break
            else:
                said = "; ".join(f"for {name}: {fault}" for name, fault in faults.items())
                raise IntegrityError(f"--from-file {path} is not a published file of this data set: {said}")
    return found


def _is_in_place(wanted: PublishedFile, root: Path) -> bool:
    """Whether a file that needs no unpacking lies in its place, whole."""
    path = root / wanted.into / wanted.file
    return wanted.unpack is None and path.is_file() and not wanted.fault(path)


def _put(wanted: PublishedFile, path: Path, root: Path, folder: Path, *, keep: bool) -> None:
    """Unpack an archive, or move a file (copy one that is the user's), into its folder."""
    with _writing(root / wanted.into), workshop(folder) as made:
        if wanted.unpack is not None:
            wanted.unpack(path, made, root)
        elif keep:
            shutil.copyfile(path, made / wanted.file)
        else:
            path.rename(made / wanted.file)
        settle(made, root / wanted.into)
        if not keep:
            path.unlink(missing_ok=True)


def _from_mirror(wanted: PublishedFile, url: str, part: Path, report: Report) -> None:
    """Make `part` the whole file, with what came before if that fits."""
    _check_room(wanted, part)
    if not wanted.checksum:
        part.unlink(missing_ok=True)
    resumed = part.exists()
    _load(wanted, url, part, report)
    fault = wanted.fault(part)
    if fault and resumed:  # what came before may have been of another file
        part.unlink()
        _load(wanted, url, part, report)
        fault = wanted.fault(part)
    if fault:
        part.unlink()
        raise _WrongError(f"that is not the published file: {fault}")


def _load(wanted: PublishedFile, url: str, part: Path, report: Report) -> None:
    """Ask until the mirror says that was all, or brings nothing more."""
    for _ in range(BREAKS):
        before = _size(part)
        try:
            _append(wanted, url, part, report)
        except _BrokenError as error:
            if _size(part) <= before:
                raise _RefusedError(f"{error} ({_size(part):,} bytes came; they are kept)") from None
            report(f"{wanted.file}: {error}; asking for the rest")
            continue
        return
    raise _RefusedError(f"it broke off {BREAKS} times")


def _append(wanted: PublishedFile, url: str, part: Path, report: Report) -> None:
    """One request: the rest of the file, or all of it where the mirror does not give parts."""
    start = _size(part)
    if start and wanted.size and start >= wanted.size:
        return
    _reach(url)
    headers = {"User-Agent": "rampart-bench", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with _open(url, headers) as answer:
        if answer is None:  # there is nothing after `start`
            return
        if start and (answer.status != 206 or _first(answer) != start):
            if answer.status == 206:
                raise _RefusedError("it gives another part of the file than it was asked for")
            start = 0
        announced = answer.headers.get("Content-Length")
        end = start + int(announced) if announced and announced.isdigit() else 0
        with part.open("ab" if start else "wb") as file:
            _copy(wanted, answer, file, start, end, report)
    if end and _size(part) < end:
        raise _BrokenError(f"it broke off at {_size(part):,} of {end:,} bytes")


def _copy(
    wanted: PublishedFile, answer: http.client.HTTPResponse, file: BinaryIO, start: int, end: int, report: Report
) -> None:
    """The answer's bytes to the file, as long as they come fast enough."""
    at = start
    total = wanted.size or end
    mark, since, begun = at, time.monotonic(), time.monotonic()
    for chunk in _chunks(answer):
        if at == start and _is_page(answer, chunk if start == 0 else b""):
            raise _RefusedError(f"it gives an HTML page{_title(chunk)} instead of the file")
        file.write(chunk)
        at += len(chunk)
        if wanted.size and at > wanted.size:
            break  # too long: the check says so
        now = time.monotonic()
        if now - since > STALL:
            if at - mark < SLOW * STALL:
                raise _RefusedError(f"it gives less than {SLOW:,} bytes a second")
            mark, since = at, now
        of = f" of {total / 1e6:,.1f}" if total else ""
        report(f"{wanted.file}: {at / 1e6:,.1f}{of} MB, {(at - start) / max(now - begun, 0.1) / 1e6:.1f} MB/s")


def _chunks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """What comes, as it comes."""
    while True:
        try:
            chunk = answer.read1(1 << 16)
        except TimeoutError:
            raise _BrokenError(f"nothing came for {STALL:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise _BrokenError(f"it broke off ({_reason(error)})") from None
        if not chunk:
            return
        yield chunk


def unreachable(host: str) -> str:
    """Why a host (https://HOST) does not answer within seconds; empty where it does, whatever it says."""
    try:
        asked = urllib.request.Request(host, method="HEAD")  # noqa: S310 - PublishedFile checks schemes
        urllib.request.build_opener().open(asked, timeout=CONNECT).close()
    except urllib.error.HTTPError as error:
        error.close()
    except urllib.error.URLError as error:
        return f"no connection ({_reason(error.reason)})"
    except (OSError, http.client.HTTPException) as error:
        return f"no answer ({_reason(error)})"
    return ""


@contextlib.contextmanager
def _open(url: str, headers: Mapping[str, str]) -> Iterator[http.client.HTTPResponse | None]:
    """The mirror's answer; None where it says that it has no more bytes."""
    try:
        asked = urllib.request.Request(url, headers=dict(headers))  # noqa: S310 - PublishedFile checks schemes
        answer = urllib.request.build_opener().open(asked, timeout=STALL)  # with the proxies of now
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and "Range" in headers:
                yield None
                return
        raise _RefusedError(f"it answers {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise _RefusedError(f"no connection ({_reason(error.reason)})") from None
    except TimeoutError:
        raise _RefusedError(f"it took the connection and said nothing for {STALL:g} s") from None
    except (OSError, http.client.HTTPException) as error:
        raise _RefusedError(f"no answer ({_reason(error)})") from None
    with answer:
        yield answer


def _reach(url: str) -> None:
    """An error unless the host takes a connection in a few seconds, its name's look-up included.

    A look-up has no time limit of its own: it runs in a thread that is left behind.  Behind a proxy the proxy looks.
    """
    address = urlsplit(url)
    host = address.hostname or ""
    proxies = urllib.request.getproxies()
    if address.scheme in proxies and not urllib.request.proxy_bypass(host):
        return
    failed: list[str] = [f"none in {CONNECT:g} s"]

    def look() -> None:
        try:
            port = address.port or (443 if address.scheme == "https" else 80)
            socket.create_connection((host, port), timeout=CONNECT / 2).close()  # IPv6, then IPv4
            failed.clear()
        except OSError as error:
            failed[0] = _reason(error)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(CONNECT)
    if failed:
        raise _RefusedError(f"no connection ({failed[0]})")


def _first(answer: http.client.HTTPResponse) -> int:
    """The place of the first byte that a partial answer says it brings; -1 where it does not say."""
    said = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(said[1]) if said else -1


def _is_page(answer: http.client.HTTPResponse, begin: bytes) -> bool:
    """Whether this is a page for people: it begins like one, or is the rest of one."""
    if not begin:
        return answer.headers.get_content_type() == "text/html"
    return begin[:1000].lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _title(page: bytes) -> str:
    """What a page calls itself."""
    found = re.search(rb"<title[^>]*>\s*([^<]{1,80})", page, re.IGNORECASE)
    return f" ({found[1].decode(errors='replace').strip()!r})" if found else ""


def _reason(error: object) -> str:
    """What an error of the network says, in short."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _size(path: Path) -> int:
    """Its bytes; 0 where it is not there."""
    return path.stat().st_size if path.exists() else 0


def _check_room(wanted: PublishedFile, part: Path) -> None:
    """An error before the download when the disk cannot hold the rest of it."""
    free, rest = shutil.disk_usage(part.parent).free, wanted.size - _size(part)
    if rest > free:
        raise IncompleteError(f"{wanted.file} needs {rest:,} bytes more in {part.parent}, where {free:,} are free")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """An error of writing says where, and that a second try goes on."""
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else _reason(error)
        raise IncompleteError(f"cannot write {path}: {reason}; run again to continue") from error
