"""What the board does with doubts: not trusted, asked more, before and after, and the rules of the closed division."""

from __future__ import annotations

import csv
import io
import json
import random
import re

import pytest

from bench import REASONS, CheckRecord
from bench.records import Doubted
from bench.standing import Standings
from leaderboard.badges import said as badge_says
from leaderboard.machines import pages as machine_pages
from leaderboard.ranks import ranks
from leaderboard.rules import BROKEN_BY, DEMANDS, DIVISIONS
from leaderboard.site import build
from leaderboard.table import table
from leaderboard.terminal import text as in_terminal

from .conftest import Writer, published, sha
from .test_boards import text

PGD, PROBE, BLIND = "pgd@1(steps=20)", "apgd-t@1()", "square@1(queries=5000)"
FATAL = sorted(code for code, reason in REASONS.items() if reason.fatal)
N = 100


def exam(writer, name, fell, probe=None, *, asked=N, column="probe-margin", attack=PROBE, **more):
    """A trained model: clean felled none of its N images, PGD `fell`, and a probe, if it was asked, `probe`."""
    writer.column("pgd", PGD)
    writer.training(name, name, **more)
    writer.cell(name, "clean@1()", range(N))
    writer.cell(name, PGD, range(N), fell)
    if probe is not None:
        writer.column(column, attack)
        writer.cell(name, attack, range(asked), probe)


def rows(writer):
    """The rows of the only board, by their defense."""
    (section,) = table(writer.ledger).sections
    return {row.maker.defense: row for row in section.rows}, section


def files(writer):
    return {f.path: f.content for f in machine_pages(build(writer.ledger))}


def test_a_masked_model_without_its_probe_is_not_ranked_and_stands_below_honest_ones(writer):
    """It would lead by far: 100 % against 60 %."""
    exam(writer, "honest", range(40))
    writer.check("honest")
    exam(writer, "masked", [])
    writer.check("masked", "underflow")
    found, section = rows(writer)
    assert [line.maker.defense for line in section.lines] == ["honest", "masked"]
    assert ranks(section.lines) == [(1, 1), None]
    assert found["honest"].trusted and not found["masked"].trusted
    assert found["masked"].trust.reasons == (REASONS["underflow"].text,)
    assert found["masked"].summary.accuracy == 1.0  # its number is kept, and believed by nobody


def test_once_its_probe_was_asked_it_is_ranked_by_what_the_probe_left(writer):
    """100 % before, 35 % after; both are told, and the finding says that it is settled."""
    exam(writer, "honest", range(40))
    exam(writer, "masked", [], range(65))
    writer.check("masked", "underflow")
    found, section = rows(writer)
    row = found["masked"]
    assert row.trusted and [f.state for f in row.trust.findings] == ["settled"]
    assert (row.trust.before.accuracy, row.summary.accuracy) == (1.0, 0.35)
    assert ranks(section.lines) == [(1, 1), (2, 2)]
    assert found["honest"].trust.before is None


def test_a_probe_that_was_asked_about_some_images_settles_nothing(writer):
    exam(writer, "masked", [], range(30), asked=50)
    writer.check("masked", "underflow")
    found, _ = rows(writer)
    assert [f.state for f in found["masked"].trust.findings] == ["open"]
    assert not found["masked"].trusted


def test_another_doubts_probe_settles_nothing(writer):
    """Zero gradients call for attacks without gradients; attacks on the margin say nothing of them."""
    exam(writer, "flat", [], range(65))
    writer.check("flat", "flat")
    assert not rows(writer)[0]["flat"].trusted
    exam(writer, "flat", [], range(65), column="probe-blind", attack=BLIND)
    assert rows(writer)[0]["flat"].trusted


@pytest.mark.parametrize("code", FATAL)
def test_no_attack_settles_what_is_no_function_of_the_image_alone(writer, code):
    """Whatever is asked, such a model is never ranked."""
    exam(writer, "model", [], range(65))
    exam(writer, "model", [], range(65), column="probe-blind", attack=BLIND)
    writer.check("model", code)
    row = rows(writer)[0]["model"]
    assert [f.state for f in row.trust.findings] == ["for good"] and not row.trusted


def test_honest_models_are_not_left_undecided_by_probes_that_others_were_asked(writer):
    """Two of three models raise a doubt and were asked more: the third is decided without."""
    exam(writer, "honest", range(40))
    for name in ("one", "two"):
        exam(writer, name, [], range(65))
        writer.check(name, "underflow")
    found, section = rows(writer)
    assert not found["honest"].summary.bound
    assert [h.common for h in section.heads if h.name == "probe-margin"] == [False]


def test_a_mean_over_seeds_with_one_that_lies_is_not_ranked(writer):
    exam(writer, "at", range(40), seed=0)
    writer.training("at", "second", seed=1)
    writer.cell("second", "clean@1()", range(N))
    writer.cell("second", PGD, range(N), [])
    writer.check("second", "state")
    _, section = rows(writer)
    (line,) = section.lines
    assert not line.trusted and ranks(section.lines) == [None]


def test_a_mean_over_seeds_that_were_asked_more_shows_it_before_and_after(writer, tmp_path):
    """Seeds at 100 % and 60 % before, of which the first falls to 40 %: 80 before, 50 after."""
    exam(writer, "at", [], range(60), seed=0)
    writer.check("at", "underflow")
    writer.training("at", "second", seed=1)
    writer.cell("second", "clean@1()", range(N))
    writer.cell("second", PGD, range(N), range(40))
    writer.check("second")
    _, section = rows(writer)
    (line,) = section.lines
    assert line.trusted and (line.before.accuracy, line.summary.accuracy) == (0.8, 0.5)
    assert "80.0 → 50.0" in published(writer.ledger, tmp_path).read_text()


def test_a_change_between_calls_that_shows_in_an_attack_counts_too(writer):
    """The checks before any attack did not see it; a record says it."""
    exam(writer, "patient", [])
    writer.check("patient")
    writer.cell("patient", "fgsm@1()", range(N), doubts=[REASONS["drifts"].text])
    writer.column("fgsm", "fgsm@1()")
    assert not rows(writer)[0]["patient"].trusted


def test_a_newer_version_of_the_checks_has_the_last_word(writer):
    """What version 1 doubted and version 2 does not is no doubt any more, though old records say it."""
    exam(writer, "model", range(40))
    writer.cell("model", "fgsm@1()", range(N), doubts=[REASONS["fickle"].text])
    writer.column("fgsm", "fgsm@1()")
    writer.check("model", "fickle", version=1)
    assert not rows(writer)[0]["model"].trusted
    writer.check("model", version=2)
    row = rows(writer)[0]["model"]
    assert row.trusted and row.doubts == ()


def test_of_two_machines_that_looked_either_may_doubt(writer):
    exam(writer, "model", range(40))
    writer.check("model", "fickle", made="2026-01-01T00:00:00Z")
    writer.check("model", made="2026-01-02T00:00:00Z")
    assert not rows(writer)[0]["model"].trusted


def test_accuracy_on_corrupted_images_is_doubted_only_where_the_model_is_no_function(writer):
    """Masked gradients are no matter where nothing is attacked; memory of test images is."""
    for name, code in (("masked", "flat"), ("remembers", "holds-images")):
        writer.training(name, name)
        writer.cell(name, "clean@1()", range(N), condition="fog@1():3")
        writer.check(name, code)
    found, section = rows(writer)
    assert section.summary == "mean"
    assert found["masked"].trusted and not found["remembers"].trusted


def test_black_box_attacks_that_beat_white_box_ones_by_points_count(writer):
    """Of 100 images 10 fell to Square alone: all attacks may find too little, until more are asked."""
    writer.training("at", "w")
    writer.column("pgd", PGD)
    writer.column("square", BLIND)
    writer.cell("w", "clean@1()", range(N))
    writer.cell("w", PGD, range(N), range(30), access="gradients", backwards=20)
    writer.cell("w", BLIND, range(30, N), range(30, 40), access="scores", backwards=0)
    row = rows(writer)[0]["at"]
    assert [(f.code, f.state) for f in row.trust.findings] == [("masked", "open")] and not row.trusted
    writer.column("probe-more", "more@1()")
    writer.cell("w", "more@1()", range(N), [50])
    assert rows(writer)[0]["at"].trusted


def test_every_file_for_machines_says_what_is_not_trusted(writer):
    """CSV, Markdown, LaTeX, JSON, the badge and board.json; none has a rank for it."""
    exam(writer, "honest", range(40))
    writer.check("honest")
    exam(writer, "masked", [])
    writer.check("masked", "underflow", figures={"gradient_honesty": 0.5})
    exam(writer, "probed", [], range(65))
    writer.check("probed", "underflow")
    found = files(writer)
    (board,) = (json.loads(c) for p, c in found.items() if p.startswith("api/v1/boards/"))
    by_name = {row["defense"]: row for row in board["rows"]}
    assert [by_name[n]["rank"] for n in ("honest", "probed", "masked")] == [[1, 1], [2, 2], None]
    assert [by_name[n]["trusted"] for n in ("honest", "probed", "masked")] == [True, True, False]
    assert by_name["masked"]["distrust"] == [REASONS["underflow"].text]
    assert by_name["probed"]["before_probes"]["accuracy"] == 1.0
    assert by_name["masked"]["gradient_honesty"] == 0.5
    (sheet,) = (c.decode() for p, c in found.items() if p.endswith(".csv"))
    listed = {row["defense"]: row for row in csv.DictReader(io.StringIO(sheet))}
    assert [listed[n]["rank"] for n in ("honest", "probed", "masked")] == ["1", "2", "not trusted"]
    assert listed["masked"]["trusted"] == "false" and listed["probed"]["before_probes"] == "1.0"
    for ending in (".md", ".tex"):
        (said,) = (c.decode() for p, c in found.items() if p.endswith(ending))
        (line,) = (x for x in said.splitlines() if "masked" in x)
        assert "not trusted" in line
    models = [json.loads(c) for p, c in found.items() if p.startswith("api/v1/models/")]
    (told,) = (m["boards"][0] for m in models if m["weights"] == sha("masked"))
    assert [f["state"] for f in told["findings"]] == ["open"] and told["findings"][0]["images"] == [3, 5]
    assert {r["name"] for r in told["rules"]} == set(DEMANDS) and told["division"] == "open"
    section = table(writer.ledger).sections[0]
    says = {row.maker.defense: badge_says(section, row) for row in section.rows}
    assert says["masked"][1:] == ("not trusted", False) and says["honest"][1:] == ("60.0 % of 100", True)


def test_the_pages_say_it_with_the_evidence_one_click_away(writer, tmp_path):
    exam(writer, "honest", range(40))
    writer.check("honest")
    exam(writer, "masked", [])
    writer.check("masked", "underflow", what="body.3")
    exam(writer, "probed", [], range(65))
    writer.check("probed", "underflow")
    folder = published(writer.ledger, tmp_path).parent
    page = (folder / "index.html").read_text()
    assert "100.0 → 35.0</span>" in page
    said = text(folder / "index.html")
    assert "1 line is not trusted and not ranked." in said and "honest leads" in said
    (address,) = re.findall(r'<a href="(models/[^"]*)#doubts">why it is not trusted</a>', page)
    told = text(folder / address)
    assert "Not trusted" in told and "body.3" in told and "images 3, 5" in told
    assert "bench run --escalate asks it" in told
    assert REASONS["underflow"].mend in told


def test_a_terminal_says_it(writer, capsys):
    from rich.console import Console

    exam(writer, "masked", [])
    writer.check("masked", "underflow")
    Console(width=120).print(in_terminal(table(writer.ledger)))
    said = capsys.readouterr().out
    assert "not trusted" in said and "it has no rank" in said


def verdicts(row):
    return {rule.name: rule.verdict for rule in row.rules}


def test_the_closed_division_is_for_models_whose_every_rule_was_checked(writer):
    """Without a record of the checks a model is unchecked; with one that found nothing it is closed."""
    exam(writer, "model", range(40))
    row = rows(writer)[0]["model"]
    assert row.division == "unchecked" and "not checked" in verdicts(row).values()
    writer.check("model")
    row = rows(writer)[0]["model"]
    assert row.division == "closed" and set(verdicts(row).values()) == {"passed"}


@pytest.mark.parametrize(
    ("code", "rule"), [(code, rule) for rule, codes in BROKEN_BY.items() for code in codes if code != "drifts"]
)
def test_each_doubt_breaks_its_rule_and_opens_the_division(writer, code, rule):
    """With the evidence beside the rule; a settled doubt breaks it too."""
    exam(writer, "model", range(40), range(65))
    writer.check("model", code)
    row = rows(writer)[0]["model"]
    assert verdicts(row)[rule] == "failed" and row.division == "open"
    (broken,) = (r for r in row.rules if r.name == rule)
    assert REASONS[code].text in broken.evidence and "images 3, 5" in broken.evidence


def test_a_model_that_was_trained_on_the_test_part_breaks_a_rule(writer):
    exam(writer, "cheat", range(40), train=sha("digits"))
    writer.check("cheat")
    row = rows(writer)[0]["cheat"]
    assert verdicts(row)["no test data"] == "failed" and row.division == "open"


def test_a_declared_stand_in_is_no_honest_gradient_and_declared_randomness_a_division(writer):
    for name, figure in (("bpda", "stand_in"), ("random", "random")):
        exam(writer, name, range(40))
        writer.check(name, figures={"stand_in": 0.0, "random": 0.0} | {figure: 1.0})
    found, _ = rows(writer)
    assert verdicts(found["bpda"])["honest gradients"] == "failed" and found["bpda"].division == "open"
    assert found["random"].division == "random"


def test_every_code_and_division_that_rules_name_is_known():
    assert {code for codes in BROKEN_BY.values() for code in codes} <= set(REASONS)
    assert set(BROKEN_BY) < set(DEMANDS) and {"closed", "open", "unchecked"} <= set(DIVISIONS)


def test_plots_and_pairs_of_the_best_leave_out_what_is_not_trusted(writer, tmp_path):
    from leaderboard.telling import best

    for name in ("honest", "other"):
        exam(writer, name, range(40) if name == "honest" else range(50))
    exam(writer, "masked", [])
    writer.check("masked", "underflow")
    _, section = rows(writer)
    assert [row.maker.defense for row in best(section, 8)] == ["honest", "other"]
    folder = published(writer.ledger, tmp_path).parent
    (plots,) = folder.glob("plots/*.html")
    assert "1 line that is not trusted is not drawn" in text(plots)


def test_another_boards_models_keep_their_trust(tmp_path, writer):
    """A check is about a test part: the same weights on another one are not doubted by it."""
    exam(writer, "model", range(40))
    other = Writer(writer.ledger, dataset="mnist")
    other.cell("model", "clean@1()", range(N))
    other.cell("model", PGD, range(N), range(40))
    writer.check("model", "holds-images")
    trusted = {s.dataset: [r.trusted for r in s.rows] for s in table(writer.ledger).sections}
    assert trusted == {"digits": [False], "mnist": [True]}


def test_the_gate_knows_what_the_checks_found(writer):
    """Also where records are older than the checks; a newer version has the last word."""
    exam(writer, "model", range(40))
    writer.cell("model", "fgsm@1()", range(N), doubts=[REASONS["fickle"].text])
    writer.column("fgsm", "fgsm@1()")
    writer.check("model", "underflow")
    said = {s.column: s.doubts for s in Standings.of(writer.ledger).every}
    assert set(said) == {"clean", "pgd", "fgsm"}
    assert set(said.values()) == {(REASONS["underflow"].text,)}
    writer.check("model", version=2)
    assert {s.doubts for s in Standings.of(writer.ledger).every} == {()}


@pytest.mark.parametrize("seed", range(12))
def test_board_and_gate_are_about_the_same_images(writer, seed):
    """Whatever was asked and fell, of columns of one and of two attacks, strict or not, cut short or not."""
    rng = random.Random(seed)
    n, attacks = 60, ("a@1()", "b@1()")
    lost = {i for i in range(n) if rng.random() < 0.2}
    writer.training("model", "w")
    writer.cell("w", "clean@1()", range(n), sorted(lost))
    for attack in attacks:
        end = rng.choice((10, 37, 50, 58, 59, n))
        asked = [i for i in range(end) if i not in lost and (rng.random() < 0.97 or seed % 2)]
        writer.cell("w", attack, asked, sorted(i for i in asked if rng.random() < 0.4))
    writer.column("one", attacks[0])
    writer.column("two", *attacks)
    writer.column("loose", attacks[1], strict=False)
    writer.column("short", *attacks, first=20)
    (section,) = table(writer.ledger).sections
    shown = {name: x for name, x in section.rows[0].numbers.items() if not x.bound}
    gated = {s.column: s for s in Standings.of(writer.ledger).every}
    assert set(gated) == set(shown)
    for name, x in shown.items():
        assert (gated[name].n, gated[name].n - len(gated[name].fell)) == (x.n, x.standing), name


def test_a_probes_second_form_and_another_models_images_count_as_probes(writer):
    """Two columns of one name are told apart by their keys; transfer is asked beside the probe without gradients."""
    exam(writer, "flat", [], range(65), column="probe-blind", attack=BLIND)
    exam(writer, "flat", [], range(60), column="probe-blind", attack="nes@1()")
    exam(writer, "flat", [], range(70), column="transfer(surrogate='x')", attack="transfer@1(surrogate='x')")
    writer.check("flat", "flat")
    row = rows(writer)[0]["flat"]
    assert row.trusted and (row.trust.before.accuracy, row.summary.accuracy) == (1.0, 0.3)


def test_doubts_of_checks_under_a_threat_count_under_that_threat_alone(writer):
    exam(writer, "model", range(40))
    other = Writer(writer.ledger, threat="linf:0.2")
    other.cell("model", PGD, range(N), range(60))
    writer.check("model")
    writer.check("model", "converges", threat="linf:0.2")
    trusted = {s.threat: [r.trusted for r in s.rows] for s in table(writer.ledger).sections}
    assert trusted == {"linf:0.1": [True], "linf:0.2": [False]}


def test_a_doubt_of_a_version_that_is_not_known_is_told(writer):
    """It is on the page with its evidence, and says nothing of trust that this version could judge."""
    exam(writer, "model", range(40))
    writer.check("model")
    (check,) = (d for d in writer.ledger.all() if isinstance(d, CheckRecord))
    doubt = {"code": "new", "text": "a doubt of tomorrow", "images": [1], "figures": {"share": 1.0}, "what": "x"}
    writer.ledger.add(check.model_copy(update={"doubts": [Doubted(**doubt)], "made": "2027-01-01T00:00:00Z"}))
    row = rows(writer)[0]["model"]
    assert row.trusted and [(f.text, f.state) for f in row.trust.findings] == [("a doubt of tomorrow", "told")]
    assert [d.text for d in row.doubts] == ["a doubt of tomorrow"]


def test_whatever_a_record_of_checks_holds_is_text_and_no_number_that_json_lacks(writer, tmp_path):
    """Markup, direction marks, a share of 7: the site is made, and says them as text or not at all."""
    bad = "<script>alert(1)</script>\u202e"
    exam(writer, "model", range(40))
    writer.check("model", "flat", what=bad, figures={"gradient_honesty": 7.0, "zero_gradients_of_margin": -1e308})
    (check,) = (d for d in writer.ledger.all() if isinstance(d, CheckRecord))
    doubt = {"code": bad, "text": bad, "images": [10**6], "figures": {bad: 1e308}, "what": bad}
    hostile = check.model_copy(update={"doubts": [*check.doubts, Doubted(**doubt)], "made": "2027"})
    writer.ledger.add(hostile)
    folder = published(writer.ledger, tmp_path).parent
    for page in folder.rglob("*.html"):
        assert "<script>alert" not in page.read_text() and "\u202e" not in page.read_text(), page
    for path, content in files(writer).items():
        if path.endswith(".json"):
            json.loads(content, parse_constant=pytest.fail)
    assert rows(writer)[0]["model"].honesty is None
