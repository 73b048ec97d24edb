"""The gate, as a user meets it: on ledgers of real runs, and on standings with answers known by hand."""

import json
import subprocess
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.etree import ElementTree as ET

import pytest

from bench import baseline, gate_report
from bench.doubts import REASONS
from bench.errors import IncompleteError
from bench.gate import Rules, compare
from bench.robustness import _message
from bench.standing import Cost, Model, Question, Standing, Standings
from tests.conftest import TINY

WORDS = ("--defense", "quick", "--net", "tiny", "--plugin", str(TINY), "-n", "200", "--executor", "inline")
NOBODY = Model("at", "cnn", "digits", "linf:0.2", 0, "best")
PGD = Question("c" * 64, "clean", "linf:0.2", ("pgd@1()",), True, 0)


def standing(fell, n=100, model=NOBODY, question=PGD, weights="a", **changes):
    """A standing in which the first so many images fell, or these."""
    fell = frozenset(range(fell) if isinstance(fell, int) else fell)
    facts = {"dataset": "digits", "column": "pgd", "doubts": (), "made": "2025"} | changes
    return Standing(model=model, question=question, weights=weights * 64, n=n, fell=fell, **facts)


def gate(before, now, **rules):
    """The report on these standings."""
    return compare(Standings(tuple(before)), Standings(tuple(now)), Rules(**rules))


def test_the_verdict_by_hand():
    """Five of 100 images lost, p = 1/32: a regression at 5 %; four, p = 1/16: inconclusive; two tests: p doubles."""
    five, four = (gate([standing(10)], [standing(10 + lost, weights="b")]) for lost in (5, 4))
    assert [(c.verdict, c.p_value, c.lost, c.gained) for c in five.comparisons] == [
        ("regressed", pytest.approx(1 / 32), 5, 0)
    ]
    assert (five.exit_code, four.exit_code) == (3, 0)
    assert four.comparisons[0].verdict == "inconclusive"
    assert gate([standing(10)], [standing(14)], strict=True).exit_code == 4
    cw = PGD._replace(attacks=("cw@1()",))
    both = gate([standing(10), standing(10, question=cw)], [standing(15), standing(10, question=cw)])
    assert [(c.verdict, c.adjusted) for c in both.comparisons] == [
        ("inconclusive", pytest.approx(1 / 16)),
        ("held", 1.0),
    ]


def test_images_that_change_sides_are_counted_not_the_means():
    """As many images gained as lost is no drop; a gain holds."""
    swapped = gate([standing(range(10))], [standing(range(5, 15))]).comparisons[0]
    assert (swapped.drop, swapped.lost, swapped.gained, swapped.verdict) == (0, 5, 5, "held")
    assert gate([standing(30)], [standing(10)]).exit_code == 0


def test_a_tolerated_drop_holds():
    """Ten points lost with ten tolerated hold; of 40 points with one tolerated no chance explains them."""
    assert gate([standing(10)], [standing(20)], max_drop=10.0).comparisons[0].verdict == "held"
    assert gate([standing(10)], [standing(12)], max_drop=1.0).comparisons[0].verdict == "inconclusive"
    assert gate([standing(10)], [standing(50)], max_drop=1.0).exit_code == 3


def test_what_is_on_one_side_only_is_listed():
    """Missing is 4 with --strict; nothing in common is 4 anyhow; new ones are named; best and last are one if equal."""
    trades = standing(10, model=NOBODY._replace(defense="trades"))
    report = gate([standing(10), trades], [standing(10), standing(10, model=NOBODY._replace(seed=7), weights="b")])
    assert (report.missing, [s.model.seed for s in report.new], report.exit_code) == ((trades,), [7], 0)
    assert gate([standing(10), trades], [standing(10)], strict=True).exit_code == 4
    assert gate([trades], [standing(10)]).exit_code == 4
    last = standing(10, model=NOBODY._replace(which="last"))
    alike = gate([standing(10), last], [standing(10, weights="b")])
    assert (len(alike.comparisons), alike.missing) == (1, ())
    assert len(gate([standing(10), last], [standing(10), last]).comparisons) == 1


def test_fewer_images_are_compared_and_said():
    """On the 50 images that both have; with --strict that is not enough.  More images than before are fine."""
    report = gate([standing(10)], [standing(10, n=50)], strict=True)
    assert (report.comparisons[0].n, report.exit_code) == (50, 4)
    assert "fewer images" in " ".join(gate_report.sentences(report))
    assert gate([standing(10, n=50)], [standing(10)], strict=True).exit_code == 0


def test_over_seeds():
    """Seeds that both have are paired; others are compared by Welch's test; with one seed it is about images."""

    def seeds(falls, first=0):
        return [
            standing(fell, model=NOBODY._replace(seed=first + i), weights="abcdef0123"[(first + i) % 10])
            for i, fell in enumerate(falls)
        ]

    paired = gate(seeds([10, 11, 12]), seeds([20, 22, 21], 0))
    assert [c.question for c in paired.comparisons] == ["the method over 3 seeds, paired by seed"]
    assert (paired.comparisons[0].drop, paired.exit_code) == (pytest.approx(0.1), 3)
    welch = gate(seeds([10, 11, 12]), seeds([20, 22, 21], 3))
    assert [c.question for c in welch.comparisons] == ["the method over 3 seeds, with other seeds"]
    assert (welch.exit_code, welch.missing, welch.new) == (3, (), ())
    single = gate(seeds([10]), seeds([10, 12]))
    assert [c.question for c in single.comparisons] == ["these weights on these images"]
    assert len(single.new) == 1


def test_another_test_part_or_column_is_told():
    """The same names with other contents are not compared, and the reason is said."""
    other = gate([standing(10)], [standing(10, question=PGD._replace(test="d" * 64))])
    assert "The test part of digits is not the baseline's" in " ".join(gate_report.sentences(other))
    newer = gate([standing(10)], [standing(10, question=PGD._replace(attacks=("pgd@2()",)))])
    assert "pgd@1(), pgd@2()" in " ".join(gate_report.sentences(newer))


FLAT, STATE = REASONS["flat"].text, REASONS["state"].text


def test_a_number_that_newly_lies_does_not_pass():
    """Masked gradients let accuracy rise: 90 % before, 100 % now, and no drop.  Exit code 4, in every report."""
    report = gate([standing(10)], [standing(0, doubts=(FLAT,))])
    assert report.exit_code == 4
    assert [c.verdict for c in report.comparisons] == ["not trusted"]
    assert "1 of 1 comparisons not to be trusted" in gate_report.verdict(report)
    assert "Not trusted, since a new doubt says that the number lies" in " ".join(gate_report.sentences(report))
    assert gate_report.document(report)["not_trusted"] == [report.comparisons[0].name]
    (failure,) = ET.fromstring(gate_report.junit_xml(report)).iter("failure")
    assert failure.get("type") == "not trusted" and FLAT in failure.get("message")
    assert any(line.startswith("::error title=Robustness not to be trusted") for line in
               gate_report.annotations_of(report))  # fmt: skip
    assert "| not trusted |" in gate_report.page(report)
    assert "  not to be trusted: digits: pgd linf:0.2" in _message(report, "baseline.json").splitlines()


def test_what_the_baseline_knew_to_lie_is_told_and_does_not_fail():
    report = gate([standing(10, doubts=(FLAT,))], [standing(10, doubts=(FLAT,))], strict=True)
    assert report.exit_code == 0
    assert "Not to be trusted, now as in the baseline" in " ".join(gate_report.sentences(report))


def test_a_drop_is_a_regression_whatever_is_doubted():
    assert gate([standing(0)], [standing(60, doubts=(STATE,))]).exit_code == 3


def test_clean_accuracy_and_the_probe_itself_are_believed_where_an_attack_settles_the_doubt():
    """A model that changes while it is asked is believed in nothing."""
    for column in ("clean", "probe-blind", "square-5000 = probe-blind"):
        before, now = standing(10, column=column), standing(10, column=column, doubts=(FLAT,))
        assert gate([before], [now]).exit_code == 0
        assert gate([before], [replace(now, doubts=(STATE,))]).exit_code == 4


def test_a_sequential_gate_does_not_settle_what_lies():
    report = gate([standing(10)], [standing(0, doubts=(FLAT,))], sequential=True, max_drop=5)
    assert report.exit_code == 4 and report.comparisons[0].verdict == "not trusted"


def test_forbidden_doubts_fail():
    """With --no-doubts a doubt here is exit 3, though nothing dropped; a new one is told, and 4 with --strict."""
    doubted = standing(10, doubts=("it is random",))
    assert gate([standing(10)], [doubted]).exit_code == 0
    assert gate([standing(10)], [doubted], strict=True).exit_code == 4
    assert gate([doubted], [doubted], strict=True).exit_code == 0
    assert "does not have: at on cnn" in " ".join(gate_report.sentences(gate([standing(10)], [doubted])))
    assert gate([standing(10)], [doubted], no_doubts=True).exit_code == 3
    assert gate([standing(10)], [doubted], forbidden=("answers differently", "IS RANDOM")).exit_code == 3
    assert gate([standing(10)], [doubted], forbidden=("images beside it",)).exit_code == 0


def test_costs_may_not_rise(tmp_path):
    """By 10 % exactly is tolerated, one pass more is not; less, unknown and new ones are fine; seeds are averaged."""

    def costed(*passes, forward=500, **changes):
        facts = {"defense": "at", "net": "cnn", "trained_on": "digits", "trained_for": ""} | changes
        costs = tuple(Cost(**facts, seed=seed, training=p, forward=forward) for seed, p in enumerate(passes))
        return Standings((standing(10),), costs=costs)

    def judged(before, now, rise=10.0):
        report = compare(before, now, Rules(max_cost_rise=rise))
        assert report.exit_code == (3 if report.dearer else 0)
        return [(c.what.split()[0], c.percent) for c in report.dearer]

    assert judged(costed(1000), costed(1100)) == judged(costed(1000), costed(10)) == []
    assert judged(costed(1000), costed(1101)) == [("training", pytest.approx(10.1))]
    assert judged(costed(1000), costed(1000, forward=551)) == [("multiply-adds", pytest.approx(10.2))]
    assert judged(costed(0), costed(1)) == [("training", float("inf"))] and judged(costed(0), costed(0)) == []
    assert judged(costed(1000, forward=None), costed(1000)) == []
    assert judged(costed(1000), costed(9999, defense="trades")) == []
    assert judged(costed(1000, 2000), costed(1500, 1800, 9999)) == []  # the third seed is new
    assert judged(costed(7), costed(8), rise=0.0) and not judged(costed(7), costed(7), rise=0.0)
    assert compare(costed(1), costed(9), Rules()).costs == ()
    report = compare(costed(1000), costed(3000), Rules(max_cost_rise=10.0))
    said = " ".join(gate_report.sentences(report))
    assert "1,000 before, 3,000 now (+200.0 %, more than the 10 % that are tolerated)" in said
    assert [line.partition("::at")[0] for line in gate_report.annotations_of(report)] == ["::error title=Cost rose"]
    cases = ET.fromstring(gate_report.junit_xml(report)).findall(".//testcase")
    assert [c.find("failure") is not None for c in cases] == [False, True, False]
    baseline.record(costed(1000, 2000, forward=None), tmp_path / "b.json")
    assert baseline.read(str(tmp_path / "b.json")) == costed(1000, 2000, forward=None)
    text = (tmp_path / "b.json").read_text()
    (tmp_path / "b.json").write_text(text.replace('"training":2000', '"training":9000'))
    with pytest.raises(baseline.IntegrityError, match="something was changed"):
        baseline.read(str(tmp_path / "b.json"))


def test_odd_names_break_no_output():
    """Control characters, markup, pipes and percent signs in a label: XML parses, tables and annotations keep shape."""
    odd = NOBODY._replace(defense="a|b<c>&\x00\x1b[31m]\n::error::%0A")
    report = gate([standing(10, model=odd)], [standing(30, model=odd)])
    suite = ET.fromstring(gate_report.junit_xml(report)).find("testsuite")
    assert (suite.get("tests"), suite.get("failures"), len(suite.findall("testcase/failure"))) == ("1", "1", 1)
    (row,) = [line for line in gate_report.page(report).splitlines() if line.startswith("| regressed")]
    assert row.replace("\\|", "").count("|") == 9 and "<c>" not in row
    (line,) = gate_report.annotations_of(report)
    assert line.startswith("::error title=Robustness regressed::") and "%0A" not in line and "\n" not in line


def test_the_page_is_cut_to_what_github_shows():
    """Many rows of long names become less than a MiB, which says how many are cut."""
    one = gate([standing(10)], [standing(30, column="c" * 1000)])
    many = replace(one, comparisons=one.comparisons * 1100)
    page = gate_report.page(many)
    assert len(page.encode()) <= 1_048_576
    assert "more rows are cut here" in page


def test_a_baseline_file_reads_back_and_notices_any_change(tmp_path):
    """Equal standings; one changed number, a cut, another schema and no JSON are integrity errors (5)."""
    path = tmp_path / "baseline.json"
    every = (standing(10, doubts=("odd",)), standing([3, 1], question=PGD._replace(threat=None)))
    baseline.record(Standings(every), path)
    assert baseline.read(str(path)).every == every
    text = path.read_text()
    for damaged in (text.replace('"n":100', '"n":101', 1), text[:-9], text.replace("line-1", "line-2"), "", "[]"):
        path.write_text(damaged)
        with pytest.raises(baseline.IntegrityError, match=r"baseline\.json"):
            baseline.read(str(path))


@pytest.fixture
def regression(bench):
    """Two ledgers of one training each, of the same name: a good one, and one whose plugin now trains badly."""
    columns = ("--columns", "clean, slow, walks", "--json")
    assert bench("run", *WORDS, *columns, "--ledger", "good", "--store", "s1").returncode == 0
    spoilt = TINY.read_text().replace("@defense()\ndef quick", "@defense(version=2)\ndef quick")
    assert spoilt != TINY.read_text()
    spoilt = spoilt.replace("F.cross_entropy(model(feed.x), feed.y)", "F.cross_entropy(model(feed.x), feed.y % 5)")
    words = [w if w != str(TINY) else "spoilt.py" for w in WORDS]
    return lambda folder: (
        (folder / "spoilt.py").write_text(spoilt) and bench("run", *words, *columns, "--ledger", "bad", "--store", "s2")
    )


def test_a_real_regression_is_caught_and_no_change_is_not(bench, regression, tmp_path):
    """A training that confuses classes exits with 3 and says so everywhere; the same ledger with 0."""
    made = regression(tmp_path)
    assert made.returncode == 0, made.stderr
    assert bench("gate", "--record", "baseline.json", "--ledger", "good").returncode == 0
    for known in ("baseline.json", "good"):
        done = bench("gate", "--baseline", known, "--ledger", "bad", "--json", "--junit", "j.xml", "--markdown", "m.md")
        found = json.loads(done.stdout)
        assert (done.returncode, found["schema"], found["exit_code"]) == (3, "rampart/gate-1", 3), done.stderr
        verdicts = {c["column"]: c["verdict"] for c in found["comparisons"]}
        assert verdicts["clean"] == "regressed" and len(verdicts) == 3
        assert found["missing"] == found["new"] == []
        assert bench("gate", "--baseline", known, "--ledger", "good").returncode == 0
    assert ET.parse(tmp_path / "j.xml").getroot().find("testsuite").get("tests") == "3"
    assert "regressed" in (tmp_path / "m.md").read_text()
    env = {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    (tmp_path / "summary.md").write_text("before\n")
    done = bench("gate", "--baseline", "good", "--ledger", "bad", "--github", env=env)
    assert done.stdout.startswith("::error title=Robustness regressed::quick on tiny seed 0, digits: clean: ")
    assert (tmp_path / "summary.md").read_text().startswith("before\n### Robustness: ")


def test_a_commit_is_a_baseline(bench, regression, tmp_path):
    """git:main:good, a folder or a file of a commit; a path that it lacks is no baseline; no such commit is usage."""
    assert bench("gate", "--record", "kept/b.json", "--ledger", "good").returncode == 0
    author = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for words in (("init", "-qb", "main"), ("add", "good", "kept"), (*author, "commit", "-qm", "baseline")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    for path in ("good", "kept/b.json"):
        assert bench("gate", "--baseline", f"git:main:{path}", "--ledger", "good", "--strict").returncode == 0
    assert "There is no baseline" in bench("gate", "--baseline", "git:main:none", "--ledger", "good").stderr
    for wrong in ("git:nope:good", "git:main", "git:--help:good"):
        assert bench("gate", "--baseline", wrong, "--ledger", "good").returncode == 2, wrong


def test_an_asset_of_a_release_is_a_baseline(tmp_path):
    """Over http: the same standings; none there is no baseline; a refusal, a cut and no answer are 4, a page is 5."""
    baseline.record(Standings((standing(10),)), tmp_path / "b.json")
    content = (tmp_path / "b.json").read_bytes()

    class Release(BaseHTTPRequestHandler):
        def do_GET(self):
            code, body = {"/b.json": (200, content), "/page": (200, b"<html>log in"), "/cut": (200, content[:9]),
                          "/no": (403, b"")}.get(self.path, (404, b""))  # fmt: skip
            self.send_response(code)
            self.send_header("Content-Length", str(len(content if self.path == "/cut" else body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_words):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Release) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}"
        assert baseline.read(f"{here}/b.json").every == (standing(10),)
        assert baseline.read(f"{here}/none.json") is None
        assert not baseline.recordable(f"{here}/none.json", Standings((standing(10),)))
        for path, error in (
            ("no", IncompleteError),
            ("cut", baseline.IntegrityError),
            ("page", baseline.IntegrityError),
        ):
            with pytest.raises(error, match=f"/{path}"):
                baseline.read(f"{here}/{path}")
        server.shutdown()
    with pytest.raises(IncompleteError, match="cannot be had"):
        baseline.read(f"{here}/b.json")


def test_mistakes_at_the_gate(bench, regression, tmp_path):
    """No baseline yet is 0 and recorded, or 4 with --strict; damage is 5; contradictions and bad numbers are 2."""
    none = bench("gate", "--baseline", "none", "--ledger", "good")
    assert (none.returncode, "--record FILE" in none.stderr) == (0, True)
    assert bench("gate", "--baseline", "first.json", "--ledger", "good", "--strict").returncode == 4
    first = bench("gate", "--baseline", "first.json", "--ledger", "good", "--json")
    assert (first.returncode, json.loads(first.stdout)["recorded"]) == (0, "first.json")
    assert bench("gate", "--baseline", "first.json", "--ledger", "good", "--strict").returncode == 0
    (tmp_path / "damaged.json").write_text('{"schema": "rampart/baseline-1"')
    done = bench("gate", "--baseline", "damaged.json", "--ledger", "good")
    assert (done.returncode, "damaged.json" in done.stderr) == (5, True)
    for wrong in (
        ("--ledger", "nowhere", "--baseline", "good"), (), ("--baseline", "good", "--record", "b.json"),
        ("--baseline", "good", "--json", "--github"), ("--baseline", "good", "--alpha", "nan"),
        ("--baseline", "good", "--alpha", "1"), ("--baseline", "good", "--max-drop", "-1"),
        ("--baseline", "good", "--max-drop", "101"), ("--baseline", "good", "--forbid-doubt", " "),
        ("--baseline", "good", "--max-cost-rise", "nan"), ("--baseline", "good", "--max-cost-rise", "inf"),
    ):  # fmt: skip
        words = wrong if "--ledger" in wrong else (*wrong, "--ledger", "good")
        done = bench("gate", *words)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), wrong
    (tmp_path / "bench.toml").write_text('max-drop = 0.5\nledger = "good"\n')
    env = {"BENCH_FORBID_DOUBT": "images beside it, is random", "BENCH_SEQUENTIAL": "1", "BENCH_MAX_COST_RISE": "3"}
    found = json.loads(bench("gate", "--baseline", "good", "--json", env=env).stdout)
    assert (found["max_drop"], found["sequential"], found["max_cost_rise"]) == (0.5, True, 3)
    assert found["forbidden"] == ["images beside it", "is random"]
    victim = next((tmp_path / "good").rglob("*.json"))
    victim.write_text(victim.read_text().replace("1", "2", 1))
    assert bench("gate", "--baseline", "none.json").returncode == 5
    assert not (tmp_path / "none.json").exists()
