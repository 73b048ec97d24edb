"""The board's arithmetic, counted by hand."""

from __future__ import annotations

import pytest
from rich.console import Console

from bench import wilson
from bench.decided import roundest
from leaderboard.table import table
from leaderboard.terminal import text
from leaderboard.words import amount, duration, natural, printable, short

A, B, C = "a@1()", "b@1()", "c@1()"
S = "square@1()"


def only(ledger):
    (section,) = table(ledger).sections
    return section


def row(ledger):
    (found,) = only(ledger).rows
    return found


def counts(number):
    return number.standing, number.n, number.bound, number.partial


@pytest.fixture
def ten(writer):
    """Ten images, of which clean loses 0 and 1."""
    writer.card(10)
    writer.training("at", "w")
    writer.cell("w", "clean@1()", range(10), [0, 1])
    return writer


def test_a_strict_column_counts_what_clean_lost_as_fallen(ten):
    ten.column("a", A)
    ten.cell("w", A, range(2, 10), [2, 3, 4])
    numbers = row(ten.ledger).numbers
    assert counts(numbers["clean"]) == (8, 10, False, False)
    assert counts(numbers["a"]) == (5, 10, False, False)
    assert numbers["a"].accuracy == 0.5
    assert numbers["a"].interval == wilson(5, 10)


def test_a_column_that_is_not_strict_ignores_clean_and_stays_out_of_worst(ten):
    ten.column("a", A)
    ten.column("loose", B, strict=False)
    ten.cell("w", A, range(2, 10), [2])
    ten.cell("w", B, range(10), [5, 6, 7, 8])  # 0 and 1, which clean lost, stand here
    found = row(ten.ledger)
    assert counts(found.numbers["loose"]) == (6, 10, False, False)
    assert counts(found.summary) == (7, 10, False, False)


def test_a_column_is_the_union_of_its_attacks_and_needs_all_of_them_only_where_an_image_stands(ten):
    ten.column("union", A, B)
    ten.cell("w", A, range(2, 10), [2, 3])
    ten.cell("w", B, range(4, 10), [9])  # the cascade does not ask about what has fallen
    assert counts(row(ten.ledger).numbers["union"]) == (5, 10, False, False)


def test_where_records_of_one_cell_overlap_fallen_wins_and_asked_is_the_union(ten):
    ten.column("a", A)
    ten.cell("w", A, range(2, 7), [2, 3])
    ten.cell("w", A, range(5, 10), [6, 9])  # 5 and 6 are asked twice; 6 falls once
    assert counts(row(ten.ledger).numbers["a"]) == (4, 10, False, False)


def test_worst_is_the_union_of_strict_columns(ten):
    ten.column("a", A)
    ten.column("b", B)
    ten.cell("w", A, range(2, 10), [2, 3])
    ten.cell("w", B, range(2, 10), [3, 4])
    assert counts(row(ten.ledger).summary) == (5, 10, False, False)


def test_worst_is_a_number_on_the_first_images_that_every_column_went_through(ten):
    """Of the first five, 2 stands; 0 and 1 were lost, 3 fell to a and 4 to b.  That 7 fell to a says nothing of b."""
    ten.column("a", A)
    ten.column("b", B)
    ten.cell("w", A, range(2, 10), [3, 7])
    ten.cell("w", B, range(2, 5), [4])
    summary = row(ten.ledger).summary
    assert counts(summary) == (1, 5, False, True)
    assert summary.interval == wilson(1, 5)


def test_a_column_of_the_first_images_alone_does_not_shorten_worst(ten):
    """Column b is about the first four: it has nothing to say of the others."""
    ten.column("a", A)
    ten.column("b", B, first=4)
    ten.cell("w", A, range(2, 10), [3, 7])
    ten.cell("w", B, [2], [])
    assert counts(row(ten.ledger).summary) == (6, 10, False, False)


def test_worst_is_an_upper_bound_while_a_column_has_not_decided_every_image(ten):
    ten.column("a", A)
    ten.column("b", B)
    ten.cell("w", A, range(2, 10), [2, 3])
    ten.cell("w", B, range(2, 5), [4])  # on the first five images
    found = row(ten.ledger)
    assert counts(found.numbers["b"]) == (2, 5, False, True)  # 2 and 3 stand; 0, 1 and 4 fell; 5 to 9 were not asked
    assert counts(found.summary) == (5, 10, True, False)
    assert found.summary.interval == (0.0, wilson(5, 10)[1])


def test_on_the_first_images_alone_what_was_asked_about_no_more_is_decided(ten):
    """The same ledger on its first five images: no bound, nothing partial; n beyond the images changes nothing."""
    ten.column("a", A)
    ten.column("b", B)
    ten.cell("w", A, range(2, 10), [2, 3, 8])
    ten.cell("w", B, range(2, 5), [4])
    ten.cell("w", A, range(6, 10), [9])
    (section,) = table(ten.ledger, 5).sections
    (found,) = section.rows
    assert section.n == 5
    assert counts(found.numbers["clean"]) == (3, 5, False, False)
    assert counts(found.numbers["b"]) == (2, 5, False, False)
    assert counts(found.summary) == (0, 5, False, False)
    assert table(ten.ledger, 99).sections == table(ten.ledger).sections


def test_images_beyond_those_that_a_column_went_through_do_not_lower_it(writer):
    # A clean model that fails on every second image, and an attack that asked about the first ten and felled none:
    # the images 11, 13, ... are "decided", but only because they fell.
    writer.column("a", A)
    writer.cell("w", "clean@1()", range(100), range(1, 100, 2))
    writer.cell("w", A, range(0, 10, 2))
    assert counts(row(writer.ledger).numbers["a"]) == (5, 10, False, True)


def test_an_attack_asked_for_the_sake_of_another_column_gives_no_number_to_its_own(ten):
    # In a cascade b meets only what withstood a; alone it would look far too good.
    ten.column("union", A, B)
    ten.column("b", B)
    ten.cell("w", A, range(2, 10), [2, 4, 5, 6, 7, 8])
    ten.cell("w", B, [3, 9], [])
    section = only(ten.ledger)
    assert [h.name for h in section.heads] == ["clean", "union"]
    assert counts(section.rows[0].summary) == (2, 10, False, False)


def test_a_cascade_that_was_cut_short_gives_a_bound(ten):
    ten.column("a", A)
    ten.column("union", A, B)
    ten.training("trades", "v")
    ten.cell("v", "clean@1()", range(10))
    for weights in "wv":
        ten.cell(weights, A, range(2 if weights == "w" else 0, 10), [2])
    ten.cell("v", B, [0, 1, *range(3, 10)], [3])
    ten.cell("w", B, range(3, 6), [3])  # 6 to 9 are missing
    ten.cell("w", B, [9])
    rows = {r.maker.defense: r for r in only(ten.ledger).rows}
    assert counts(rows["trades"].numbers["union"]) == (8, 10, False, False)
    assert counts(rows["at"].numbers["union"]) == (6, 10, True, False)


def test_a_row_that_lacks_a_column_has_only_a_bound_and_comes_last(ten):
    ten.column("a", A)
    ten.column("b", B)
    ten.training("trades", "v")
    ten.cell("v", "clean@1()", range(10))
    ten.cell("v", A, range(10))
    ten.cell("w", A, range(2, 10), [2])
    ten.cell("w", B, range(2, 10), [3])
    assert [(r.maker.defense, r.summary.bound, r.summary.standing) for r in only(ten.ledger).rows] == [
        ("at", False, 6),
        ("trades", True, 10),
    ]
    assert "b" not in only(ten.ledger).rows[1].numbers


def test_when_clean_or_the_first_attack_felled_all_no_other_record_is_needed(writer):
    writer.column("union", A, B)
    writer.training("standard", "w")
    writer.cell("w", "clean@1()", range(4), [0])
    writer.cell("w", A, [1, 2, 3], [1, 2, 3])
    found = row(writer.ledger)
    assert counts(found.numbers["union"]) == (0, 4, False, False)
    assert counts(found.summary) == (0, 4, False, False)


def test_the_smallest_attack_seed_is_shown(ten):
    ten.column("a", A)
    ten.cell("w", A, range(2, 10), [2], seed=3)
    ten.cell("w", A, range(2, 10), [2, 3, 4, 5], seed=12)
    number = row(ten.ledger).numbers["a"]
    assert counts(number) == (7, 10, False, False)
    assert number.seeds == ((A, 3),)


def test_costs_are_sums_over_the_records_and_a_shared_attack_counts_once_in_a_row(ten):
    ten.column("a", A)
    ten.column("union", A, B)
    ten.cell("w", A, range(2, 6), seconds=2.0)
    ten.cell("w", A, range(6, 10), seconds=3.0)
    ten.cell("w", B, range(2, 10), seconds=0.5)
    found = row(ten.ledger)
    a, union = found.numbers["a"].spent, found.numbers["union"].spent
    assert (a.forwards, a.backwards, a.seconds) == (80, 72, 5.0)
    assert (union.forwards, union.backwards, union.seconds) == (160, 144, 5.5)
    assert (found.spent.forwards, found.spent.seconds) == (260, 6.5)  # clean's 100 forwards and 1 s among them


def test_best_and_last_are_rows_and_equal_weights_are_one(writer):
    writer.column("a", A)
    writer.training("at", "one", "two")
    writer.training("mart", "three")
    for weights in ("one", "two", "three"):
        writer.cell(weights, "clean@1()", range(4))
        writer.cell(weights, A, range(4), [0])
    assert {(r.maker.defense, r.maker.which) for r in only(writer.ledger).rows} == {
        ("at", "best"), ("at", "last"), ("mart", "best = last"),
    }  # fmt: skip


def test_weights_without_a_training_are_named_by_their_hash(writer):
    writer.column("a", A)
    writer.cell("w", A, range(4), [0])
    found = row(writer.ledger)
    assert found.maker.defense == found.weights[:12]
    assert found.notes == ("no training record",)


def test_a_training_for_another_threat_or_data_set_is_noted_and_one_that_fits_is_preferred(ten):
    ten.column("a", A)
    ten.cell("w", A, range(2, 10))
    assert row(ten.ledger).notes == ()
    ten.training("at", "w", threat="l2:3")  # the same weights, as a training that heeds no threat gives them
    assert row(ten.ledger).notes == ()
    ten.training("mart", "w", threat="l2:3", on="mnist")
    assert [r.notes for r in only(ten.ledger).rows] == [(), ("trained for l2:3", "trained on mnist")]


def test_clean_serves_every_threat_and_each_threat_is_a_section(ten):
    ten.column("a", A)
    ten.cell("w", A, range(2, 10), [2])
    ten.cell("w", A, range(2, 10), [2, 3], threat="l2:1")
    found = {s.threat: s.rows[0] for s in table(ten.ledger).sections}
    assert {t: (r.numbers["clean"].standing, r.summary.standing) for t, r in found.items()} == {
        "l2:1": (8, 6), "linf:0.1": (8, 7),
    }  # fmt: skip


def test_clean_alone_is_a_section_without_a_threat(ten):
    section = only(ten.ledger)
    assert (section.heading, section.nets) == (("digits", "no threat", "clean"), ("cnn",))
    assert section.rows[0].summary is None


def test_a_union_reaches_as_far_as_the_member_that_went_least_far(ten):
    """a was asked of all ten for its own sake, b up to image 4: their union is decided on the first five."""
    ten.column("a", A)
    ten.column("both", A, B)
    ten.cell("w", A, range(2, 10), [2, 8])
    ten.cell("w", B, [3, 4], [3])
    assert counts(row(ten.ledger).numbers["both"]) == (1, 5, False, True)


def test_corruptions_are_means_over_severities_on_the_images_that_all_asked(ten):
    ten.column("a", A)
    ten.cell("w", A, range(2, 10))
    ten.cell("w", "clean@1()", range(10), [0], condition="fog@1():1")
    ten.cell("w", "clean@1()", range(10), [0, 1, 2], condition="fog@1():2")
    ten.cell("w", "clean@1()", range(8), [], condition="snow@1():1")
    _, section = table(ten.ledger).sections
    assert section.condition == "corruptions" and [h.name for h in section.heads] == ["fog", "snow"]
    fog, mean = section.rows[0].numbers["fog"], section.rows[0].summary
    assert (fog.standing, fog.n, fog.conditions, fog.accuracy) == (16, 10, 2, 0.8)
    assert fog.interval == wilson(8, 10)
    assert (mean.standing, mean.n, mean.conditions, mean.partial) == (20, 8, 3, True)


def test_an_attack_on_corrupted_images_is_its_own_section(ten):
    ten.column("a", A)
    ten.cell("w", "clean@1()", range(10), [9], condition="fog@1():3")
    ten.cell("w", A, range(9), [0, 1], condition="fog@1():3")
    headings = [s.heading[1:] for s in table(ten.ledger).sections]
    assert headings == [
        ("linf:0.1", "fog:3, generated"),
        ("no threat", "clean"),
        ("no threat", "corruptions, generated"),
    ]
    assert counts(table(ten.ledger).sections[0].rows[0].summary) == (7, 10, False, False)


def test_columns_that_are_one_thing_are_one_column_and_namesakes_are_told_apart(ten):
    ten.column("pgd-20", A)
    ten.column("pgd(steps=20)", A)
    ten.column("x", B)
    ten.column("x", C)
    for attack in (A, B, C):
        ten.cell("w", attack, range(2, 10))
    names = [h.name for h in only(ten.ledger).heads]
    assert names[:2] == ["clean", "pgd-20 = pgd(steps=20)"]
    assert len(set(names)) == 4 and all(n.startswith("x #") for n in names[2:])


def test_doubts_are_told_once_with_the_attacks_that_raise_them(ten):
    ten.column("a", A)
    ten.column("b", B)
    ten.cell("w", A, range(2, 10), doubts=["gradients are zero", "z"])
    ten.cell("w", B, range(2, 10), doubts=["gradients are zero"])
    assert [(d.text, d.attacks) for d in row(ten.ledger).doubts] == [("gradients are zero", ("a", "b")), ("z", ("a",))]


def test_what_only_black_boxes_fell_is_a_doubt_that_names_the_images(writer):
    """Square fells 3 images that PGD left; one that APGD fells too, and those that nobody attacked, are no sign."""
    writer.card(100)
    for name, attack in (("a", A), ("s", S), ("f", "fgsm@1()")):
        writer.column(name, attack)
    writer.cell("w", "clean@1()", range(100), [0])
    writer.cell("w", A, range(1, 60), [1, 2], access="gradients", backwards=20)
    writer.cell("w", S, range(1, 100), [2, 3, 4, 5, 70], access="scores")
    (doubt,) = row(writer.ledger).doubts
    assert doubt.text.startswith("3 images fell to an attack without gradients and to none with them (3, 4, 5)")
    assert doubt.attacks == ("square",)
    writer.cell("v", "clean@1()", range(100), [0])
    writer.cell("v", "fgsm@1()", range(1, 100), [1], access="gradients", backwards=1)
    writer.cell("v", S, range(2, 100), range(2, 50), access="scores")
    assert sorted(len(r.doubts) for r in only(writer.ledger).rows) == [0, 1]


def test_a_damaged_record_is_named_and_left_out(ten):
    ten.column("a", A)
    path = ten.cell("w", A, range(2, 10))
    path.write_bytes(path.read_bytes().replace(b'"fell":[]', b'"fell":[2]'))
    board = table(ten.ledger)
    (said,) = board.damaged
    assert path.name in said and "damaged" in said
    assert [h.name for s in board.sections for h in s.heads] == ["clean"]


def test_nets_stand_side_by_side_and_a_rare_column_leaves_the_others_decided(ten):
    """Three nets; one alone was asked b, which felled two more images of it: they count, and nobody waits for b."""
    ten.column("a", A)
    ten.column("b", B)
    ten.cell("w", A, range(2, 10), [2])
    ten.cell("w", B, range(2, 10), [3, 4])
    for net in ("wide", "narrow"):
        ten.net = net
        ten.training("at", net, net_label=net)
        ten.cell(net, "clean@1()", range(10), [0])
        ten.cell(net, A, range(1, 10), [1, 2])
    section = only(ten.ledger)
    assert section.nets == ("cnn", "narrow", "wide")
    assert {r.net: counts(r.summary) for r in section.rows} == {
        "cnn": (5, 10, False, False), "wide": (7, 10, False, False), "narrow": (7, 10, False, False),
    }  # fmt: skip
    assert {h.name: h.common for h in section.heads} == {"clean": True, "a": True, "b": False}


def test_the_terminal_shows_numbers_and_no_control_characters(ten, capsys):
    ten.column("a[bold]", A)
    ten.training("[red]x\x1b[31m\u202e", "w", seed=1)
    ten.cell("w", A, range(2, 10), [2])
    Console(width=100).print(text(table(ten.ledger)))
    shown = capsys.readouterr().out
    assert "a[bold]" in shown and "[red]x" in shown and "70.0 ±" in shown and "first 10 of 10" in shown
    assert not {"\x1b", "\u202e"} & set(shown)
    assert max(map(len, shown.splitlines())) <= 100


def test_the_terminal_fits_a_hundred_columns(demo, capsys):
    Console(width=100).print(text(table(demo)))
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    assert "square-\n" not in shown and "…" not in shown


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(998, 1003, 1000), (7, 7, 7), (1, 9, 1), (12, 19, 12), (95, 210, 100)]
)
def test_the_roundest_number_between_two(low, high, expected):
    assert roundest(low, high) == expected


def test_words():
    assert short("fog@1():3") == "fog:3" and short("pgd@12(steps=2)") == "pgd@12(steps=2)"
    assert sorted(["pgd-100", "pgd-20", "aa"], key=natural) == ["aa", "pgd-20", "pgd-100"]
    assert printable("a\nb\x00\u202e") == "a b\ufffd\ufffd"
    assert [amount(x) for x in (0, 999, 1000, 11_173_962, 999_999, 99_960, 5e13)] == [
        "0", "999", "1.00 k", "11.2 M", "1.00 M", "100 k", "50.0 T",
    ]  # fmt: skip
    assert [duration(x) for x in (0.04, 48, 61, 7200, 200_000)] == ["0.0 s", "48 s", "1.0 min", "2.0 h", "2.3 d"]
