"""From what a file holds to the weights of a net: what was unwrapped, renamed or left out is said, never guessed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench import IntegrityError, UsageError, nearest
from defenses.zoo_read import shown

State = dict[str, Tensor]
# Where scripts put the weights, in the order in which they are looked for.
ENTRIES = (
    "state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "last", "best",
    "state_dict_ema", "model_ema", "ema", "params_ema",
)  # fmt: skip
PREFIXES = ("module.", "model.", "net.", "_orig_mod.", "ema.", "network.")
DEPTH = 8
STATISTICS = ("mu", "sigma", "mean", "std")  # of the images, which a net brings itself


@dataclass
class Weights:
    """Named tensors, and what was done to the file's content to get them."""

    state: State
    steps: list[str] = field(default_factory=list)


def unwrap(name: str, content: object, entry: str = "") -> Weights:
    """The state_dict inside; `entry` says where it lies, as in `ema` or `nets.teacher`."""
    steps: list[str] = []
    for key in entry.split(".") if entry else ():
        if not isinstance(content, dict) or key not in content:
            keys = [str(k) for k in content] if isinstance(content, dict) else []
            raise UsageError(f"{name} has no entry {entry!r}{nearest(key, keys) or f'; it holds {_what(content)}'}")
        content = dict(dict.items(content))[key]
        steps.append(f"its {key!r}")
    for _ in range(DEPTH):
        if _is_state(content):
            assert isinstance(content, dict)
            return Weights({str(k): _plain(name, str(k), v) for k, v in dict.items(content)}, steps)
        if isinstance(content, list | tuple) and content:
            content = content[0]
            steps.append("the first of a list")
            continue
        there = [
            k for k in ENTRIES if isinstance(content, dict) and isinstance(dict.get(content, k), dict | list | tuple)
        ]
        if not there:
            break
        assert isinstance(content, dict)
        content = dict.get(content, there[0])
        others = f" (and not {', '.join(map(repr, there[1:]))}; entry='{there[1]}' takes that)" if there[1:] else ""
        steps.append(f"its {there[0]!r}{others}")
    raise IntegrityError(f"there is no state_dict in the file {name}, but: {_what(content)}")


def _is_state(found: object) -> bool:
    return isinstance(found, dict) and bool(found) and all(isinstance(v, Tensor) for v in dict.values(found))


def _what(content: object) -> str:
    """What a file holds instead, for messages."""
    if isinstance(content, dict):
        return ", ".join(shown(k) for k in list(dict.keys(content))[:5]) or "nothing"
    return type(content).__name__


def _plain(name: str, key: str, tensor: Tensor) -> Tensor:
    """The tensor without subclass, gradient and attributes; one that holds no numbers of its own is refused."""
    # Called on the class: what a file hangs on its tensors could hide the methods.
    with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001 - the public way to bypass a subclass
        if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.is_quantized:
            raise IntegrityError(f"{name}: {shown(key)} is {tensor.layout} on {tensor.device}; expected plain numbers")
        claimed, there = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
        if claimed > there:
            raise IntegrityError(f"{name}: {shown(key)} claims {claimed:,} bytes and brings {there:,}")
        return torch.Tensor.detach(tensor).as_subclass(torch.Tensor)


def bounded(name: str, state: Mapping[str, Tensor], size: int) -> None:
    """Refuse tensors that together claim far more bytes than the file has: views of the same few numbers."""
    claimed = sum(t.numel() * t.element_size() for t in state.values())
    if claimed > 4 * size:  # tied weights are legitimate, and few
        raise IntegrityError(f"{name}: its tensors claim {claimed:,} bytes in a file of {size:,}")
    for key, tensor in state.items():
        if tensor.is_complex() or tensor.layout != torch.strided or tensor.is_meta:
            raise IntegrityError(f"{name}: {key} is {tensor.dtype}, {tensor.layout}; expected plain real numbers")


def fit(
    name: str, weights: Weights, wanted: Mapping[str, Tensor], *, statistics: bool = False, extras: bool = False,
    front: str = "model.", unused: tuple[str, ...] = (),
) -> Weights:  # fmt: skip
    """The weights under the net's names: prefixes come off (or on) where that makes all names agree.

    statistics: the mean and std of the images may be missing; the net's own are kept.  extras: weights that the net
    has no place for are left out.  front: what may stand before the net's names and not before the file's.  unused:
    beginnings of names that the net knows to be without a use.  All that is done is reported; whatever else differs is
    a UsageError.
    """
    spelt = _spellings(weights.state, wanted, front)
    # Of spellings that fit equally badly the barest is the one to read in a message.
    state, steps = min(spelt, key=lambda s: (len(wanted.keys() ^ s[0].keys()), -len(s[1])))
    steps = [*weights.steps, *steps]
    if left := [k for k in state if k.startswith(unused) and k not in wanted]:
        steps.append(f"all but {len(left)} weights that the net does not use, as {left[0]}")
        state = {k: v for k, v in state.items() if k not in left}
    missing = wanted.keys() - state.keys()
    counters = {k for k in missing if k.endswith("num_batches_tracked")}
    own = {k for k in missing if statistics and k.rpartition(".")[2] in STATISTICS}
    extra = state.keys() - wanted.keys()
    if counters and not missing - counters - own:
        steps.append("no counts of batches, which older versions of torch did not keep")
    if own and not missing - counters - own:
        steps.append(f"the net's own {', '.join(sorted(own))}")
    if extra and extras and not missing - counters - own:
        steps.append(f"all but {len(extra)} weights that the net has no place for ({_some(extra)})")
        state = {k: v for k, v in state.items() if k in wanted}
    kept = {k: wanted[k] for k in counters | own}
    compare(name, {**state, **kept}, wanted)
    return Weights({**state, **kept}, steps)


def _spellings(state: State, wanted: Mapping[str, Tensor], front: str) -> Iterator[tuple[State, list[str]]]:
    """The names as they are, then with more and more prefixes taken off, then with `front` put on."""
    steps: list[str] = []
    own = state.keys()
    for _ in range(DEPTH):
        yield state, list(steps)
        prefix = next((p for p in PREFIXES if all(k.startswith(p) for k in state)), "")
        compiled = any("._orig_mod." in k for k in state)
        if not prefix and not compiled:
            break
        old = prefix or "._orig_mod"
        renamed = {k.removeprefix(prefix) if prefix else k.replace("._orig_mod.", "."): v for k, v in state.items()}
        if len(renamed) < len(state):
            break
        state = renamed
        steps.append(f"{old!r} off the names")
    fronted = {f"{front}{k}": v for k, v in state.items()}
    if sum(k.startswith(front) for k in wanted) > len(wanted) // 2 and fronted.keys() != own:
        yield fronted, [*steps, f"{front!r} before the names"]


def compare(name: str, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Names and shapes must agree, and every weight must be a number."""
    missing, extra = wanted.keys() - state.keys(), state.keys() - wanted.keys()
    if missing or extra:
        raise UsageError(
            f"{name} does not fit the net: missing {_some(missing)}, not in the net {_some(extra)}; "
            "name its own with --net (and --plugin)"
        )
    for key, tensor in wanted.items():
        if state[key].shape != tensor.shape:
            raise UsageError(
                f"{name} does not fit the net: {key} is {tuple(state[key].shape)}, the net's is {tuple(tensor.shape)}"
            )
    for key in wanted:
        numbers = state[key] if state[key].is_complex() else state[key].float()
        if not numbers.isfinite().all():
            raise IntegrityError(f"{name}: {key} has values that are not numbers")


def _some(names: set[str]) -> str:
    """Some of the names, for messages."""
    return f"{[k[:120] for k in sorted(names)[:3]]}{' …' * (len(names) > 3)}" if names else "nothing"
