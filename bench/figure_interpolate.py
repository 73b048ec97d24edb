"""bench figure interpolate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bench.cli_figure import model_options, place_options, show
from bench.options import Command, option

if TYPE_CHECKING:
    from bench.place import Place
    from bench.records import Picture


@click.command("interpolate", cls=Command)
@option("--epochs", is_flag=True,
        help="also the image's example over the training's epochs, where it kept snapshots")  # fmt: skip
@option("--frames", type=click.IntRange(min=2, max=100), default=20, show_default=True, help="images on the way")
@option("--eps", default="", metavar="NORM:EPS", help="l2:4; default: the paper's radius for images of this kind")
@option("--image", type=click.IntRange(min=0), default=0, show_default=True, help="its place in the test part")
@model_options
@place_options
def command(image: int, eps: str, frames: int, epochs: bool, **options: Any) -> None:
    """The way from an image to its large adversarial example, with the probabilities of the classes on it."""

    def make(place: Place) -> tuple[Picture, tuple[str, ...]]:
        from bench.pictures_interpolate import interpolate
        from bench.portraits import scene

        seen = scene(place, {**options, "images": (image,)})
        return interpolate(seen, eps, frames, epochs=epochs), seen.left_out

    show(options, make)
