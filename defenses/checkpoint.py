"""Weights that exist already: a defense whose training is a checked load."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from bench import IncompleteError, IntegrityError, TrainJob, UsageError, defense


def pin(settings: dict[str, Any]) -> dict[str, Any]:
    """Fill in the file's hash, or check the one that was given."""
    path = Path(settings["path"]).expanduser()
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise IncompleteError(
            f"checkpoint(path={str(path)!r}): {error.strerror}; expected a weights file there"
        ) from None
    wanted = settings["sha256"].lower()
    if wanted and wanted != found:
        raise IntegrityError(f"{path} has the sha256 {found}; expected {wanted}")
    return {**settings, "path": str(path.resolve()), "sha256": found}


@defense(version=1, pin=pin, unkeyed=("path",), trains=False)
def checkpoint(job: TrainJob, *, path: str, sha256: str = "") -> nn.Module:
    """Load weights (safetensors, or torch with weights_only) into the net; nothing in the file is executed.

    Understood: a state_dict, one under `state_dict` or `model`, the first of a list, and keys that start with
    `module.`; what was unwrapped is reported.  Any other mismatch of names or shapes is an error that shows both.
    """
    settings = pin({"path": path, "sha256": sha256})
    state, unwrapped = _unwrap(_read(Path(settings["path"])))
    model = job.net()
    state, renamed = _named(state, model)
    _compare(Path(path).name, state, model.state_dict())
    model.load_state_dict(state)
    if said := [f"took {', then '.join(unwrapped)}"] * bool(unwrapped) + renamed:
        job.report(f"{Path(path).name}: {'; '.join(said)}")
    return model


def _read(path: Path) -> object:
    content = path.read_bytes()
    try:
        if path.suffix == ".safetensors":
            return load(content)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        first = str(error).partition("\n")[0]
        raise IntegrityError(
            f"{path} cannot be read as weights alone: {first}; expected safetensors, or a torch file "
            f"that loads with weights_only=True (it begins with {content[:8]!r})"
        ) from error


def _unwrap(found: object) -> tuple[dict[str, Tensor], list[str]]:
    """The state_dict inside, and what was taken off on the way."""
    steps = []
    while not _is_state(found):
        if isinstance(found, list | tuple) and found:
            found = found[0]
            steps.append("the first of a list")
        elif isinstance(found, dict) and (name := next((k for k in ("state_dict", "model") if k in found), None)):
            found = found[name]
            steps.append(f"its {name!r}")
        else:
            keys = ", ".join(map(str, list(found)[:5])) if isinstance(found, dict) else type(found).__name__
            raise IntegrityError(f"there is no state_dict in the file, but: {keys}")
    assert isinstance(found, dict)
    state = {str(k): v for k, v in found.items()}
    if all(k.startswith("module.") for k in state):
        state = {k.removeprefix("module."): v for k, v in state.items()}
        steps.append("'module.' off the names")
    return state, steps


def _is_state(found: object) -> bool:
    return isinstance(found, dict) and bool(found) and all(isinstance(v, Tensor) for v in found.values())


def _named(state: dict[str, Tensor], model: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """The state under the names of the net, as its module declares them of public files; and what was done for it."""
    wanted, done = model.state_dict(), []
    prefix = str(getattr(model, "public_prefix", ""))
    if prefix and not any(k.startswith(prefix) for k in state):
        state = {prefix + k: v for k, v in state.items()}
        done.append(f"put {prefix!r} before the names")
    unused = tuple(getattr(model, "ignored_keys", ()))
    if left := [k for k in state if k not in wanted and k.startswith(unused)]:
        state = {k: v for k, v in state.items() if k not in left}
        done.append(f"left out {len(left)} weights that the net does not use, as {left[0]}")
    if lost := [k for k in wanted.keys() - state.keys() if k.endswith(".num_batches_tracked")]:
        state = {**state, **{k: wanted[k] for k in lost}}
        done.append(f"is of an old torch, without the counters of {len(lost)} batch normalisations; they start at 0")
    return state, done


def _compare(name: str, state: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Names and shapes must agree, and every weight must be a number."""
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or extra:
        raise UsageError(
            f"{name} does not fit the net: missing {missing[:3] or 'nothing'}{' …' * (len(missing) > 3)}, "
            f"not in the net {extra[:3] or 'nothing'}{' …' * (len(extra) > 3)}; name its own with --net (and --plugin)"
        )
    for key, tensor in wanted.items():
        if state[key].shape != tensor.shape:
            raise UsageError(
                f"{name} does not fit the net: {key} is {tuple(state[key].shape)}, the net's is {tuple(tensor.shape)}"
            )
        if not state[key].float().isfinite().all():
            raise IntegrityError(f"{name}: {key} has values that are not numbers")
