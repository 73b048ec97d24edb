"""Bundles: the adversarial images that prove a record, small enough to carry along.

An image is kept as uint8 where it survives that: rounded towards the original, so that no norm of the perturbation
grows, it is still in ball and box, no farther than the record says, and the judge still finds it misread.  Else it is
kept as it was, in float32.  Both are packed (lzma) as differences from the test image, which whoever checks them has:
bytes that are subtracted, and float bits that are exclusive-ored.
"""

from __future__ import annotations

import lzma
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bench.errors import IntegrityError
from bench.evaluate import misread

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from bench.evaluate import Subject, Verdict
    from bench.exam import Part
    from bench.store import Store
    from bench.threat import ThreatModel

SLACK = 1e-3  # of a 255th: float32 images of whole levels are that near to them
MEMORY = 64 << 20  # bytes that unpacking may take beside its result


@dataclass(frozen=True, eq=False)
class Bundle:
    """Fallen images of one record."""

    ids: Tensor  # (n,) int64, places in the test part
    images: Tensor  # (n, C, H, W) float32 in [0, 1]
    rounded: Tensor  # (n,) bool: which are not the attack's own, but whole levels near it


def make(
    verdict: Verdict, subject: Subject, threat: ThreatModel | None, part: Part,
    look: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> dict[str, Tensor]:  # fmt: skip
    """The tensors of a verdict's bundle.  look: places (n,) to the images as they were attacked, and their labels.

    Each fallen image costs one more pass (20 of a random model), which no record counts: it is the keeping's, not the
    attack's or the verdict's.
    """
    ids, images = verdict.asked[verdict.fell], verdict.adversarial
    parts = [
        _round(images[rows], verdict.distance[verdict.fell][rows], subject, threat, *look(ids[rows]))
        for rows in torch.arange(len(ids)).split(4 * subject.tile)
    ]
    levels, rounded = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    base = part.x[ids.numpy()]
    kept = rounded.numpy()
    return {
        "ids": ids, "rounded": rounded,
        "levels": _packed(levels.numpy()[kept] - base[kept]),  # uint8: it wraps, and so does the sum
        "floats": _packed(images.numpy()[~kept].view(np.uint32) ^ _bits(base[~kept])),
    }  # fmt: skip


def _round(
    x_adv: Tensor, recorded: Tensor, subject: Subject, threat: ThreatModel | None, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Levels (n, C, H, W) uint8 between each image and its original, and which of them prove as much (n,)."""
    scaled = x_adv.double() * 255
    towards = torch.where(x_adv >= x.cpu(), (scaled + SLACK).floor(), (scaled - SLACK).ceil())
    levels = towards.clamp(0, 255).to(torch.uint8)
    near = levels.float() / 255
    size = distances(near, x.cpu(), threat)
    # Where the norm alone counts the distance is the claim, else float32's last digits do not matter.
    most = recorded.double() if threat == (threat and threat.without_bound) else recorded.double() * (1 + 1e-6) + 1e-7
    inside = size <= most
    if threat:
        inside &= threat.holds(size)
    if inside.any():
        there = inside.to(x.device)
        inside[inside.clone()] = misread(subject, near.to(x.device)[there], y[there])[1].cpu()
    return levels, inside


def distances(x_adv: Tensor, x: Tensor, threat: ThreatModel | None) -> Tensor:
    """How far each image is from its original, in float64: (n,); without a threat the largest change of a value."""
    delta = x_adv.double() - x.double()
    return threat.size(delta) if threat else delta.abs().flatten(1).amax(1)


def read(store: Store, name: str, part: Part) -> Bundle:
    """The bundle of that hash; IntegrityError where it does not hold images of this test part."""

    def stop(what: str) -> IntegrityError:
        return IntegrityError(f"bundle {name}: {what}")

    tensors = store.get(name)
    ids, rounded = tensors.get("ids"), tensors.get("rounded")
    if ids is None or ids.ndim != 1 or ids.dtype != torch.int64:
        raise stop("it has no places of images; expected ids (n,), int64")
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < len(part):
        raise stop(f"it has images {int(ids.min())} to {int(ids.max())}; the test part has {len(part):,}")
    shape = (len(ids), *part.x.shape[1:])
    if tensors.keys() == {"ids", "images"}:  # as they were kept at first
        images = tensors["images"]
        if images.shape != shape or images.dtype != torch.float32:
            raise stop(f"its images are {tuple(images.shape)} {images.dtype}; expected {shape}, float32")
        return Bundle(ids, images, torch.zeros(len(ids), dtype=torch.bool))
    if rounded is None or tensors.keys() != {"ids", "rounded", "levels", "floats"}:
        raise stop(f"it holds {', '.join(sorted(tensors))}; expected ids, rounded, levels, floats")
    if rounded.shape != ids.shape or rounded.dtype != torch.bool:
        raise stop(f"rounded is {tuple(rounded.shape)} {rounded.dtype}; expected {tuple(ids.shape)}, bool")
    base, kept = part.x[ids.numpy()], rounded.numpy()
    found = np.empty(shape, np.float32)
    try:
        levels = _unpacked(tensors["levels"], np.uint8, base[kept].shape) + base[kept]
        found[kept] = levels.astype(np.float32) / np.float32(255)
        found[~kept] = (_unpacked(tensors["floats"], np.uint32, base[~kept].shape) ^ _bits(base[~kept])).view("<f4")
    except (lzma.LZMAError, ValueError, EOFError) as error:
        raise stop(f"its images cannot be unpacked ({error})") from error
    return Bundle(ids, torch.from_numpy(found), rounded)


def _bits(levels: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """The float32 bits of images in [0, 1]."""
    return (levels.astype("<f4") / np.float32(255)).view("<u4")


def _packed(values: NDArray[Any]) -> Tensor:
    """Bytes, packed: (bytes,) uint8."""
    stream = lzma.compress(values.astype(values.dtype.newbyteorder("<")).tobytes(), preset=6)
    return torch.frombuffer(bytearray(stream), dtype=torch.uint8)


def _unpacked(stream: Tensor, kind: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    """What `_packed` was given; never more than the shape holds, whatever the stream says."""
    if stream.ndim != 1 or stream.dtype != torch.uint8:
        raise ValueError(f"a stream is {tuple(stream.shape)} {stream.dtype}; expected bytes")
    expected = int(np.prod(shape)) * np.dtype(kind).itemsize
    unpacker = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=MEMORY)
    content = unpacker.decompress(stream.numpy().tobytes(), max_length=expected + 1)
    if len(content) != expected or not unpacker.eof:
        raise ValueError(f"it holds {'more' if len(content) > expected else 'less'} than {expected:,} bytes of pixels")
    return np.frombuffer(content, np.dtype(kind).newbyteorder("<")).reshape(shape)
