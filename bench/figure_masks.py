"""bench figure masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bench.cli_figure import images_option, model_options, place_options, show
from bench.options import Command, Number, option

if TYPE_CHECKING:
    from bench.place import Place
    from bench.records import Picture


@click.command("masks", cls=Command)
@option("--low", type=Number(0.0, 1.0, ends=True), default=0.875, show_default=True,
        help="the budget outside the mask, as a share of eps")  # fmt: skip
@option("--steps", type=click.IntRange(min=1), default=10, show_default=True, help="of the attack that is shown")
@option("--step", type=Number(0.0, 10.0), default=0.25, show_default=True, help="the size of one, as a share of eps")
@images_option
@model_options
@place_options
def command(low: float, steps: int, step: float, **options: Any) -> None:
    """Class activation maps, PART's masks of them and a masked attack; over epochs where snapshots were kept.

    GradCAM, XGradCAM and LayerCAM of the class that the model itself predicts. Train with snapshots=N to keep the
    weights of every N epochs.
    """

    def make(place: Place) -> tuple[Picture, tuple[str, ...]]:
        from bench.pictures_masks import masks
        from bench.portraits import scene

        seen = scene(place, options)
        return masks(seen, low, steps, step), seen.left_out

    show(options, make)
