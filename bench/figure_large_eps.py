"""bench figure large-eps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bench.cli_figure import images_option, listed, model_options, place_options, show
from bench.options import Command, option

if TYPE_CHECKING:
    from bench.place import Place
    from bench.records import Picture


@click.command("large-eps", cls=Command)
@option("--eps", "radii", default="", metavar="NORM:EPS,…", callback=listed,
        help="l2:4,linf:0.3; default: the paper's radii for images of this kind")  # fmt: skip
@images_option
@model_options
@place_options
def command(radii: tuple[str, ...], **options: Any) -> None:
    """Adversarial images of a size that people see, each with what the model takes it for."""

    def make(place: Place) -> tuple[Picture, tuple[str, ...]]:
        from bench.pictures_large_eps import large_eps
        from bench.portraits import scene

        seen = scene(place, options)
        return large_eps(seen, radii), seen.left_out

    show(options, make)
