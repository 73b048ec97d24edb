"""bench figure gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bench.cli_figure import images_option, model_options, place_options, show
from bench.options import Command, option

if TYPE_CHECKING:
    from bench.place import Place
    from bench.records import Picture


@click.command("gradients", cls=Command)
@option("-n", "--n", type=click.IntRange(min=1), default=100, show_default=True,
        help="both numbers are also the mean over the first N test images")  # fmt: skip
@images_option
@model_options
@place_options
def command(n: int, **options: Any) -> None:
    """The gradient of the loss by the pixels, model beside model, with its total variation and edge alignment."""

    def make(place: Place) -> tuple[Picture, tuple[str, ...]]:
        from bench.pictures_gradients import gradients
        from bench.portraits import scene

        seen = scene(place, options)
        return gradients(seen, n), seen.left_out

    show(options, make)
