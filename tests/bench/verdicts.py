"""What a ledger says of every image of every cell, whoever found it and wherever."""

from __future__ import annotations

from dataclasses import replace

from bench.exam import digest
from bench.place import Place
from bench.records import Record, TrainingRecord


def elsewhere(place: Place, name: str) -> Place:
    """The same place with folders of another name."""
    root = place.ledger_root.parent / name
    return replace(place, ledger_root=root / "ledger", store_root=root / "store")


def verdict_hash(place: Place) -> str:
    """Of the verdict, the class and the figures of every image, and of all weights: all but cost and machine.

    An image that was asked twice is an error.
    """
    found: dict[str, dict[int, list[object]]] = {}
    weights: dict[str, dict[str, str]] = {}
    for document in place.ledger.all():
        if isinstance(document, TrainingRecord):
            weights[document.key] = dict(document.weights)
        if isinstance(document, Record):
            figures = place.ledger.images(document)
            cell = found.setdefault(document.key, {})
            for at, image in enumerate(document.asked):
                assert image not in cell, "an image was asked twice"
                seen = [repr(figures[name][at].item()) for name in sorted(figures)]
                cell[image] = [image in document.fell, *seen]
    return digest({
        "cells": {key: {str(image): said for image, said in cell.items()} for key, cell in found.items()},
        "weights": weights,
    })  # fmt: skip
