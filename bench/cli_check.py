"""bench check: the conformance test of a plugin, for its author."""

from __future__ import annotations

import sys

import click

from bench.cli_exam import place_of
from bench.console import print_json, prints_aside, say
from bench.options import (
    Command,
    data_option,
    json_option,
    ledger_option,
    option,
    plugin_option,
    store_option,
)


@click.command("check", cls=Command)
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@option("--dataset", default="digits", show_default=True, help="what a defense is tried on: a name, or npz:FILE")
@option("--net", default="", metavar="RECIPE", help="of a defense; default: the data set's own")
@option("--thorough", is_flag=True, help="attack weights, too: do attacks converge, does luck find more?")
@option("--threat", default="", metavar="NORM:EPS", help="of --thorough; default: the data set's own")
@ledger_option
@store_option
@data_option
@plugin_option
@json_option
def check(
    names: tuple[str, ...], dataset: str, net: str, thorough: bool, threat: str, ledger: str, store: str, data: str,
    plugin: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    r"""The conformance test of attacks, defenses, nets, corruptions, data sets and weights, for their author.

    \b
    bench check momentum --plugin momentum.py        does it keep what the bench promises of verdicts?
    bench check attack:fgsm net:cnn 3f9a2c1          of one kind; and the weights whose hash begins so
    bench check 3f9a2c1 --thorough                   what --escalate asks first, and the attacks' own convergence
    The exit code is 1 where something is wrong, and 4 where nothing could be checked.
    """
    from bench.faults import Findings

    found: list[Findings] = []
    with prints_aside():
        from bench.check_plugins import check as look

        place = place_of({"ledger": ledger, "store": store, "data": data, "plugin": plugin})
        for name in names:
            found += look(name, place, dataset, net, thorough=thorough, threat=threat)
    wrong = sum(len(f.faults) for f in found)
    code = 1 if wrong else 0 if any(f.passed for f in found) else 4
    if as_json:
        print_json({"schema": "rampart/check-plugins-1", "exit_code": code, "found": [f.document() for f in found]})
    for one in found:
        for line in one.lines():
            say(line)
    things = "1 thing is" if wrong == 1 else f"{wrong} things are"
    say(f"{things} wrong." if wrong else "Nothing is wrong." if code == 0 else "Nothing could be checked.")
    if code:
        sys.exit(code)
