"""Errors that a user can act on, each with its exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RampartError(Exception):
    """Something went wrong that the message explains; no traceback is needed."""

    exit_code = 1


class UsageError(RampartError):
    """A name, setting, option or file that the user can mend."""

    exit_code = 2


class IncompleteError(RampartError):
    """Work that could not be finished: something is missing, and the message says how to get it."""

    exit_code = 4


class WorkerError(IncompleteError):
    """A task whose workers died, hung or broke: nothing is known of it, and it is never taken for robustness."""


class IntegrityError(RampartError):
    """A checksum, a checkpoint or a record that is not what it claims to be."""

    exit_code = 5


class AttackError(RampartError):
    """An attack that broke its contract: it raised, or its images left the ball or the box."""


class ModelError(RampartError):
    """A model that broke its contract: it raised, or gave something else than logits."""


class SandboxError(ModelError):
    """A sandboxed model that asked for more than it may have, broke the protocol, or ended itself."""


class TrainingError(RampartError):
    """A training that broke: the loss is not a number, or the defense gave no model."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, or all the names where they are few, or nothing."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(names)}" if 0 < len(names) <= 40 else ""
