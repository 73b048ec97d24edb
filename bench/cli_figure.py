"""The command `bench figure KIND`: kinds that are found by their modules, options and output that they share.

A kind is a module `bench/figure_KIND.py` with a click command named `command`; it is imported when it is asked for,
and its help must need nothing slow.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import bench
from bench.cli_exam import place_of
from bench.console import print_json, prints_aside, say
from bench.options import (
    Command,
    Group,
    Recipes,
    data_option,
    json_option,
    ledger_option,
    numbers,
    option,
    plugin_option,
    store_option,
)

if TYPE_CHECKING:
    from bench.place import Place
    from bench.records import Picture

PREFIX = "figure_"


class Kinds(Group):
    """The kinds of pictures: a module each."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's own signature
        """Their names, from the files alone."""
        found = [m.name for m in pkgutil.iter_modules(bench.__path__) if m.name.startswith(PREFIX)]
        return sorted([*self.commands, *(name.removeprefix(PREFIX).replace("_", "-") for name in found)])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a kind; None where there is none."""
        if cmd_name in self.commands or cmd_name not in self.list_commands(ctx):
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(f"bench.{PREFIX}{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command; of a misspelt kind the nearest is named."""
        from bench.errors import UsageError, nearest

        kinds = self.list_commands(ctx)
        if args and not args[0].startswith("-") and args[0] not in kinds:
            raise UsageError(f"there is no figure {args[0]!r}{nearest(args[0], kinds)}; there are {', '.join(kinds)}")
        return super().resolve_command(ctx, args)


@click.group(cls=Kinds)
def figure() -> None:
    """Pictures: what models see, computed into the ledger and drawn as SVG.

    The board shows the same pictures: on the page of each model, and in its gallery.
    """


out_option = option(
    "--out", default="results/figures", show_default=True, metavar="DIR", help="where drawings, numbers and arrays go"
)
images_option = option(
    "--images", default="0", show_default=True, metavar="0,5,7", callback=numbers, help="places in the test part"
)


def listed(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[str, ...]:
    """Texts with commas between them."""
    return tuple(text.strip() for text in value.split(",") if text.strip())


def _which(_ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    chosen = listed(_ctx, param, value)
    for name in chosen:
        if not re.fullmatch("best|last|epoch-[0-9]+", name):
            raise click.BadParameter(f"{name!r}: expected best, last, or epoch-N of a snapshot", param=param)
    return chosen


def model_options(command: Any) -> Any:
    """The options that name models, which must be there; nothing is trained."""
    for add in (
        option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1"),
        option("--weights", default="", metavar="best,last", callback=_which,
               help="which of a training's weights; default: best"),
        option("--seeds", default="0", show_default=True, metavar="0,1,2", callback=numbers, help="training seeds"),
        option("--threat", "trained_for", default="", metavar="NORM:EPS,…", callback=listed,
               help="what they were trained for: linf:0.3,l2:1.5 looks for both; default: the data set's own"),
        option("--dataset", default="", help="a name, or npz:FILE; default: that of --model, else digits"),
        option("--net", default="", metavar="RECIPE", help="default: the data set's own"),
        option("--model", "models", multiple=True, metavar="HASH", help="or by the first digits of its weights' hash"),
        option("--defense", "defenses", multiple=True, type=Recipes(), metavar="RECIPE…",
               help="models that bench run has trained"),
    ):  # fmt: skip
        command = add(command)
    return command


def place_options(command: Any) -> Any:
    """The options that say where things lie, and where the drawing goes."""
    for add in (plugin_option, ledger_option, store_option, data_option, out_option, json_option):
        command = add(command)
    return command


def show(options: Mapping[str, Any], make: Callable[[Place], tuple[Picture, tuple[str, ...]]]) -> None:
    """Make a picture, draw it from the ledger, and say where it is.  make: also tells what was left out."""
    from bench.errors import IncompleteError
    from leaderboard.pictures import CannotDraw, draw

    with prints_aside():
        place = place_of(options)
        picture, left_out = make(place)
        try:
            drawings = draw(picture, place.ledger)
        except CannotDraw as error:
            raise IncompleteError(f"the picture is kept, and cannot be drawn: {error}") from error
    written = write(Path(options["out"]), picture, place, {d.name: d.svg for d in drawings})
    for said in left_out:
        say(f"Left out: {said}: it is not here.")
    if options["as_json"]:
        print_json({
            "schema": "rampart/figure-1", "figure": str(written[0]), "files": [str(p) for p in written],
            "left_out": list(left_out), "key": picture.key, "heads": picture.heads, "rows": picture.rows,
        })  # fmt: skip
    say(f"The figure: {written[0].resolve().as_uri()}")


def write(folder: Path, picture: Picture, place: Place, drawings: Mapping[str, str]) -> list[Path]:
    """The drawings, and beside them the document, its numbers as CSV and the arrays as .npz."""
    import csv
    import io

    import numpy as np

    from bench.files import write_atomically
    from bench.records import write_document

    stem = f"{picture.kind}-{re.sub(r'[^A-Za-z0-9.-]+', '-', picture.dataset)}-{picture.key[:8]}"
    table, arrays = io.StringIO(), io.BytesIO()
    csv.writer(table, lineterminator="\n").writerows([picture.heads, *picture.rows])
    np.savez(arrays, **dict(sorted(place.ledger.arrays(picture).items())))  # type: ignore[arg-type]
    files = {f"{stem}{'-' + name if name else ''}.svg": svg.encode() for name, svg in drawings.items()}
    files |= {f"{stem}.csv": table.getvalue().encode(), f"{stem}.npz": arrays.getvalue()}
    files[f"{stem}.json"] = write_document(picture).encode()
    for name, content in files.items():
        write_atomically(folder / name, content)
    return [folder / name for name in files]


@figure.command(cls=Command)
@option("--dataset", default="cifar10", show_default=True, help="a name, or npz:FILE")
@option("--image", type=click.IntRange(min=0), default=0, show_default=True, help="its place in the test part")
@out_option
@data_option
@plugin_option
@json_option
def corruptions(dataset: str, image: int, out: str, data: str, plugin: tuple[str, ...], as_json: bool) -> None:
    """One test image under every corruption at every severity."""
    from bench.files import write_atomically
    from bench.pictures import corruptions as spoil
    from leaderboard.sheet import sheet_svg

    with prints_aside():
        place = place_of({"data": data, "plugin": plugin})
        sheet = spoil(place.registry, place.dataset(place.registry.parse("dataset", dataset)), image)
    path = Path(out) / f"corruptions-{re.sub(r'[^A-Za-z0-9.-]+', '-', sheet.dataset)}-{image}.svg"
    write_atomically(path, sheet_svg(sheet).encode())
    for name, reason in sheet.left_out:
        say(f"Left out: {name}: {reason}.")
    if as_json:
        print_json({"schema": "rampart/figure-1", "figure": str(path), "left_out": dict(sheet.left_out)})
    say(f"The figure: {path.resolve().as_uri()}")
