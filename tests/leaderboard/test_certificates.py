"""What is proven stands beside what no attack felled, and contradicts it aloud."""

import json

import pytest

from bench import CertificateRecord
from bench.records import certificate_key
from leaderboard.site import publish
from leaderboard.table import table
from tests.leaderboard.conftest import NET, THREAT, sha


@pytest.fixture
def certify(writer):
    """Write a certificate about some images of the weights `w`."""

    def write(asked, certified, *, without="", threat=THREAT, weights="w", made="2026-01-02T03:04:05Z"):
        facts = {
            "net": NET, "weights": sha(weights), "test": sha("digits"), "condition": "clean", "threat": threat,
            "method": "ibp", "version": 1,
        }  # fmt: skip
        origin = {k: v for k, v in writer.origin().items() if k != "source"} | {"made": made}
        writer.ledger.add(
            CertificateRecord.model_validate({
                **facts, **origin, "key": certificate_key(**facts), "dataset": "digits", "asked": list(asked),
                "certified": list(certified), "without": without,
                "cost": {"forwards": 6 * len(asked), "backwards": 0, "seconds": 0.1},
            })
        )  # fmt: skip

    writer.card(20)
    writer.column("a", "a@1()")
    writer.column("b", "b@1()")
    writer.training("at", "w")
    writer.cell("w", "clean@1()", range(10), [0])
    return write


def only(writer):
    (section,) = table(writer.ledger).sections
    (row,) = section.rows
    return row


def told(number):
    return number.standing, number.n, number.bound


def test_a_column_is_decided_where_its_attacks_and_the_proof_decide(writer, certify):
    """Of ten images clean lost one, five are proven, and each column asked the other four."""
    certify(range(10), [1, 2, 3, 4, 9])
    writer.cell("w", "a@1()", [5, 6, 7, 8], [5])
    writer.cell("w", "b@1()", [5, 6, 7, 8], [6])
    row = only(writer)
    assert {name: told(x) for name, x in row.numbers.items()} == {
        "clean": (9, 10, False), "a": (8, 10, False), "b": (8, 10, False),
    }  # fmt: skip
    assert told(row.summary) == (7, 10, False) and row.summary.certified == 5


def test_where_everything_is_proven_no_attack_needs_a_record(writer, certify):
    certify(range(10), range(1, 10))
    row = only(writer)
    assert told(row.summary) == (9, 10, False) and row.summary.certified == 9
    assert told(row.numbers["a"]) == (9, 10, False)


def test_an_image_that_is_neither_proven_nor_asked_is_undecided(writer, certify):
    certify(range(10), [1, 2, 3, 4, 9])
    writer.cell("w", "a@1()", [5, 6, 8], [5])
    writer.cell("w", "b@1()", [5, 6, 7, 8], [6])
    row = only(writer)
    assert "a" not in row.numbers  # which nobody decided
    assert told(row.numbers["b"]) == (8, 10, False)
    writer.cell("w", "a@1()", [7], [7])
    assert told(only(writer).numbers["a"]) == (7, 10, False)


def test_a_proof_under_another_threat_or_of_other_weights_decides_nothing(writer, certify):
    certify(range(10), range(1, 10), threat="linf:0.2")
    certify(range(10), range(1, 10), weights="v")
    writer.cell("w", "a@1()", [5, 6, 7, 8], [5])
    row = next(r for s in table(writer.ledger).sections for r in s.rows if s.threat == THREAT and r.weights == sha("w"))
    assert row.summary is None and row.certificate is None


def test_a_fallen_image_has_fallen_and_the_proof_is_doubted(writer, certify):
    certify(range(10), range(1, 10))
    writer.cell("w", "a@1()", [4, 5], [5])
    row = only(writer)
    assert told(row.summary) == (8, 10, False)
    (doubt,) = row.doubts
    assert doubt.text.startswith("1 certified images fell all the same (5)") and doubt.attacks == ("a",)


def test_the_pages_and_the_api_show_both_ends(writer, certify, tmp_path):
    """On the board below `worst`, in a sentence on the model's page, and as a number for machines."""
    certify(range(10), [1, 2, 3, 4, 9])
    writer.cell("w", "a@1()", [5, 6, 7, 8], [5])
    writer.cell("w", "b@1()", [5, 6, 7, 8], [6])
    publish(writer.ledger, tmp_path / "site")
    assert "in [50.0, 70.0]" in (tmp_path / "site/index.html").read_text()
    (page,) = (tmp_path / "site/models").glob("*.html")
    assert "<b>50.0 %</b>, 5 of 10 images, are proven to stand" in page.read_text()
    (model,) = (tmp_path / "site/api/v1/models").glob("*.json")
    (board,) = json.loads(model.read_text())["boards"]
    assert board["summary"]["certified"] == 5 and board["results"]["a"]["certified"] is None


def test_why_nothing_is_proven_is_on_the_page_as_text(writer, certify, tmp_path):
    certify(range(10), [], without="no bound through <script>")
    writer.cell("w", "a@1()", range(1, 10), [5])
    writer.cell("w", "b@1()", range(1, 10), [6])
    publish(writer.ledger, tmp_path / "site")
    (page,) = (tmp_path / "site/models").glob("*.html")
    assert "Nothing is certified: <bdi>no bound through &lt;script&gt;</bdi>" in page.read_text()


def test_as_it_was_before_the_proof(writer, certify, tmp_path):
    certify(range(10), range(1, 10), made="2026-03-01T00:00:00Z")
    writer.cell("w", "a@1()", [4, 5], [])
    publish(writer.ledger, tmp_path / "then", as_of="2026-02-01")
    publish(writer.ledger, tmp_path / "now")
    assert "proven" not in next((tmp_path / "then/models").glob("*.html")).read_text()
    assert "proven" in next((tmp_path / "now/models").glob("*.html")).read_text()
