"""Images and frost by whole-number arithmetic alone, the same everywhere."""

import hashlib

import numpy as np
import torch
from PIL import Image

from bench import Draws
from data import frost as frosts


def pattern(height, width, seed):
    """Levels (height, width): waves, patches and a speck of noise."""
    down, right = np.mgrid[:height, :width]
    waves = (down * (3 + seed % 4) + right * (5 + seed % 3)) % 256
    patches = ((down // 9 + right // 7 + seed) % 5) * 40
    specks = ((down * 7919 + right * 104729 + seed * 15485863) % 251) // 8
    return ((waves * 2 + patches * 3) // 5 + specks).clip(0, 255).astype(np.uint8)


def images(count, channels, side):
    """Images in [0, 1], float32 (count, channels, side, side)."""
    levels = [[pattern(side, side, 3 * i + c) for c in range(channels)] for i in range(count)]
    return torch.from_numpy(np.array(levels)).float() / 255


def draws(ids, name, severity):
    """What the judge gives a corruption."""
    return Draws(0, torch.as_tensor(ids), f"corruption/{name}", step=severity)


def levels(x):
    """Whole levels: uint8."""
    return (x * 255).round().to(torch.uint8)


def make_frost(folder):
    """Five pictures under the names of the photographs, some larger than others, and their sha256 by name."""
    folder.mkdir(exist_ok=True)
    made = {}
    for k, name in enumerate(frosts.PICTURES):
        picture = np.stack([pattern(315 + 20 * k, 520 - 30 * k, 11 * k + c) for c in range(3)], 2)
        Image.fromarray(picture).save(folder / name, format="PNG")
        made[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return made


def use_frost(folder, monkeypatch):
    """Let these be the published photographs."""
    monkeypatch.setattr(frosts, "PICTURES", make_frost(folder))
    monkeypatch.setenv(frosts.VARIABLE, str(folder))
