"""The options of the command line: several values, variables of the environment, bench.toml."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from bench.errors import UsageError, nearest

MANY = ("--defense", "--plugin", "--attack", "--model")  # options that take several values: --defense at trades


def _with_lines(text: str | None) -> str | None:
    """A raw docstring's marks for lines that are kept, as click reads them."""
    return text and text.replace("\\b\n", "\b\n")


class Group(click.Group):
    """Several commands."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.help = _with_lines(self.help)


class Command(click.Command):
    """A command whose options may take several values, whose defaults come from bench.toml and BENCH_* too."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.help = _with_lines(self.help)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write `--defense at trades` as click reads it, and take defaults from ./bench.toml."""
        ctx.default_map = {**_config(ctx), **(ctx.default_map or {})}
        return super().parse_args(ctx, _spread(args))


def _spread(args: Sequence[str]) -> list[str]:
    """`--defense at trades` to `--defense at --defense trades`."""
    spread: list[str] = []
    option = ""
    for arg in args:
        if arg.startswith("-"):
            option, equals, value = arg.partition("=")
            if option not in MANY:
                option = ""
                spread.append(arg)
            elif equals:
                spread += [option, value]
        elif option:
            spread += [option, arg]
        else:
            spread.append(arg)
    return spread


def _config(ctx: click.Context) -> dict[str, Any]:
    """The defaults that ./bench.toml sets; an unknown key is an error that names the nearest."""
    path = Path("bench.toml")
    if not path.exists():
        return {}
    try:
        found = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{path.resolve()}: {error}") from None
    group = ctx.find_root().command
    commands = [group.commands[name] for name in ("gate", "run")] if isinstance(group, click.Group) else [ctx.command]
    known = {opt.lstrip("-"): p for command in commands for p in command.params for opt in p.opts}
    defaults: dict[str, Any] = {}
    for key, value in found.items():
        option = known.get(key.replace("_", "-"))
        if option is None or option.name is None:
            raise UsageError(f"{path.resolve()}: there is no option {key!r}{nearest(key, known)}")
        table = dict if isinstance(option.type, Number) else dict | float
        if isinstance(value, table) or isinstance(value, bool) is not getattr(option, "is_flag", False):
            raise UsageError(f"{path.resolve()}: {key} = {value!r}; expected what --{key} takes on the command line")
        several = [str(v) for v in value] if isinstance(value, list) else [str(value)]
        if isinstance(value, bool):
            defaults[option.name] = value
        else:
            defaults[option.name] = several if getattr(option, "multiple", False) else ",".join(several)
    return defaults


class Recipes(click.ParamType[str]):
    """Recipes; in a variable of the environment they are separated by commas."""

    name = "recipe"

    def split_envvar_value(self, rv: str) -> list[str]:
        """Commas inside brackets or quotes do not split."""
        from bench.registry import split_list

        return split_list(rv)


class Files(click.ParamType[str]):
    """Files; in a variable of the environment they are separated as in PATH."""

    name = "file"

    def split_envvar_value(self, rv: str) -> list[str]:
        """A path may hold spaces."""
        return rv.split(os.pathsep)


class Choice(click.Choice[str]):
    """One of a few words; an error names the nearest, or all of them."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:  # noqa: ARG002  click's words
        """What was given, and what is nearest."""
        return f"{value!r} is not known{nearest(str(value), map(str, self.choices))}"


class Number(click.ParamType[float]):
    """A number between two ends, which belong to it or not."""

    name = "number"

    def __init__(self, low: float, high: float, *, ends: bool = False) -> None:
        self.low, self.high, self.ends = low, high, ends

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; `nan` is none."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not self._holds(number):
            ends = ", which are allowed too" if self.ends else ""
            self.fail(f"expected a number between {self.low:g} and {self.high:g}{ends}, not {value!r}", param, ctx)
        return number

    def _holds(self, number: float) -> bool:
        return self.low < number < self.high or (self.ends and number in {self.low, self.high})


def option(*names: str, **settings: Any) -> Callable[[Any], Any]:
    """An option whose default may come from BENCH_NAME."""
    long = max(names, key=len)
    return click.option(*names, envvar=f"BENCH_{long.removeprefix('--').replace('-', '_').upper()}", **settings)


def numbers(_ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """Whole numbers with commas between them; none where an option's default is none."""
    if not value and not param.default:
        return ()
    try:
        found = tuple(int(v) for v in value.split(","))
        if all(0 <= n < 2**31 for n in found):
            return found
        raise ValueError
    except ValueError:
        expected = "whole numbers from 0 to 2147483647 with commas (0,1,2)"
        raise click.BadParameter(f"expected {expected}, not {value!r}", param=param) from None


def _words(_ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    if not all(value.strip() for value in values):
        raise click.BadParameter("expected some words of a doubt; --no-doubts forbids them all", param=param)
    return values


def _weights(_ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    chosen = tuple(w for w in value.split(",") if w)
    for name in chosen:
        if name not in ("best", "last"):
            raise click.BadParameter(f"{name!r}: expected best, last or best,last", param=param)
    return chosen


plugin_option = option("--plugin", multiple=True, type=Files(), metavar="FILE…", help="Python files with plugins")
ledger_option = option("--ledger", default="results/ledger", show_default=True, metavar="DIR", help="where records lie")
store_option = option(
    "--store", default="results/store", show_default=True, metavar="DIR", help="where weights and bundles lie"
)
data_option = option("--data", default="datasets", show_default=True, metavar="DIR", help="where data sets lie")
site_option = option("--site", default="results/site", show_default=True, metavar="DIR", help="where the board goes")
json_option = click.option("--json", "as_json", is_flag=True, help="one JSON document on standard output")


def places(command: Any) -> Any:
    """The options that say where things lie."""
    for add in (plugin_option, ledger_option, store_option, data_option, site_option, json_option):
        command = add(command)
    return command


def gate_options(command: Any) -> Any:
    """The options of gate."""
    for add in (
        option("--github", is_flag=True,
               help="in a job of GitHub's: annotations on standard output, the page to $GITHUB_STEP_SUMMARY"),
        option("--markdown", default="", metavar="FILE", help="write a page of Markdown"),
        option("--junit", default="", metavar="FILE", help="write JUnit XML, a case a comparison"),
        option("--no-doubts", is_flag=True, help="a doubt about a number that is compared fails too"),
        option("--forbid-doubt", "forbidden", multiple=True, type=Recipes(), metavar="WORDS", callback=_words,
               help="a doubt that holds these words fails too; may be given several times"),
        option("--max-cost-rise", type=Number(0.0, 1e6, ends=True), metavar="PERCENT",
               help="how much more training passes, or multiply-adds of a forward, may become; default: any"),
        option("--sequential", is_flag=True,
               help="valid at every look at a ledger that grows: regressed, no worse, or go on"),
        option("--strict", is_flag=True, help="what is inconclusive or missing fails too, with exit code 4"),
        option("--alpha", type=Number(0.0, 1.0), default=0.05, show_default=True,
               help="how often a false alarm is accepted, over all comparisons"),
        option("--max-drop", type=Number(0.0, 100.0, ends=True), default=0.0, show_default=True, metavar="POINTS",
               help="points of accuracy that may be lost"),
        option("--record", default="", metavar="FILE", help="write this ledger's baseline, and compare nothing"),
        option("--baseline", default="", metavar="X",
               help="a ledger, what --record wrote, git:REF:PATH of either, or https://… of the second"),
    ):  # fmt: skip
        command = add(command)
    return command


def replay_options(command: Any) -> Any:
    """The options of gate --replay."""
    for add in (
        option("--device", default="auto", show_default=True, help="of --replay: cpu, cuda, cuda:1"),
        option("--dataset", "datasets", multiple=True, type=Recipes(), metavar="RECIPE",
               help="of --replay: the images, where the baseline's own name does not find them; several times"),
        plugin_option, data_option, store_option,
        option("--then-attack", is_flag=True, help="of --replay: attack what it leaves standing, and nothing else"),
        option("--replay", is_flag=True,
               help="throw the baseline's adversarial images at new weights first: a bound in seconds"),
    ):  # fmt: skip
        command = add(command)
    return command


def sandbox_options(command: Any) -> Any:
    """The options that keep foreign code apart."""
    for add in (
        option("--sandbox-seconds", type=Number(0.0, 1e6), default=300.0, show_default=True, metavar="S",
               help="of a pass in the sandbox; a training may be silent a hundred times as long"),
        option("--sandbox-memory", type=Number(0.0, 1e6), default=4.0, show_default=True, metavar="GIB",
               help="that code in the sandbox may take, beside torch's own"),
        option("--sandbox", is_flag=False, flag_value="bubblewrap", default="", metavar="[bubblewrap|limits]",
               help="--plugin files are not imported here: their nets and defenses run in a child process without "
                    "labels, network, files or other processes; bubblewrap where nothing else is said. limits: as "
                    "much of it as goes without bubblewrap, files not among it (docs/sandbox.md)"),
    ):  # fmt: skip
        command = add(command)
    return command


def executor_options(command: Any) -> Any:
    """Where work is done, and for how long."""
    for add in (
        option("--task-limit", type=Number(0.0, 1e9), metavar="SECONDS",
               help="stop a training or a range of images that takes longer; default: an hour, or 20 times its passes"),
        option("--workers", type=click.IntRange(min=1),
               help="how many at once; default: a process a card, or one a core; 32 jobs of slurm"),
        option("--ray", default="", metavar="SETTINGS", help='of ray: an address, or "address=…,gpus=0.5,cpus=2"'),
        option("--slurm", default="", metavar="SETTINGS", help='of slurm: "partition=gpu,gpus=1,account=x"'),
        option("--executor", type=Choice(["auto", "inline", "process", "slurm", "ray"]), default="auto",
               show_default=True, help="where cells run; auto: inline, or processes where there is much to do"),
    ):  # fmt: skip
        command = add(command)
    return command


def exam_options(command: Any) -> Any:
    """The options of run and plan."""
    command = executor_options(command)
    for add in (
        sandbox_options,
        option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1"),
        option("--batch", type=click.IntRange(min=1),
                help="images an attack holds at once; default: found, halved when memory runs out; changes no verdict"),
        option("--precision", type=Choice(["exact", "fast"]), default="exact", show_default=True,
                help="of the search; fast: in bfloat16 where the machine has it; the verdict is always float32's"),
        option("--attack-seed", type=int, default=0, show_default=True, help="seed of the attacks' draws"),
        option("--weights", default="", metavar="best,last", callback=_weights,
                help="which are examined; default: best"),
        option("-n", "--n", type=click.IntRange(min=1), help="the first N test images; default: all"),
        option("--columns", default="", metavar="LIST", help='an ad-hoc suite: "clean, pgd(steps=50)"'),
        option("--conditions", default="", metavar="LIST",
                help='in place of the suite\'s: "clean, fog:3"; fog is all its severities'),
        option("--suite", default="quick", show_default=True, help="the exam"),
        option("--seeds", default="0", show_default=True, metavar="0,1,2", callback=numbers, help="training seeds"),
        option("--threat", default="", metavar="NORM:EPS", help="linf:8/255; default: the data set's own"),
        option("--dataset", default="digits", show_default=True, help="a name, or npz:FILE"),
        option("--tensorboard", default="", metavar="DIR", help="follow trainings there (needs tensorboard)"),
        option("--net", default="", metavar="RECIPE", help="default: the data set's own"),
        option("--defense", "defenses", multiple=True, required=True, type=Recipes(), metavar="RECIPE…",
                help='part-trades, "trades(beta=3.0)", "checkpoint(path=\'w.pth\')"'),
    ):  # fmt: skip
        command = add(command)
    return command
