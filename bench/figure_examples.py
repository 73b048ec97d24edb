"""bench figure examples."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from bench.cli_figure import place_options, show
from bench.errors import UsageError
from bench.options import Command, Recipes, numbers, option

if TYPE_CHECKING:
    from bench.place import Place
    from bench.records import Picture


@click.command("examples", cls=Command)
@option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1")
@option("--dataset", "datasets", multiple=True, type=Recipes(), metavar="RECIPE",
        help="the images, where the record's own name does not find them; several times")  # fmt: skip
@option("--images", default="", metavar="0,5,7", callback=numbers, help="places in the test part; default: what fell")
@click.option("--record", required=True, metavar="HASH", help="the first digits of a cell's key or of a record's file")
@place_options
def command(record: str, images: tuple[int, ...], datasets: tuple[str, ...], **options: Any) -> None:
    """What an attack did to single images: before, after, ten times the difference, and both predictions."""
    if not re.fullmatch("[0-9a-f]{4,64}", record):
        raise UsageError(f"--record {record}: expected the first four or more digits of a record's key")

    def make(place: Place) -> tuple[Picture, tuple[str, ...]]:
        from bench.pictures_examples import examples

        return examples(place, record, images, datasets), ()

    show(options, make)
