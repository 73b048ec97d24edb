"""Downloads: one file from the first of several addresses that has it whole."""

from __future__ import annotations

import hashlib
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from bench.errors import IncompleteError, IntegrityError

TIMEOUT = 20.0  # seconds without a byte
PIECE = 1 << 20


def download(urls: Sequence[str], to: Path, *, sha256: str | None, md5: str | None, size: int | None) -> Path:
    """The file, downloaded from the first address that works and checked; errors say what each address answered."""
    said: list[str] = []
    refused = False
    to.parent.mkdir(parents=True, exist_ok=True)
    part = to.with_name(to.name + ".part")
    for url in urls:
        try:
            _get(url, part)
            _check(url, part, sha256, md5, size)
        except (OSError, HTTPException, ValueError) as error:
            said.append(f"{url}: {getattr(error, 'reason', None) or error}")
        except IntegrityError as error:
            refused = True
            said.append(str(error))
        else:
            part.replace(to)
            return to
        part.unlink(missing_ok=True)
    kind = IntegrityError if refused else IncompleteError
    raise kind(f"cannot download {to.name}: {'; '.join(said)}")


def _get(url: str, part: Path) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "rampart-bench"})  # noqa: S310 - schemes are checked
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer, part.open("wb") as file:  # noqa: S310
        declared = answer.headers.get("Content-Length")
        while piece := answer.read(PIECE):
            file.write(piece)
    if declared is not None and part.stat().st_size != int(declared):
        raise OSError(f"cut short: {part.stat().st_size:,} of {int(declared):,} bytes came")


def _check(url: str, part: Path, sha256: str | None, md5: str | None, size: int | None) -> None:
    with part.open("rb") as file:
        head = file.read(1024)
    if re.match(rb"\s*(<!doctype html|<html)", head, re.IGNORECASE):
        title = re.search(rb"<title[^>]*>([^<]{1,80})", head, re.IGNORECASE)
        what = f" ({title[1].decode('utf-8', 'replace').strip()!r})" if title else ""
        raise IntegrityError(f"{url} gave a web page{what} instead of the file")
    if size is not None and part.stat().st_size != size:
        raise IntegrityError(f"{url} gave {part.stat().st_size:,} bytes; expected {size:,}")
    for kind, wanted in (("sha256", sha256), ("md5", md5)):
        if wanted:
            with part.open("rb") as file:
                found = hashlib.file_digest(file, kind).hexdigest()
            if found != wanted:
                raise IntegrityError(f"{url} gave a file with {kind} {found}; expected {wanted}")
