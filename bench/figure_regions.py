"""bench figure regions."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from bench.cli_figure import place_options, show
from bench.console import say
from bench.options import Command, Number, executor_options, numbers, option

if TYPE_CHECKING:
    from bench.place import Place
    from bench.records import Picture


@click.command("regions", cls=Command)
@click.option("--run", "start", is_flag=True, help="train and attack what is missing; killed, it continues")
@click.option("--preset", default="quarters", show_default=True, metavar="NAME", help="which regions")
@option("--low", type=Number(0.0, 1.0, ends=True), default=0.75, show_default=True,
        help="the budget of training on the region, as a share of eps")  # fmt: skip
@click.option("--settings", default="", metavar="LIST", help="of every training: epochs=5, drops=(4,)")
@option("--column", default="pgd-20", show_default=True, help="by which robustness is told")
@option("--threat", default="", metavar="NORM:EPS", help="default: the data set's own")
@option("--dataset", default="digits", show_default=True, help="a name, or npz:FILE")
@option("--net", default="", metavar="RECIPE", help="default: the data set's own")
@option("--seeds", default="0", show_default=True, metavar="0,1,2", callback=numbers, help="training seeds")
@option("-n", "--n", type=click.IntRange(min=1), help="the first N test images; default: all")
@option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1")
@executor_options
@place_options
def command(start: bool, preset: str, low: float, settings: str, **options: Any) -> None:
    """Accuracy and robustness when training has a smaller budget on one region of the image at a time.

    PART's first experiment: pixels differ in what they cost and give. Each region is an ordinary training, examined
    with the whole budget everywhere.
    """
    failed: list[Exception] = []

    def make(place: Place) -> tuple[Picture, tuple[str, ...]]:
        from bench.cli_exam import executor_of
        from bench.pictures_regions import regions, sitting
        from bench.report import reporter
        from bench.run import run

        found = place.registry.regions(preset)
        sat = sitting(found, place, low, settings, options)
        if start:
            with reporter() as report:
                summary = run(
                    sat.exam, place, executor_of(options, sat.exam, place), report=report.line
                )  # fmt: skip
            failed.extend(summary.failures)
        return regions(found, sat, place, low, settings, options["column"])

    show(options, make)
    for failure in failed:
        say(f"bench: error: {failure}")
    if failed:
        sys.exit(getattr(failed[0], "exit_code", 1))
