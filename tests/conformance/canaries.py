"""docs/canaries.md: the checks on models that are broken on purpose, and on honest ones; `make canaries` writes it.

Each is made of a small model, trained here on digits.  What is broken must raise its own doubt, what is honest none.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.canary import Canary
from bench.doubts import REASONS, distrusts
from bench.errors import RampartError
from bench.evaluate import Subject, images, judge
from bench.honesty import answers, check_model, drifted
from bench.obtain import obtain
from bench.origin import about
from bench.place import THREADS, Place
from bench.request import Request, resolve
from bench.threat import ThreatModel
from bench.victim import be_exact, freeze
from tests.conformance.false_alarms import OUT as ALARMS
from tests.conformance.false_alarms import table

if TYPE_CHECKING:
    from torch import nn

    from bench.exam import Dataset

DATASET, THREAT = "digits", "linf:0.2"
ATTACK = "pgd(steps=100, step=0.125)"  # what says how robust they look
JUDGES = ("apgd-ce", "apgd-t", "square(queries=1000)")  # of the models that they are made of
N = 50  # test images behind the accuracies
NEAR = 0.02 + 1e-6  # how far a number may be from the truth after the probes
OUT = Path(__file__).parents[2] / "leaderboard" / "canaries.json"

TOP = """# Canaries: does the bench notice a broken defense?

Made by `make canaries`. Each line is a model that was trained on digits and then broken in one way that has made
defenses look robust, or an honest one. Before any attack the bench looks at every model (a second on such nets); a
broken one must raise the doubt that is named, and an honest one must raise none. The build fails if one is missed.

"""


@dataclass(frozen=True)
class Seen:
    """What the bench says of a canary."""

    name: str
    summary: str
    expected: str
    found: tuple[str, ...]
    said: float  # accuracy under PGD-100
    most: float  # the same after also trying the images by which the model that it is made of fell: an upper bound
    clean: float
    probed: float | None  # the same as `said` after the attacks that the doubts call for; None where none can help
    stands: float | None  # of `probed`, what is left after also trying the images of `most`: the truth is no higher
    forwards: int
    backwards: int

    @property
    def right(self) -> bool:
        """Caught by its own doubt; of an honest one, doubted by none."""
        return self.expected in self.found if self.expected else not self.found

    @property
    def near(self) -> bool:
        """Whether the number after the probes is within two points of the truth, or is not trusted.

        Of an honest model no attack is asked beyond PGD: the suites have others.
        """
        return not self.expected or self.probed is None or self.stands is None or self.probed - self.stands <= NEAR


def canaries(place: Place) -> list[Canary]:
    """All canaries of all plugins."""
    return [thing for thing in place.registry.all("canary") if isinstance(thing, Canary)]


def look(place: Place, chosen: Iterable[Canary] = (), n: int = N, *, probe: bool = False) -> Iterator[Seen]:
    """Break the models and look at each; probe: also by the attacks that their doubts call for, which takes minutes."""
    made: dict[tuple[str, str], tuple[nn.Module, torch.Tensor]] = {}
    dataset = place.dataset(place.registry.parse("dataset", DATASET))
    for canary in chosen or canaries(place):
        key = (canary.defense, canary.net)
        if key not in made:
            module = trained(place, *key)
            made[key] = (module, _fallen(place, module, dataset, n))
        yield _look(place, canary, *made[key], dataset, n, probe=probe)


def trained(place: Place, defense: str, net: str) -> nn.Module:
    """A model that was trained on digits, from the store where it is there."""
    exam = resolve(Request((defense,), net=net, dataset=DATASET, threat=THREAT, columns=("clean",)), place)
    (lesson,) = exam.lessons
    record, _ = obtain(place, lesson, report=lambda _line: None)
    be_exact(THREADS)
    return place.fresh(record.net, record.weights["best"], exam.dataset.shape).module


def _fallen(place: Place, module: nn.Module, dataset: Dataset, n: int) -> torch.Tensor:
    """The images by which a model fell to strong attacks, and the test images where none did: (n, C, H, W)."""
    threat, asked = ThreatModel.parse(THREAT), torch.arange(min(n, len(dataset.test)))
    subject = Subject(module, _tile(n))
    found = images(dataset.test, asked, place.device)[0].cpu()
    for text in JUDGES:
        attack = place.registry.parse("attack", text)
        verdict = judge(subject, attack, threat, dataset.test, asked, seed=0, batch=place.batch, device=place.device)
        found[verdict.asked[verdict.fell]] = verdict.adversarial
        asked = verdict.asked[~verdict.fell]
        if not len(asked):
            break
    return found


def broken(place: Place, canary: Canary, module: nn.Module, dataset: Dataset, tile: int = 64) -> Subject:
    """A canary as the bench attacks it."""
    return Subject(freeze(canary.make(copy.deepcopy(module), dataset.test), place.device), tile, canary.random)


def _tile(n: int) -> int:
    """Images a pass: all of them, or as many as are not too many."""
    return min(128, -(-n // 32) * 32)


def _look(
    place: Place, canary: Canary, module: nn.Module, fallen: torch.Tensor, dataset: Dataset, n: int, *, probe: bool
) -> Seen:  # fmt: skip
    asked = torch.arange(min(n, len(dataset.test)))
    torch.manual_seed(0)
    checked = check_model(broken(place, canary, module, dataset), dataset.test, place.device)
    subject = broken(place, canary, module, dataset, _tile(n))
    x, y = images(dataset.test, asked, place.device)
    before = answers(subject, x)
    clean = before.argmax(1).eq(y).cpu()
    attack = place.registry.parse("attack", ATTACK)
    verdict = judge(
        subject, attack, ThreatModel.parse(THREAT), dataset.test, asked, seed=0, batch=place.batch, device=place.device
    )
    codes = checked.codes
    if not canary.random and "fickle" not in codes and drifted(subject, x, before):
        codes += ("drifts",)
    stands = clean & ~verdict.fell
    wanted = {REASONS[code].probe for code in codes} - {""}
    probed = None if any(map(distrusts, codes)) else stands.clone()
    if probed is not None and probe:
        subject = broken(place, canary, module, dataset, _tile(n))
        for name in sorted(wanted):
            probed[_felled(place, subject, place.registry.column(name).attacks, dataset, asked[probed])] = False
    transferred = (
        answers(broken(place, canary, module, dataset, _tile(n)), fallen.to(place.device)).argmax(1).eq(y).cpu()
    )
    return Seen(
        canary.name, canary.summary, canary.caught_by, codes, _share(stands), _share(stands & transferred),
        _share(clean), None if probed is None else _share(probed),
        None if probed is None else _share(probed & transferred), checked.forwards, checked.backwards,
    )  # fmt: skip


def _felled(place: Place, subject: Subject, attacks: Iterable[str], dataset: Dataset, asked: torch.Tensor) -> list[int]:
    """Which of these images fell to any of these attacks."""
    threat, felled = ThreatModel.parse(THREAT), []
    for text in attacks:
        if not len(asked):
            break
        attack = place.registry.parse("attack", text)
        verdict = judge(subject, attack, threat, dataset.test, asked, seed=0, batch=place.batch, device=place.device)
        felled += verdict.asked[verdict.fell].tolist()
        asked = verdict.asked[~verdict.fell]
    return felled


def _share(which: torch.Tensor) -> float:
    return float(which.float().mean())


def page(seen: Sequence[Seen]) -> str:
    """The page."""
    broken, honest = [s for s in seen if s.expected], [s for s in seen if not s.expected]
    caught, false = sum(s.right for s in broken), sum(not s.right for s in honest)
    lies = max((s.said - s.most for s in broken), default=0.0)
    head = (
        f"**{caught} of {len(broken)} broken models are caught by the doubt that should; {false} of {len(honest)} "
        f"honest ones raise any.** The checks take at most {max(s.forwards for s in seen):,} forwards and "
        f"{max(s.backwards for s in seen):,} backwards of one image. Without them a number overstates by up to "
        f"{100 * lies:.0f} points; after `--escalate` {sum(s.near for s in broken)} of {len(broken)} are within 2 "
        "points of the truth, or not trusted and not ranked.\n\n"
    )
    columns = (
        f'Accuracies in percent, at {THREAT} on the first {N} test images. "PGD-100 says" is what the board would have '
        'without the checks. "At most" is the same after also trying the images by which the model that it is made of '
        'fell to APGD and Square: the difference is what the number overstates at least. "Probes say" is the same '
        'after `--escalate`, which asks the attacks that the doubts call for, and "truth" what is left of that after '
        "trying those images too: it is no higher. Where a doubt is about something that no attack can mend, the row "
        "is not trusted.\n\n"
        "| model | what is wrong | clean | PGD-100 says | at most | probes say | truth | must raise | raises |\n"
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- | --- |\n"
    )
    rows = [
        f"| {s.name} | {s.summary} | {100 * s.clean:.0f} | {100 * s.said:.0f} | {100 * s.most:.0f} | {_probed(s)} "
        f"| {s.expected or 'nothing: it is honest'} | {', '.join(s.found) or 'nothing'} |\n"
        for s in [*broken, *honest]
    ]
    return TOP + head + columns + "".join(rows)


def _probed(s: Seen) -> str:
    """The two columns about what came after the probes."""
    if s.probed is None or s.stands is None:
        return "not trusted |"
    return f"{100 * s.probed:.0f} | {100 * s.stands:.0f}" if s.found else "|"


def document(seen: Sequence[Seen]) -> dict[str, Any]:
    """The same as plain values."""
    origin = about(torch.device("cpu"), 0)
    return {
        "schema": "rampart/canaries-1", "canaries": [{**asdict(s), "right": s.right, "near": s.near} for s in seen],
        "machine": origin["machine"].name, "versions": origin["versions"], "made": origin["made"],
    }  # fmt: skip


def main() -> int:
    """Write the page to standard output and the values beside the board; 1 where a canary is missed, or still lies."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder, "ledger"), Path(folder, "store"), Path(folder, "data"))
        seen = list(look(place, probe=True))
    alarms = table(json.loads(ALARMS.read_text())) if ALARMS.is_file() else ""
    sys.stdout.write(page(seen) + alarms)
    wrong = [s for s in seen if not s.right]
    for s in wrong:
        sys.stderr.write(f"{s.name}: must raise {s.expected or 'nothing'}, raised {', '.join(s.found) or 'nothing'}\n")
    lies = [s for s in seen if not s.near]
    for s in lies:
        sys.stderr.write(
            f"{s.name}: {100 * (s.probed or 0):.0f} % after the probes, {100 * (s.stands or 0):.0f} % at most\n"
        )
    sys.stderr.write(
        f"{len(seen) - len(wrong)} of {len(seen)} as they must be, {time.perf_counter() - started:.0f} s\n"
    )
    if not wrong and not lies:
        OUT.write_text(json.dumps(document(seen), indent=1) + "\n")
    return bool(wrong or lies)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RampartError as error:
        sys.exit(f"canaries: {error}")
