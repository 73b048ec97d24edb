"""Certificates: proven images are asked of no attack in a ball, and every number stays what it was."""

import json
import shutil
from dataclasses import replace

import pytest
from pydantic import ValidationError

from bench.certify import Certify, certify, said, standing
from bench.executors import Inline
from bench.ledger import Ledger
from bench.plan import plan
from bench.records import CertificateRecord, Record
from bench.request import Request, resolve
from bench.run import run
from bench.standing import Standings
from leaderboard.table import table

ASK = Request(
    ("quick",), net="tiny", threat="linf:0.02", columns=("clean", "pgd(steps=5)", "fmn(steps=10)", "mma(steps=3)"), n=80
)


def nothing(_line):
    """Nobody listens."""


def certificates(place):
    return [d for d in place.ledger.all() if isinstance(d, CertificateRecord)]


def asked(place, name):
    return {i for r in place.ledger.all() if isinstance(r, Record) and r.attack.startswith(name) for i in r.asked}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same exam of the same weights, without certificates and with them."""
    from bench.place import Place
    from tests.conftest import TINY

    places = []
    for name in ("plain", "proven"):
        root = tmp_path_factory.mktemp(name)
        place = Place(root / "ledger", root / "store", root / "datasets", (str(TINY),))
        run(resolve(ASK, place), place, Inline(), report=nothing, certificates=name == "proven")
        places.append(place)
    return places


def test_certified_images_are_not_asked_and_every_number_is_the_same(both):
    """On the board, for the gate, and by image; only attacks in a ball are spared."""
    plain, proven = both
    (certificate,) = certificates(proven)
    held = set(certificate.certified)
    assert 10 < len(held) < 80 and not certificates(plain)
    assert asked(plain, "pgd@") >= held and not asked(proven, "pgd@") & held and not asked(proven, "mma@") & held
    assert asked(proven, "pgd@") == asked(plain, "pgd@") - held
    assert asked(proven, "fmn@") == asked(plain, "fmn@") >= held  # its distances are still to be known
    rows = []
    for place in both:
        ((row,),) = (section.rows for section in table(place.ledger).sections)
        rows.append({name: (x.standing, x.n, x.bound, x.partial) for name, x in row.numbers.items()})
        rows.append((row.summary.standing, row.summary.n, row.summary.bound))
    assert rows[0] == rows[2] and rows[1] == rows[3]
    assert row.summary.certified == len(held) <= row.summary.standing
    one, two = (Standings.of(place.ledger).every for place in both)
    assert [(s.column, s.n, s.fell) for s in one] == [(s.column, s.n, s.fell) for s in two] and one


def test_a_second_run_and_a_plan_have_nothing_to_do(both):
    _, place = both
    exam = resolve(ASK, place)
    before = set(place.ledger.root.rglob("*.json"))
    assert run(exam, place, Inline(), report=nothing, certificates=True).asked == 0
    assert run(exam, place, Inline(), report=nothing).asked == 0  # what is proven needs no second word
    assert set(place.ledger.root.rglob("*.json")) == before
    assert all(line.missing == 0 for line in plan(exam, place))


def test_more_images_are_certified_later_and_another_threat_by_itself(both, tmp_path):
    _, place = both
    place = replace(place, ledger_root=tmp_path / "ledger")
    shutil.copytree(both[1].ledger_root, place.ledger_root)
    run(resolve(replace(ASK, n=100), place), place, Inline(), report=nothing, certificates=True)
    first, second = sorted(certificates(place), key=lambda c: c.asked)
    assert (first.asked, second.asked) == (list(range(80)), list(range(80, 100))) and first.key == second.key
    run(resolve(replace(ASK, threat="linf:0.03"), place), place, Inline(), report=nothing, certificates=True)
    (other,) = [c for c in certificates(place) if c.threat == "linf:0.03"]
    assert set(other.certified) < set(first.certified)


def test_no_attack_fells_a_certified_image(both):
    """Every attack of the full exam that goes by the model's scores or gradients, asked in spite of the proof."""
    plain, proven = both
    (certificate,) = certificates(proven)
    columns = ("clean", "pgd-20", "cw", "aa", "mm3", "md", "nes(queries=100)")
    run(resolve(replace(ASK, columns=columns), plain), plain, Inline(), report=nothing)
    fell = {i for r in plain.ledger.all() if isinstance(r, Record) and r.threat == "linf:0.02" for i in r.fell}
    assert fell and not fell & set(certificate.certified)


@pytest.mark.parametrize(
    ("net", "why"), [("forgetful", "doubts that the model is one function: mixes"), ("he(net='cnn')", "normalize")]
)
def test_a_model_without_a_bound_is_named_and_attacked_as_ever(place, net, why):
    lines = []
    exam = resolve(replace(ASK, net=net, columns=("clean", "fgsm"), n=20), place)
    run(exam, place, Inline(), report=lines.append, certificates=True)
    (certificate,) = certificates(place)
    assert certificate.certified == [] and why in certificate.without
    assert any(certificate.without in line for line in lines)
    run(exam, place, Inline(), report=nothing, certificates=True)
    assert len(certificates(place)) == 1  # nor is it tried again
    assert asked(place, "fgsm@")


def test_a_certificate_counts_for_its_own_cell_alone(both):
    """Not under another threat, of other weights, of a minimum-norm attack, nor of clean images."""
    _, place = both
    exam = resolve(ASK, place)
    (certificate,) = certificates(place)
    facts = (certificate.net, certificate.weights)
    cells = {name: exam.cells(*facts, name, "clean")[0] for name in exam.columns}
    held = {name: standing(place.ledger, cell, 80) for name, cell in cells.items()}
    in_ball = [name for name in held if name.startswith(("pgd", "mma"))]
    assert [name for name in held if held[name]] == in_ball and len(in_ball) == 2
    one = cells[in_ball[0]]
    for change in ({"threat": "linf:0.01"}, {"weights": "0" * 64}, {"condition": "fog@1():1"}, {"test": "0" * 64}):
        assert standing(place.ledger, replace(one, **change), 80) == set()
    assert standing(place.ledger, one, 5) == {i for i in certificate.certified if i < 5}


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "0" * 64}, {"threat": "linf:0.5"}, {"certified": [999]}, {"asked": []}, {"asked": [0, 0]},
        {"without": "no bound"}, {"version": 99}, {"certified": "all"},
    ],
)  # fmt: skip
def test_a_certificate_that_was_changed_is_none(both, change):
    (certificate,) = certificates(both[1])
    with pytest.raises(ValidationError):
        CertificateRecord.model_validate(certificate.model_dump(by_alias=True) | change)


def test_the_command_line_proves_first(bench, tmp_path):
    from tests.conftest import TINY

    words = ("--net", "tiny", "--plugin", str(TINY), "--defense", "quick", "--threat", "linf:0.02")
    done = bench("run", *words, "--columns", "clean, fgsm", "-n", "40", "--executor", "inline", "--certify", "--json")
    assert done.returncode == 0 and "images are certified under linf:0.02" in done.stderr
    (section,) = json.loads(done.stdout)["board"]["sections"]
    (certificate,) = [d for d in Ledger(tmp_path / "results/ledger").all() if isinstance(d, CertificateRecord)]
    assert section["rows"][0]["summary"]["certified"] == len(certificate.certified) > 0
    assert said(certificate) in done.stderr


def test_an_executor_s_failure_is_told_and_the_run_goes_on(both):
    """A bound that fails for want of memory, say, leaves the attacks to be asked."""
    from bench.errors import IncompleteError

    lines = []

    def failing(_place, tasks):
        return [(task, IncompleteError("no memory")) for task in tasks]

    exam = resolve(replace(ASK, threat="linf:0.07"), both[1])
    (certificate,) = certificates(both[1])
    certify(exam, both[1], failing, [(certificate.net, certificate.weights)], lines.append)
    assert lines == ["no certificate: no memory"]


def test_two_that_certify_at_once_write_one_record(both, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    _, place = both
    (c,) = certificates(place)
    place = replace(place, ledger_root=tmp_path / "ledger")
    shutil.copytree(both[1].ledger_root, place.ledger_root)
    task = Certify(c.net, c.weights, c.test, c.condition, "linf:0.04", "digits", 30)
    with ThreadPoolExecutor(2) as pool:
        made = [r for found in pool.map(lambda _: task.do(place), range(2)) for r in found]
    assert len(made) == 1
