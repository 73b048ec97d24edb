"""What the command line says: people read standard error, programs one JSON document on standard output."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any


def print_json(document: dict[str, Any]) -> None:
    """One document."""
    sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def say(text: str) -> None:
    """A line for a person."""
    sys.stderr.write(text + "\n")


def stop_if_damaged(damaged: Sequence[str]) -> None:
    """Name what the board had to skip, and stop with exit 4."""
    for said in damaged:
        say(f"bench: skipped: {said}")
    if damaged:
        sys.exit(4)


@contextmanager
def prints_aside() -> Iterator[None]:
    """Whatever plugins print, also by the file descriptor, goes to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
