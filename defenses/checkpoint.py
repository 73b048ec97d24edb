"""Weights that exist already: a defense whose training is a checked load."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from torch import nn

from bench import IncompleteError, IntegrityError, TrainJob, UsageError, defense
from defenses.zoo_names import Weights, bounded, fit, unwrap
from defenses.zoo_read import Found, read


def pin(settings: dict[str, Any]) -> dict[str, Any]:
    """Fill in the file's hash, or check the one that was given."""
    path = Path(settings["path"]).expanduser()
    found = file_hash(path)
    wanted = hash_of(settings["sha256"])
    if wanted and wanted != found:
        raise IntegrityError(f"{path} has the sha256 {found}; expected {wanted}")
    return {**settings, "path": str(path.resolve()), "sha256": found}


@defense(version=1, pin=pin, unkeyed=("path",), trains=False)
def checkpoint(job: TrainJob, *, path: str, sha256: str = "", entry: str = "") -> nn.Module:
    """Load weights (safetensors, or torch with weights_only) into the net; nothing in the file is executed.

    Understood: a state_dict; one under `state_dict`, `model`, `net`, `ema` and the like (entry='ema' chooses), or the
    first of a list; and names that begin with `module.`, `model.`, `_orig_mod.`.  What was unwrapped is reported.
    Any other mismatch of names or shapes is an error that shows both.
    """
    settings = pin({"path": path, "sha256": sha256})
    model = job.net()
    name = Path(path).name
    load_public(model, opened(Path(settings["path"]), entry)[1], job, name)
    return model


def opened(path: Path, entry: str) -> tuple[Found, Weights]:
    """What a file holds, and the weights in it under the file's own names."""
    found = read(path)
    weights = unwrap(str(path), found.content, entry)
    bounded(str(path), weights.state, found.size)
    return found, weights


def load_public(model: nn.Module, weights: Weights, job: TrainJob, name: str) -> None:
    """Put the weights of a public file into the net, whose module says how such files differ from it."""
    front, unused = getattr(model, "public_prefix", "model."), tuple(getattr(model, "ignored_keys", ()))
    load(model, fit(name, weights, model.state_dict(), front=front, unused=unused), job, name)


def load(model: nn.Module, weights: Weights, job: TrainJob, name: str) -> None:
    """Put weights that fit into the net, and report what was done to them."""
    model.load_state_dict(weights.state)
    if weights.steps:
        job.report(f"{name}: took {', then '.join(weights.steps)}")


def file_hash(path: Path) -> str:
    """The sha256 of a file, read in pieces."""
    try:
        if path.exists() and not path.is_file():
            what = "a folder" if path.is_dir() else "no regular file"
            raise UsageError(f"{path} is {what}; expected a weights file")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise IncompleteError(f"{path}: {reason}; expected a weights file there") from None


def hash_of(text: str) -> str:
    """A sha256 as it is compared: 64 small hexadecimal digits, or nothing."""
    found = text.strip().lower().removeprefix("sha256:")
    if found and (len(found) != 64 or set(found) - set("0123456789abcdef")):
        raise UsageError(f"sha256={text!r}: expected 64 hexadecimal digits, as sha256sum prints")
    return found
