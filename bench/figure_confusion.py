"""bench figure confusion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bench.cli_figure import model_options, place_options, show
from bench.options import Command, option

if TYPE_CHECKING:
    from bench.place import Place
    from bench.records import Picture


@click.command("confusion", cls=Command)
@option("--columns", default="clean", show_default=True, metavar="LIST",
        help='matrices under these: "clean, pgd-20, pgd(steps=50)"')  # fmt: skip
@click.option("--under", default="", metavar="NORM:EPS",
              help="the threat of these columns; default: what each model was trained for")  # fmt: skip
@option("-n", "--n", type=click.IntRange(min=1), help="the first N test images; default: all that were asked")
@model_options
@place_options
def command(columns: str, under: str, n: int | None, **options: Any) -> None:
    """For what images of each class were taken under any column, and class weights over training.

    Counted from the ledger's records; nothing is attacked.
    """

    def make(place: Place) -> tuple[Picture, tuple[str, ...]]:
        from bench.errors import UsageError
        from bench.pictures_confusion import confusion
        from bench.portraits import scene
        from bench.registry import split_list

        asked = split_list(columns)
        if not asked:
            raise UsageError("--columns names no column; expected some, as in clean, pgd-20")
        seen = scene(place, {**options, "images": ()})
        return confusion(seen, asked, under, n or 0), seen.left_out

    show(options, make)
