"""Pictures made by hand: arrays of every shape, as the bench would keep them."""

from __future__ import annotations

import numpy as np

from bench import Picture
from bench.records import picture_key

from .conftest import NET, Writer, sha

TRAINED = (("standard", ""), ("at(steps=7)", "linf:0.1"), ("at(steps=7)", "l2:1.5"))
SHAPES = [(1, 8, 2), (1, 28, 10), (3, 32, 10), (3, 64, 200), (3, 224, 9)]  # channels, side, classes


def model(label, threat, seed=0, which="best"):
    """A model whose weights are named by its words."""
    return {
        "label": label, "threat": threat, "seed": seed, "which": which, "net": NET,
        "weights": sha(f"{label} {threat} {seed} {which}"),
    }  # fmt: skip


def kept(writer: Writer, kind, arrays, heads=("model",), rows=(), *, images=(0,), settings=None, models=None):
    """A picture in the ledger, with its arrays."""
    models = [model(*m) for m in TRAINED] if models is None else models
    settings, images = settings or {}, list(images)
    key = picture_key(kind, 1, [(m["net"], m["weights"]) for m in models], sha(writer.dataset), images, settings)
    origin = {k: v for k, v in writer.origin().items() if k != "source"}
    found = Picture.model_validate({
        "key": key, "kind": kind, "version": 1, "models": models, "dataset": writer.dataset,
        "test": sha(writer.dataset), "images": images, "settings": settings, "heads": list(heads),
        "rows": [list(r) for r in rows], "arrays": writer.ledger.put_images(key, arrays), **origin,
    })  # fmt: skip
    writer.ledger.add(found)
    return found


def gradients(writer, shape, images=(3, 9)):
    """Random gradients; that of the last model on the last image is zero."""
    channels, side, classes = shape
    rng = np.random.default_rng(0)
    grads = rng.normal(0, 0.2, (3, len(images), channels, side, side)).astype(np.float32)
    grads[-1, -1] = 0
    arrays = {
        "images": pixels(rng, len(images), shape), "labels": rng.integers(0, classes, len(images)),
        "gradients": grads, "predicted": rng.integers(0, classes, (3, len(images))),
    }  # fmt: skip
    names = [f"{label.partition('(')[0]} {threat}".strip() for label, threat in TRAINED]
    rows = [[n, str(i), "0", "0", 1.25 + k, 0.5, 0.2] for k, n in enumerate(names) for i in images]
    rows[-1][4:] = [None, None, 0.0]
    rows += [[n, "mean of the first 50", "", "", 2.5, 0.25, None] for n in names]
    heads = ["model", "image", "label", "predicted", "total variation", "edge alignment", "sigma"]
    return kept(writer, "gradients", arrays, heads, rows, images=images, settings={"n": 50}), arrays


def large_eps(writer, shape, images=(3, 9)):
    """Of the first image every model is fooled, of the second none is."""
    channels, side, _ = shape
    rng = np.random.default_rng(1)
    labels = np.array([1, 0])
    taken = np.zeros((2, 3, 2), np.int64)
    arrays = {
        "images": pixels(rng, 2, shape), "labels": labels, "predicted": np.stack([labels] * 3), "taken_for": taken,
        "adversarial": rng.random((2, 3, 2, channels, side, side), np.float32),
        "probability": np.full((2, 3, 2), 0.75, np.float32), "size": np.ones((2, 3, 2), np.float32),
    }  # fmt: skip
    arrays["predicted"][2, 1] = 1  # the last model misread the second image before
    settings = {"threats": ["l2:4", "linf:0.3"], "steps": [40, 40], "step": [0.0375, 0.0375]}
    return kept(writer, "large-eps", arrays, ["image"], [["3"]], images=images, settings=settings), arrays


def interpolate(writer, shape, epochs=(), frames=20):
    """From class 1 to class 0."""
    channels, side, classes = shape
    rng = np.random.default_rng(2)
    to = np.linspace(0, 0.9, frames)
    chance = np.zeros((3, frames, classes), np.float32)
    chance[:, :, 0], chance[:, :, 1] = to, 1 - to
    arrays = {
        "images": pixels(rng, 1, shape), "labels": np.array([1]), "probability": chance,
        "frames": rng.random((3, frames, channels, side, side), np.float32),
        "distance": np.stack([np.linspace(0, 4, frames)] * 3),
    }  # fmt: skip
    for m in range(3) if epochs else ():
        arrays |= {
            f"epoch_{m}": np.array(epochs), f"epoch_distance_{m}": np.ones(len(epochs)),
            f"epoch_examples_{m}": rng.random((len(epochs), channels, side, side), np.float32),
            f"epoch_probability_{m}": chance[m, -1:].repeat(len(epochs), 0),
        }  # fmt: skip
    settings = {"threat": "l2:4", "frames": frames, "epochs": bool(epochs)}
    return kept(writer, "interpolate", arrays, ["model"], [["standard"]], images=[5], settings=settings), arrays


def examples(writer, shape):
    """One image fell, one stands, one was misread before."""
    rng = np.random.default_rng(3)
    images = pixels(rng, 3, shape).astype(np.float32) / 255
    arrays = {
        "images": images, "labels": np.array([0, 1, 0]), "predicted": np.array([0, 1, 1]),
        "adversarial": np.clip(images + rng.choice([-0.03, 0.03], images.shape), 0, 1).astype(np.float32),
        "taken_for": np.array([1, 1, 1]), "fell": np.array([True, False, True]), "distance": np.full(3, 0.03),
    }  # fmt: skip
    settings = {
        "records": [sha("record")], "attack": "pgd@1(steps=20)", "threat": "linf:0.03", "condition": "fog@1():3",
        "seed": 0,
    }  # fmt: skip
    rows = [
        ["3", "a", "a", "fell", "b", 0.03],
        ["4", "b", "b", "stands", None, None],
        ["7", "a", "b", "fell", "b", 0.03],
    ]
    heads = ["image", "label", "predicted before", "outcome", "predicted after", "distance"]
    return kept(
        writer, "examples", arrays, heads, rows, images=[3, 4, 7], settings=settings, models=[model("at", "")]
    ), arrays


def pixels(rng, count, shape):
    """Random images (n, C, H, W) uint8."""
    return rng.integers(0, 256, (count, shape[0], shape[1], shape[1])).astype(np.uint8)
