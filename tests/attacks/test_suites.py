from pathlib import Path

import pytest

from attacks.suites import AA, AA_PLUS, AA_RAND, AA_REFERENCE, AA_TA10
from bench.registry import plugins
from bench.suites_page import page
from bench.threat import ThreatModel


@pytest.mark.parametrize(
    ("column", "forwards", "backwards"),
    [
        (AA, 100 + 909 + 1801 + 5001, 100 + 900 + 900),
        (AA_PLUS, 504 + 504 + 1001 + 5001 + 909 + 1801, 500 + 500 + 5 * 100 * 10 + 900 + 900),
        (AA_RAND, 2 * 2000, 2 * 2000),
        (AA_TA10, 10 + 99 + 181 + 5001, 10 + 90 + 90),
        # The authors' code, as counted there: 7852 and 1910; two forwards more tell the number of classes.
        (AA_REFERENCE, 102 + 919 + 1828 + 5003 + 2, 101 + 909 + 900),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_an_image_that_never_falls_costs_a_column_what_its_members_cost(column, forwards, backwards):
    """For ten classes, in forwards and backwards, without the judge's; every member is found by its name."""
    registry = plugins()
    assert registry.column(column.name) == column
    recipes = [registry.parse("attack", text) for text in column.attacks]
    spent = [recipe.plugin.cost(**recipe.settings) for recipe in recipes]
    assert tuple(map(sum, zip(*spent, strict=True))) == (forwards, backwards)


def test_every_form_searches_the_norms_that_it_is_made_for():
    """AutoAttack's forms in Linf, L2 and L1."""
    registry = plugins()
    for column in (AA, AA_PLUS, AA_RAND, AA_TA10, AA_REFERENCE):
        for text in column.attacks:
            assert registry.parse("attack", text).plugin.norms == ("linf", "l2", "l1")


def test_autoattack_has_other_restarts_and_targets_in_l1():
    """As its authors run it: five restarts and five targets."""
    registry = plugins()
    recipes = [registry.parse("attack", text) for text in AA.under("l1")]
    spent = [recipe.plugin.cost(**recipe.settings) for recipe in recipes]
    assert tuple(map(sum, zip(*spent, strict=True))) == (504 + 505 + 1801 + 5001, 500 + 500 + 900)
    assert AA.under("linf") == AA.under("l2") == AA.attacks


def test_every_suite_names_columns_that_search_its_threat():
    """Also in steps: those of the papers are whole or half grey levels at their eps."""
    registry = plugins()
    for suite in registry.all("suite"):
        for name in {name for names, _ in suite.parts for name in names}:
            for text in registry.column(name).attacks:
                recipe = registry.parse("attack", text)
                assert "linf" in recipe.plugin.norms or recipe.name == "clean"
                if suite.threat and "step" in recipe.settings:
                    step = recipe.settings["step"] * float(ThreatModel.parse(suite.threat).eps) * 255
                    assert step == pytest.approx(1) or step == pytest.approx(2)


def test_the_page_of_suites_is_what_the_code_says():
    """docs/suites.md is made by `make docs`."""
    assert (Path(__file__).parents[2] / "docs" / "suites.md").read_text() == page(plugins())
