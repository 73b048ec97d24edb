"""Reading weights files that nobody vouches for: looked at before they are parsed, bounded, and never executed."""

from __future__ import annotations

import os
import pickletools
import re
import stat
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from bench import IncompleteError, IntegrityError, UsageError

HEADER = 100_000_000  # bytes; safetensors' own limit
PICKLE = 256_000_000  # bytes of the structure of a torch file; its numbers lie elsewhere
ENTRIES = 1_000_000  # of a zip
PARTS = 1_000_000  # of a tuple, with all tuples in it: a dictionary that has it as a key visits them all
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began before 1.6
EXPECTED = "expected safetensors, or a file of torch.save that loads with weights_only=True"
KINDS = (  # how other files begin that are taken for weights
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ\x00", "an xz archive; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (b"Rar!", "a rar archive; unpack it first"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes"),
    (b"%PDF", "a PDF"),
    (b"\x7fELF", "a program"),
    (b"#!", "a script"),
    (b"GGUF", "a GGUF file"),
)


def _kind_of_number(text: str, *_: object) -> np.dtype[Any]:
    """What a pickle asks of numpy.dtype, for numbers alone: others may claim any size."""
    if text not in {"b1", "?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}:
        raise IntegrityError(f"a number of the kind {str(text)[:20]!r}; expected plain numbers")
    return np.dtype(text)


# Numbers of NumPy that training scripts leave beside the weights (a best accuracy, say): plain data, no code.
_scalar = np.float64(0).__reduce__()[0]
SCALARS: list[Any] = [
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    (_kind_of_number, "numpy.dtype"),
    *(type(np.dtype(kind)) for kind in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")),
]
GREEDY = {"builtins.bytearray"}  # weights_only lets it pass, and it takes as much memory as it is told


@dataclass(frozen=True)
class Found:
    """What a file holds, in which format: `safetensors`, `torch` or `torch, before 1.6`."""

    content: object
    format: str
    size: int  # bytes


def read(path: Path) -> Found:
    """The content of a weights file; any other file is an IntegrityError that names it and says what it is."""
    size = _size(path)
    with path.open("rb") as file:
        head = file.read(4096)
        kind = _kind(path, head, size)
        if kind == "torch":
            _check_zip(path, file, size)
    if kind != "safetensors" and (asked := _asks(path)):
        raise IntegrityError(f"{path} cannot be read as weights alone: its pickle {asked}; {EXPECTED}")
    if kind != "safetensors" and any(map(_unfolds, _pickles(path))):
        raise IntegrityError(f"{path} is a pickle bomb: a tuple in it unfolds to over {PARTS:,} parts; {EXPECTED}")
    try:
        return Found(_parse(path, kind), kind, size)
    except IntegrityError as error:
        raise IntegrityError(f"{path} asks for {error}") from None
    except MemoryError:
        raise IntegrityError(f"{path} asks for more memory than there is, of a file of {size:,} bytes") from None
    except Exception as error:  # a damaged file can raise nearly anything
        raise IntegrityError(f"{path} cannot be read as weights alone: {_why(kind, error)}; {EXPECTED}") from error


def _size(path: Path) -> int:
    """The size of a regular file; a folder, a pipe or a loop of links is named as such."""
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise IncompleteError(f"{path}: {reason}; expected a weights file there") from None
    if stat.S_ISDIR(found.st_mode):
        raise UsageError(f"{path} is a folder; expected a weights file: name one inside")
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{path} is not a regular file; {EXPECTED}")
    if not os.access(path, os.R_OK):
        raise IncompleteError(f"{path} may not be read; mend its permissions")
    return found.st_size


def _kind(path: Path, head: bytes, size: int) -> str:
    """The format that a file's first bytes announce; the name and its ending count for nothing."""
    if not head:
        raise IntegrityError(f"{path} is empty; {EXPECTED}")
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--", b"<body")):
        raise IntegrityError(f"{path} is a web page{_title(head)}, not weights: a download that failed; {EXPECTED}")
    if start.startswith((b"{", b"[")):  # no pickle begins so
        raise IntegrityError(f"{path} is a text, by its beginning JSON, and not weights; {EXPECTED}")
    if head.startswith(b"version https://git-lfs"):
        wanted = re.search(rb"oid sha256:([0-9a-f]{64})", head)
        which = f" (sha256 {wanted[1].decode()})" if wanted else ""
        raise IntegrityError(f"{path} is a pointer of git-lfs to the weights{which}; fetch them with `git lfs pull`")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "torch"
    if head[257:262] == b"ustar":
        raise IntegrityError(f"{path} is a tar archive, which can carry code in torch's oldest format; {EXPECTED}")
    for magic, what in KINDS:
        if head.startswith(magic):
            raise IntegrityError(f"{path} is {what}; {EXPECTED}")
    if len(head) > 8 and head[8:9] == b"{":
        _check_header(path, head, size)
        return "safetensors"
    if head.startswith(LEGACY[: len(head)]):
        return "torch, before 1.6"
    asked = _asks(path)
    if asked or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"):
        which = f" that {asked}" if asked else ""
        raise IntegrityError(f"{path} is a bare pickle{which}, and not of torch.save; {EXPECTED}")
    if size < 16:
        raise IntegrityError(f"{path} has {size} bytes, too few for weights; it begins with {head[:8]!r}; {EXPECTED}")
    raise IntegrityError(f"{path} is no weights file that is known: it begins with {head[:8]!r}; {EXPECTED}")


def _title(page: bytes) -> str:
    """The title of a web page, which often says why it came."""
    found = re.search(rb"<title[^>]*>\s*([^<]{1,80})", page, re.IGNORECASE)
    return f" ({found[1].decode('utf-8', 'replace').strip()!r})" if found else ""  # repr: it may hold escapes


def _check_header(path: Path, head: bytes, size: int) -> None:
    """The header of safetensors must lie inside the file, and be of a sane size, before anything reads it."""
    length = int.from_bytes(head[:8], "little")
    if length > size - 8:
        raise IntegrityError(
            f"{path} is cut short, or lies: its safetensors header claims {length:,} bytes, the file has {size:,}"
        )
    if length > HEADER:
        raise IntegrityError(f"{path}: its safetensors header claims {length:,} bytes; at most {HEADER:,} are read")


def _check_zip(path: Path, file: IO[bytes], size: int) -> None:
    """A zip of torch.save is not compressed, so that nothing in it can be larger than the file; and is whole."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            names = {e.filename for e in entries}
            if len(entries) > ENTRIES:
                raise IntegrityError(f"{path} is a zip of {len(entries):,} entries; at most {ENTRIES:,} are read")
            if any(e.compress_type != zipfile.ZIP_STORED or e.flag_bits & 1 for e in entries):
                raise IntegrityError(
                    f"{path} is a compressed or locked zip, which torch.save never writes; unpack it first"
                )
            claimed = sum(e.file_size for e in entries)
            if len(names) < len(entries):
                raise IntegrityError(f"{path} is a zip that has a name twice, which torch.save never writes")
            if claimed > size:
                raise IntegrityError(f"{path} is a zip that claims {claimed:,} bytes in a file of {size:,}: a zip bomb")
            pickles = [e for e in entries if e.filename.rpartition("/")[2] == "data.pkl"]
            if not pickles:
                inside = ", ".join(shown(e.filename) for e in entries[:5]) or "nothing"
                raise IntegrityError(f"{path} is a zip of {inside}, without torch's data.pkl; {EXPECTED}")
            if any("/code/" in name or name.endswith("constants.pkl") for name in names):
                raise IntegrityError(f"{path} is a TorchScript program, not weights; save its state_dict() instead")
            if max(e.file_size for e in pickles) > PICKLE:
                raise IntegrityError(f"{path}: its structure alone claims more than {PICKLE:,} bytes")
            damaged = archive.testzip()
            if damaged is not None:
                raise IntegrityError(
                    f"{path} is damaged: {shown(damaged)} in it does not have the checksum that it claims"
                )
    except IntegrityError:
        raise
    except Exception as error:  # zipfile raises half a dozen kinds
        raise IntegrityError(
            f"{path} is a damaged zip, probably cut short ({_first(error)}); fetch it again"
        ) from error


def _parse(path: Path, kind: str) -> object:
    if kind == "safetensors":
        return load_file(path)
    with warnings.catch_warnings(), torch.serialization.safe_globals(SCALARS):
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _why(kind: str, error: Exception) -> str:
    """What is wrong with a file that cannot be parsed: the library's own first line."""
    if isinstance(error, SafetensorError):
        return f"its safetensors are damaged ({_first(error)})"
    return "it is cut short" if isinstance(error, EOFError) else f"it is damaged ({_first(error)}) as {kind}"


def _first(error: Exception) -> str:
    """The first line of another's message, of sane length."""
    line = str(error).strip().partition("\n")[0] or type(error).__name__
    return shown(line[:80]) + shown(line[80:160])


def _asks(path: Path) -> str:
    """`asks for os.system`: what a pickle names beyond plain weights; empty where there is nothing."""
    found: set[str] = set()
    with suppress(Exception):  # the archive is damaged: what it named before that counts
        found.update(_now(name) for content in _pickles(path) for name in _named(content))
    named = sorted(found - _allowed())
    if not named:
        return ""
    more = f" and {len(named) - 3} more" if len(named) > 3 else ""
    return f"asks for {', '.join(map(shown, named[:3]))}{more}"


def shown(text: object) -> str:
    """A name from a file as it may be printed: short, and without what a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in str(text)[:80])


def _now(name: str) -> str:
    """The name that Python 3 gives what Python 2 pickled, as torch reads it."""
    module, _, last = name.rpartition(".")
    renamed: tuple[str, str] = NAME_MAPPING.get((module, last), (IMPORT_MAPPING.get(module, module), last))
    return ".".join(renamed)


def _allowed() -> set[str]:
    """What weights_only lets pass."""
    with torch.serialization.safe_globals(SCALARS):
        unpickler = torch._weights_only_unpickler  # noqa: SLF001 - for the reason of a refusal; torch decides too
        return {*unpickler._get_allowed_globals(), *unpickler._get_user_allowed_globals()} - GREEDY  # noqa: SLF001


def _pickles(path: Path) -> Iterator[IO[bytes]]:
    """The pickles of a torch file, as streams that are looked at and never run."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".pkl"):
                    with archive.open(name) as file:
                        yield file
    else:
        with path.open("rb") as file:
            for _ in range(4):  # magic number, protocol, system, content
                yield file


def _unfolds(file: IO[bytes]) -> bool:
    """Whether tuples in a pickle hold each other so often that to hash one takes for ever.

    The stack is followed with sizes in place of values.
    """
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    try:
        for code, value, _ in pickletools.genops(file):
            if code.name == "MARK":
                marks.append(len(stack))
            elif code.name in {"MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"}:
                memo[len(memo) if value is None else int(value)] = stack[-1]
            elif code.name in {"GET", "BINGET", "LONG_BINGET"}:
                stack.append(memo[int(value or 0)])
            elif code.name == "DUP":
                stack.append(stack[-1])
            else:
                before = code.stack_before
                marked = pickletools.markobject in before
                start = marks.pop() - before.index(pickletools.markobject) if marked else len(stack) - len(before)
                taken, stack[start:] = stack[start:], [1] * len(code.stack_after)
                if code.name.startswith("TUPLE") or code.name in {"REDUCE", "NEWOBJ"}:  # torch.Size is a tuple, too
                    stack[-1] = 1 + sum(taken)
                    if stack[-1] > PARTS:
                        return True
    except Exception:  # noqa: BLE001 - the pickle is damaged, which its parser will say
        return False
    return False


def _named(file: IO[bytes]) -> Iterator[str]:
    """Every `module.name` that a pickle asks for, up to where it is damaged."""
    texts: list[str] = []
    memo: dict[int, str] = {}
    latest: object = None
    try:
        for code, value, _ in pickletools.genops(file):
            if code.name in {"GLOBAL", "INST"}:
                yield str(value).replace(" ", ".")
            elif code.name == "STACK_GLOBAL" and len(texts) > 1:
                yield ".".join(texts[-2:])
            elif code.name in {"MEMOIZE", "BINPUT", "LONG_BINPUT"}:
                memo[len(memo) if value is None else int(value)] = str(latest)
            elif code.name in {"BINGET", "LONG_BINGET"} or isinstance(value, str):
                texts.append(value if isinstance(value, str) else memo.get(int(value or 0), "?"))
            latest = value if isinstance(value, str) else latest
    except Exception:  # noqa: BLE001 - the pickle is damaged: what it named before that counts
        return
