import pytest

from attacks.suites import AA, AA_L1, AA_PLUS, AA_RAND, AA_REFERENCE, AA_TA10
from bench.registry import plugins


@pytest.mark.parametrize(
    ("column", "forwards", "backwards"),
    [
        (AA, 100 + 909 + 1801 + 5001, 100 + 900 + 900),
        (AA_PLUS, 504 + 504 + 1001 + 5001 + 909 + 1801, 500 + 500 + 5 * 100 * 10 + 900 + 900),
        (AA_RAND, 2 * 2000, 2 * 2000),
        (AA_L1, 504 + 505 + 1801 + 5001, 500 + 500 + 900),
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
    for column in (AA, AA_PLUS, AA_RAND, AA_L1, AA_TA10, AA_REFERENCE):
        for text in column.attacks:
            assert registry.parse("attack", text).plugin.norms == ("linf", "l2", "l1")
