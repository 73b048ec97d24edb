"""bench figure tradeoff."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from bench.cli_figure import place_options, show
from bench.console import print_json, prints_aside, say
from bench.options import Command, executor_options, numbers, option

if TYPE_CHECKING:
    from bench.exam import Study
    from bench.place import Place
    from bench.records import Picture
    from bench.study import Sitting

NAMED = 12  # missing points that are named


@click.command("tradeoff", cls=Command)
@click.option("--preset", default="mnist", show_default=True, metavar="NAME", help="bench list studies names them")
@click.option("--run", "start", is_flag=True, help="train and attack what is missing; killed, it continues")
@click.option("--plan", "planned", is_flag=True, help="say what is missing and what it costs; nothing is drawn")
@click.option("--sizes", default="", metavar="0,500", callback=numbers,
              help="only with so many training images, 0 for all; default: each of the study's")  # fmt: skip
@click.option("--dataset", default="", metavar="RECIPE", help="in place of the study's: npz:FILE")
@click.option("--net", default="", metavar="RECIPE", help="in place of the study's")
@option("--seeds", default="0", show_default=True, metavar="0,1,2", callback=numbers, help="training seeds")
@option("-n", "--n", type=click.IntRange(min=1), help="the first N test images; default: the study's")
@option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1")
@option("--batch", type=click.IntRange(min=1), help="images an attack holds at once; changes no verdict")
@executor_options
@place_options
def command(
    preset: str, start: bool, planned: bool, sizes: tuple[int, ...], dataset: str, net: str, seeds: tuple[int, ...],
    n: int | None, **options: Any,
) -> None:  # fmt: skip
    """Accuracy over the eps of training and of examination, and over training images.

    \b
    bench figure tradeoff --preset mnist --plan           what is missing, and what it costs
    bench figure tradeoff --preset mnist --run            do it and draw it; an hour on two cores
    bench figure tradeoff --preset mnist --sizes 0        draw a part of it from what the ledger has

    Each point is an ordinary training and an ordinary record. What is missing is named, and the rest is drawn.
    """  # noqa: D301
    from bench.cli_exam import place_of

    failed: list[Exception] = []
    missing: list[str] = []
    if planned or start:
        from bench.study import sittings

        with prints_aside():
            place = place_of(options)
            study = _study(place, preset, dataset, net)
            sat = sittings(study, place, sizes, seeds, n or 0)
            if planned:
                plan = _plan(place, sat)
            else:
                failed += _run(place, sat, options)
        if planned:
            _say_plan(preset, plan, as_json=options["as_json"])
            return

    def make(place: Place) -> tuple[Picture, tuple[str, ...]]:
        from bench.pictures_tradeoff import tradeoff
        from bench.study import sittings

        study = _study(place, preset, dataset, net)
        found, lacking = tradeoff(study, sittings(study, place, sizes, seeds, n or 0), place)
        missing.extend(lacking)
        return found, lacking[:NAMED]

    show(options, make)
    for failure in failed:
        say(f"bench: error: {failure}")
    if failed:
        sys.exit(getattr(failed[0], "exit_code", 1))
    if missing:
        say(f"{len(missing)} points are missing; --plan says what they cost, and --run makes them.")


def _study(place: Place, preset: str, dataset: str, net: str) -> Study:
    """The study of that name, on another data set or of another net if one is named."""
    from dataclasses import replace

    study = place.registry.study(preset)
    return replace(study, dataset=dataset or study.dataset, net=net or study.net)


def _run(place: Place, sat: Sequence[Sitting], options: Mapping[str, Any]) -> list[Exception]:
    """Do what is missing: all trainings, side by side where nets are small, then exam by exam; what failed."""
    from contextlib import closing

    from bench.cli_exam import executor_of
    from bench.report import reporter
    from bench.run import Summary, run, train
    from bench.study import together

    failed: list[Exception] = []
    with reporter() as report:
        for exam in together(sat):
            with closing(executor_of(options, exam, place)) as executor:
                train(exam, place, executor, Summary(), report.line)
        for sitting in sat:
            exam = sitting.exam
            summary = run(exam, place, executor_of(options, exam, place), report=report.line)
            failed += [f for f in summary.failures if str(f) not in map(str, failed)]
    return failed


def _plan(place: Place, sat: Sequence[Sitting]) -> dict[str, Any]:
    """What is missing and what it takes; writes nothing."""
    from bench.plan import measure, plan
    from bench.study import points

    speeds: dict[str, Any] = {}
    trainings: dict[str, float] = {}
    attacks, images = 0.0, 0
    for sitting in sat:
        exam = sitting.exam
        if not speeds.keys() >= exam.nets.keys():
            speeds |= measure(exam, place)
        lines = plan(exam, place, speeds)
        training = [line for line in lines if line.what.startswith("train ")]
        for lesson, line in zip(exam.lessons, training, strict=True):
            if line.missing:
                trainings[lesson.training.key] = line.seconds
        rest = [line for line in lines if not line.what.startswith("train ")]
        attacks, images = attacks + sum(x.seconds for x in rest), images + sum(x.missing for x in rest)
    every = [point for sitting in sat for point in points(sitting, place)]
    return {
        "points": len(every), "missing": sum(p.robust is None for p in every), "trainings": len(trainings),
        "training_seconds": round(sum(trainings.values()), 3), "images": images, "attack_seconds": round(attacks, 3),
    }  # fmt: skip


def _say_plan(preset: str, plan: dict[str, Any], *, as_json: bool) -> None:
    from bench.report import duration

    if as_json:
        print_json({"schema": "rampart/figure-plan-1", "study": preset, **plan})
    say(f"The study {preset} has {plan['points']} points; {plan['missing']} are missing.")
    say(
        f"{plan['trainings']} trainings: up to {duration(plan['training_seconds'])}, and {plan['images']:,} images to "
        f"ask: up to {duration(plan['attack_seconds'])}, on one worker of this machine."
    )
    say("Nothing was started; --run starts it.")
