"""Records and what proves them as one file: an uncompressed tar of files that are named by their content.

Members lie as in a ledger and a store (ledger/<key>/<hash>.json, store/<hash[:2]>/<hash>.safetensors), in the order of
their names and without times or owners, so that equal content is equal bytes.  Nothing in it is compressed, so a file
holds no more than its size says.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bench.errors import IncompleteError, IntegrityError, UsageError
from bench.files import check_content, write_once
from bench.records import Document, Record, TrainingRecord, VerificationRecord, read_document

if TYPE_CHECKING:
    from bench.ledger import Ledger
    from bench.store import Store

MEMBER = re.compile(r"(ledger|store)/([0-9a-f]{2,64})/([0-9a-f]{64})\.(json|safetensors)")
EPOCH = 0  # of members: their times are not content


def pack(
    ledger: Ledger, store: Store, path: Path, prefixes: Sequence[str] = (), *, weights: bool = True
) -> dict[str, Any]:
    """Write the records whose cell's key or name begins so, and all that they name; what is missing is an error."""
    files: dict[str, Path] = {}
    documents = [(file, read()) for file, read in ledger.files()]
    chosen = [(f, d) for f, d in documents if isinstance(d, Record) and _begins(f, prefixes)]
    if not chosen:
        raise UsageError(f"no record in {ledger.root} {'begins so' if prefixes else 'is there'}; nothing was written")
    records = [d for _, d in chosen]
    names = {f.stem for f, _ in chosen}
    for file, document in documents:
        if file.stem in names or _belongs(document, records, names):
            files[f"ledger/{document.key}/{file.name}"] = file
    for record in records:
        files[f"ledger/{record.key}/{record.images}.safetensors"] = (
            ledger.root / record.key / f"{record.images}.safetensors"
        )
        for name in (record.bundle, record.weights if weights else None):
            if name:
                files[f"store/{name[:2]}/{name}.safetensors"] = store.path(name)
    _write(path, files)
    return {"records": len(records), "files": len(files), "bytes": path.stat().st_size}


def _begins(file: Path, prefixes: Sequence[str]) -> bool:
    return not prefixes or any(file.stem.startswith(p) or file.parent.name.startswith(p) for p in prefixes)


def _belongs(document: Document, records: Sequence[Record], names: set[str]) -> bool:
    """Whether it says what records are about: their training, data set, exam, columns and verifications."""
    if isinstance(document, VerificationRecord):
        return document.record in names
    if isinstance(document, TrainingRecord):
        return any(r.weights in document.weights.values() for r in records)
    if isinstance(document, Record):
        return False
    test = getattr(document, "test", document.key)
    return test in {r.test for r in records} or document.schema_ == "rampart/column-1"


def _write(path: Path, files: dict[str, Path]) -> None:
    """Write a tar of these, whole or not at all; each is checked against its name."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as made:
            try:
                with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
                    for name, file in sorted(files.items()):
                        content = _content(file)
                        member = tarfile.TarInfo(name)
                        member.size, member.mtime, member.mode = len(content), EPOCH, 0o644
                        tar.addfile(member, io.BytesIO(content))
                made.flush()
                os.fsync(made.fileno())
                os.chmod(made.name, 0o644)
                os.replace(made.name, path)
            except BaseException:
                Path(made.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise IncompleteError(f"cannot write {path}: {error.strerror}") from error


def _content(file: Path) -> bytes:
    """A file that is named by its content, checked."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise IncompleteError(f"{file} is missing: a record names it; nothing was written") from None
    check_content(file, content, file.stem)
    return content


def unpack(path: Path, ledger: Ledger, store: Store) -> dict[str, Any]:
    """Take everything into a ledger and a store; all of it is looked at before anything is written."""
    records = sum(isinstance(_checked(path, *member), Record) for member in _members(path))
    new = files = 0
    for name, content in _members(path):
        _checked(path, name, content)  # again: the file may have changed since
        root = ledger.root if name[1] == "ledger" else store.root
        target = root / name[2] / f"{name[3]}.{name[4]}"
        new += not target.exists()
        files += 1
        write_once(target, content)
    return {"records": records, "files": files, "new": new}


def _members(path: Path) -> Iterator[tuple[re.Match[str], bytes]]:
    """Each member's name, taken apart, and content; IntegrityError for anything that pack does not write."""
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            end = 0
            for member in tar:
                yield _name(path, member), _bytes(path, tar, member)
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            # To tarfile a damaged header is the end.
            file.seek(end)
            rest = file.read(2 * tarfile.RECORDSIZE)
            if rest.strip(b"\0") or not 2 * tarfile.BLOCKSIZE <= len(rest) < 2 * tarfile.RECORDSIZE:
                raise IntegrityError(f"{path} is not whole: there is more in it after {end:,} bytes, or no end")
    except (tarfile.TarError, EOFError, UnicodeError) as error:
        raise IntegrityError(f"{path} is not a whole file of bench bundle pack ({error})") from error
    except OSError as error:
        raise IncompleteError(f"cannot read {path}: {error.strerror or error}") from error


def _name(path: Path, member: tarfile.TarInfo) -> re.Match[str]:
    found = MEMBER.fullmatch(member.name)
    plain = member.type == tarfile.REGTYPE and not member.issparse()
    if found and plain and member.size <= path.stat().st_size:
        where, folder, name, kind = found.groups()
        if (where == "ledger" and len(folder) == 64) or (where, kind, folder) == ("store", "safetensors", name[:2]):
            return found
    raise IntegrityError(
        f"{path} holds {member.name!r}, which bench bundle pack does not write; nothing of the file is used"
    )


def _bytes(path: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    source: IO[bytes] | None = tar.extractfile(member)
    content = source.read() if source else b""
    if len(content) != member.size:
        raise IntegrityError(f"{path} is cut short: {member.name} is not whole; nothing of the file is used")
    return content


def _checked(path: Path, name: re.Match[str], content: bytes) -> Document | None:
    """The document in a member, where it is one; every member is what its name says."""
    if hashlib.sha256(content).hexdigest() != name[3]:
        raise IntegrityError(f"{path}: {name[0]} does not have the content that it is named by; nothing is used")
    if name[4] != "json":
        return None
    try:
        document = read_document(content)
    except ValueError as error:
        raise IntegrityError(f"{path}: {name[0]} is not a record that this version reads: {error}") from error
    if document.key != name[2]:
        raise IntegrityError(f"{path}: {name[0]} lies in the folder of another cell; its own is {document.key}")
    return document


def lend_weights(ledger: Ledger, source: Store, target: Store) -> None:
    """Link the weights that records name from one store into another, where that has none."""
    for record in (d for d in ledger.all() if isinstance(d, Record)):
        place = target.path(record.weights)
        if record.weights not in target and record.weights in source:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(source.path(record.weights).resolve())
