"""A drawing that stands alone: an SVG with its own style for light and dark, and pictures as PNGs within it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from leaderboard.drawing import LETTER, tag
from leaderboard.words import name_of, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench import Picture

GAP, ROW, EDGE = 8, 15, 10  # pixels between pictures, of a line of text, and around the drawing
STYLE = """
:root{color-scheme:light dark;--paper:#fcfcfa;--ink:#1c1e21;--soft:#5a6068;--line:#dcdcd6;--hair:#ecece6;--mark:#7d8791;
--accent:#1f5c8f;--warn:#8a4b08}
@media screen and (prefers-color-scheme:dark){:root{--paper:#15171a;--ink:#e4e5e7;--soft:#a0a6ae;--line:#363a40;
--hair:#24272c;--mark:#828b96;--accent:#7cb7ea;--warn:#e0a562}}
text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","Liberation Sans",Arial,sans-serif;
fill:var(--soft);font-variant-numeric:tabular-nums}
.title{font-weight:600;font-size:13px;fill:var(--ink)}.head{font-weight:600;fill:var(--ink)}.name{fill:var(--ink)}
.small{font-size:11px}.wrong{fill:var(--warn)}.paper{fill:var(--paper)}
path{fill:none}.hair{stroke:var(--hair)}.rule{stroke:var(--mark)}.frame{fill:none;stroke:var(--line)}
.line{stroke:var(--accent);stroke-width:2;stroke-linejoin:round}.l1{stroke:var(--warn)}.l2{stroke:var(--ink)}
.l3{stroke-dasharray:6 3}.l4{stroke:var(--warn);stroke-dasharray:6 3}.l5{stroke:var(--ink);stroke-dasharray:6 3}
.axis-name{font-size:11.5px}.heat{fill:var(--accent)}
"""
RED, BLUE = (203, 62, 56), (52, 126, 204)  # seen on white and on black alike


@dataclass(frozen=True)
class Drawing:
    """One drawing of a picture; a picture may have several, told apart by `name`, which is empty for the first."""

    name: str
    caption: str
    said: str  # for who does not see it
    svg: str
    size: tuple[int, int]
    still: str = ""  # of an animation: the same SVG without motion


def draw(name: str, caption: str, said: str, size: tuple[float, float], *inside: str, style: str = "") -> Drawing:
    """A whole drawing: its caption as the title, what it shows in words as the description."""
    width, height = round(size[0]) + 2 * EDGE, round(size[1]) + 2 * EDGE
    markup = tag(
        "svg",
        f'<title id="title">{escape(printable(caption))}</title>\n',
        f'<desc id="desc">{escape(printable(said))}</desc>\n',
        f"<style>{STYLE.replace(chr(10), '')}{style}</style>\n",
        tag("rect", x=-EDGE, y=-EDGE, width=width, height=height, class_="paper"),
        *(f"\n{part}" for part in inside if part), "\n",
        xmlns="http://www.w3.org/2000/svg", viewBox=f"{-EDGE} {-EDGE} {width} {height}", width=width, height=height,
        role="img",
        aria_labelledby="title", aria_describedby="desc",
    )  # fmt: skip
    return Drawing(name, printable(caption), printable(said), markup + "\n", (width, height))


def picture(x: float, y: float, side: float, pixels: NDArray[np.uint8], said: str = "") -> str:
    """A square picture; pixels as of `png`.  Small ones keep their pixels sharp."""
    small = pixels.shape[0] < 96
    return tag(
        "image", *([tag("title", escape(printable(said)))] if said else []), x=x, y=y, width=side, height=side,
        href=png(pixels), style="image-rendering:pixelated" if small else None,
    )  # fmt: skip


def png(pixels: NDArray[np.uint8]) -> str:
    """Pixels (H, W, C) uint8, C of 1 gray, 3 colours or 4 with opacity, as an address that holds them."""
    from PIL import Image

    buffer = io.BytesIO()
    flat = np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    Image.fromarray(flat).save(buffer, "PNG", optimize=False)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def levels(image: NDArray[np.generic]) -> NDArray[np.uint8]:
    """An image (C, H, W), uint8 or float in [0, 1], as pixels (H, W, C) of one, three or four channels.

    Of other numbers of channels, which are no colours, their mean is shown.
    """
    found = np.asarray(image)
    if found.dtype != np.uint8:
        found = np.rint(np.clip(np.nan_to_num(found.astype(np.float64)), 0, 1) * 255).astype(np.uint8)
    if found.shape[0] not in {1, 3}:
        found = np.rint(found.mean(0, keepdims=True)).astype(np.uint8)
    return found.transpose(1, 2, 0)


def diverging(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Values (H, W) from -1 to 1 as pixels (H, W, 4): blue above zero, red below, clear at zero on any paper."""
    clipped = np.clip(np.nan_to_num(values.astype(np.float64)), -1, 1)
    colour = np.where((clipped > 0)[:, :, None], np.array(BLUE), np.array(RED))
    return np.concatenate([colour, np.rint(np.abs(clipped) * 255)[:, :, None]], 2).astype(np.uint8)


def side_of(size: int, columns: int = 1) -> int:
    """How wide a picture of that many pixels is drawn: a whole multiple where it is small."""
    most = 128 if columns < 6 else 96
    return size * max(1, most // size) if size <= most else most


def fit(said: str, width: float, letter: float = LETTER) -> str:
    """A text cut to a width; letter: how wide one is, 5.8 of small ones."""
    said, most = printable(said), max(3, int(width / letter))
    return said if len(said) <= most else f"{said[: most - 1]}…"


def heads(picture: Picture) -> list[str]:
    """A short name for each model of a picture, no two alike."""
    found = [m.short for m in picture.models]
    for tell in (lambda m: m.which, lambda m: f"seed {m.seed}", lambda m: m.weights[:7]):
        twice = {name for name in found if found.count(name) > 1}
        marks = [tell(m) for m in picture.models]
        found = [f"{name} {mark}" if name in twice else name for name, mark in zip(found, marks, strict=True)]
    return found


def where(picture: Picture) -> str:
    """The data set, and the net where all models have the same: mnist, cnn."""
    nets = {name_of(m.net) for m in picture.models}
    return ", ".join([picture.dataset, *(nets if len(nets) == 1 else ())])


def listed(names: Sequence[str]) -> str:
    """Names as in a sentence: a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
