"""A ledger as one table, for other tools: CSV, JSON or Parquet, a row a record or a row an image."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.errors import IntegrityError, UsageError
from bench.files import writing
from bench.ledger_check import FIGURES, Finding, fits, read_bytes
from bench.records import DatasetCard, Record, TrainingRecord

if TYPE_CHECKING:
    from bench.ledger import Ledger

Format = Literal["csv", "json", "parquet"]
Rows = Iterator[dict[str, Any]]
TEXTS = (
    "key", "dataset", "test", "defense", "training_seed", "which", "net", "weights", "condition", "threat", "attack",
    "seed", "precision",
)  # fmt: skip
OF_RECORD = (
    *TEXTS, "asked", "fell", "forwards", "backwards", "seconds", "run", "bundle", "images", "source", "access",
    "doubts", "device", "machine", "threads", "tile", "versions", "commit", "made",
)  # fmt: skip
OF_IMAGE = (*TEXTS, "image", "label", "fell", *FIGURES, "made")
WHOLE = {
    "seed", "training_seed", "image", "label", "asked", "forwards", "backwards", "threads", "tile", "predicted",
}  # fmt: skip
BLOCK = 50_000  # rows of Parquet that are held at once


def export(ledger: Ledger, file: Path, *, images: bool) -> int:
    """Write the table, by the file's ending, and give how many rows it has."""
    names = OF_IMAGE if images else OF_RECORD
    kind = file.suffix.lower().removeprefix(".")
    if kind == "parquet":
        writer = _parquet_writer()
    elif kind not in {"csv", "json"}:
        raise UsageError(f"{file}: the format is told by the ending; expected .csv, .json or .parquet")
    rows = _rows(ledger, images=images)
    with writing(file) as out:
        if kind == "parquet":
            return int(writer(out, names, rows))
        text = io.TextIOWrapper(out, encoding="utf-8", newline="")
        count = _csv(text, names, rows) if kind == "csv" else _json(text, names, rows, images=images)
        text.detach()  # which flushes; `out` closes itself
    return count


def _rows(ledger: Ledger, *, images: bool) -> Rows:
    """The rows, in the order of keys and hashes."""
    made: dict[str, dict[str, Any]] = {}
    labels: dict[str, list[int]] = {}
    for document in ledger.all():
        if isinstance(document, DatasetCard):
            labels[document.key] = document.labels
        elif isinstance(document, TrainingRecord):
            for which, weights in document.weights.items():
                facts = {"defense": document.label, "training_seed": document.seed, "which": which}
                made.setdefault(weights, facts)
    nobody = {"defense": None, "training_seed": None, "which": None}
    for document in ledger.all():
        if isinstance(document, Record):
            facts = {name: getattr(document, name) for name in TEXTS if name not in nobody}
            facts |= made.get(document.weights, nobody)
            if images:
                yield from _of_images(ledger, document, facts, labels.get(document.test, []))
            else:
                yield facts | _of_record(document)


def _of_record(record: Record) -> dict[str, Any]:
    cost, machine = record.cost, record.machine
    return {
        "asked": len(record.asked), "fell": len(record.fell), "forwards": cost.forwards, "backwards": cost.backwards,
        "seconds": cost.seconds, "run": record.run, "bundle": record.bundle, "images": record.images,
        "source": record.source, "access": record.access, "doubts": "; ".join(record.doubts),
        "device": machine.device, "machine": machine.name, "threads": machine.threads, "tile": machine.tile,
        "versions": ", ".join(f"{k} {v}" for k, v in record.versions.items()), "commit": record.commit,
        "made": record.made,
    }  # fmt: skip


def _of_images(ledger: Ledger, record: Record, facts: dict[str, Any], labels: list[int]) -> Rows:
    path = ledger.root / record.key / f"{record.images}.safetensors"
    content = read_bytes(path)
    if isinstance(content, Finding) or (said := fits(record, content)):
        raise IntegrityError(str(content) if isinstance(content, Finding) else f"{path}: {said}")
    arrays, fell = ledger.images(record), set(record.fell)
    # Through text, so that a float32 is written as short as it reads back, and not with the digits of a float64.
    figures = [
        [float(str(v)) for v in arrays[name]] if arrays[name].dtype.kind == "f" else arrays[name].tolist()
        for name in FIGURES
    ]
    for image, *values in zip(record.asked, *figures, strict=True):
        yield facts | {
            "image": image, "label": labels[image] if image < len(labels) else None, "fell": image in fell,
            **dict(zip(FIGURES, values, strict=True)), "made": record.made,
        }  # fmt: skip


def _csv(text: io.TextIOWrapper, names: tuple[str, ...], rows: Rows) -> int:
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007 - the last one is their number
        writer.writerow(row)
    return count


def _json(text: io.TextIOWrapper, names: tuple[str, ...], rows: Rows, *, images: bool) -> int:
    """A document with a line a row; JSON has no infinity, so an infinite distance is null."""
    schema = "rampart/export-images-1" if images else "rampart/export-1"
    text.write(f'{{"schema": "{schema}", "rows": [')
    count = 0
    for count, row in enumerate(rows, 1):
        plain = {k: None if isinstance(v := row[k], float) and not math.isfinite(v) else v for k in names}
        text.write(("" if count == 1 else ",") + "\n" + json.dumps(plain, ensure_ascii=False))
    text.write("\n]}\n")
    return count


def _parquet_writer() -> Any:
    """What writes Parquet; an error that names the extra where it is not installed."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UsageError("Parquet needs the package pyarrow: pip install 'rampart-bench[parquet]'") from None

    def write(out: Any, names: tuple[str, ...], rows: Rows) -> int:
        of_image = "image" in names
        kinds = {"fell": pa.bool_() if of_image else pa.int64(), "seconds": pa.float64()}
        kinds |= dict.fromkeys(WHOLE, pa.int64()) | dict.fromkeys(("margin", "distance"), pa.float32())
        schema = pa.schema([(name, kinds.get(name, pa.string())) for name in names])
        count = 0
        with pq.ParquetWriter(out, schema) as writer:
            block: list[dict[str, Any]] = []
            for row in rows:
                block.append(row)
                if len(block) == BLOCK:
                    writer.write_table(pa.Table.from_pylist(block, schema))
                    count, block = count + len(block), []
            writer.write_table(pa.Table.from_pylist(block, schema))
        return count + len(block)

    return write
