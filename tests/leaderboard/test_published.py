"""Published tables: facts that equal the reference, and recipes that are what the papers say."""

from __future__ import annotations

import json

import pytest

from bench import UsageError
from bench.registry import plugins
from leaderboard.published import names, paper, papers
from tests.conftest import SHARED

ROWS = [(p, t, part, row) for p in papers() for t in p.tables for part, row in t.rows()]
SETTINGS = {"cam_every": "s", "alpha": "alpha", "gamma": "gamma", "beta": "beta"}  # the papers' words, and ours


@pytest.fixture(scope="module")
def registry():
    return plugins()


def facts(p, t, part, row):
    """A row's numbers, as the reference writes each."""
    for said, quoted in row.numbers.items():
        corrupted = t.name == "cifar10-c"
        yield {
            "paper": p.name.upper(), "table": t.name, "dataset": part.dataset,
            "architecture": part.net.removesuffix("-silu"),
            "threat": "corruption" if corrupted else "Linf " + part.threat.removeprefix("linf:"),
            "defense": row.defense, "metric": "clean" if corrupted else said, "mean": quoted.mean,
            **({"std": quoted.sd} if quoted.sd is not None else {}), **({"corruption": said} if corrupted else {}),
            **row.said,
        }  # fmt: skip


@pytest.mark.shared
def test_every_number_equals_the_reference_and_none_is_missing():
    ours = [fact for row in ROWS for fact in facts(*row)]
    reference = json.loads((SHARED / "reference" / "papers.json").read_text())
    assert len(ours) == len(reference) == 561
    key = lambda fact: sorted((k, repr(v)) for k, v in fact.items())  # noqa: E731
    assert sorted(map(key, ours)) == sorted(map(key, reference))


def test_part_has_two_tables_and_vir_twelve():
    assert {name: len(paper(name).tables) for name in names()} == {"part": 2, "vir": 12}
    assert all(t.runs == 4 and t.weights == ["best", "last"] for t in paper("vir").tables)


@pytest.mark.parametrize(("p", "t", "part", "row"), ROWS, ids=lambda x: getattr(x, "name", ""))
def test_a_row_s_recipe_is_what_the_paper_says(registry, p, t, part, row):
    """Defense and varied settings are the row's; net, data set, suite and columns are there."""
    registry.parse("dataset", part.dataset)
    net = registry.parse("net", part.net)
    for variant in row.recipes:
        recipe, _ = registry.parse_defense(row.recipe(variant), part.dataset, net.name)
        assert recipe.name == row.defense
        for said, value in row.said.items():
            if said in SETTINGS:
                assert recipe.settings[SETTINGS[said]] == value
        parts = {"S_v only": "vulnerability", "S_d only": "discrepancy"}
        if row.defense.startswith("vir"):
            assert recipe.settings["parts"] == parts.get(row.said.get("variant"), "both")
        if p.name == "part":
            assert recipe.settings["eps"] == "8/255"
    suite = registry.suite(part.suite)
    assert suite.threat in ("", part.threat) and suite.weights in ((), tuple(t.weights))
    columns = {(c, condition) for cs, conditions in suite.parts for c in cs for condition in conditions}
    assert {(asked.column, asked.condition) for asked in part.columns.values()} <= columns


def test_equal_settings_of_two_tables_are_one_training(registry):
    """VIR's tables 1, 6, 9 and 11 share a row: its cells are run once."""
    found = set()
    for table, name in (
        ("1", "vir-at"),
        ("6", "vir-at"),
        ("9", "vir-at-beta-0.007"),
        ("11", "vir-at-alpha-7-gamma-10"),
    ):
        (row,) = (row for _, row in paper("vir").table(table).rows() if row.name == name)
        found.add(registry.parse_defense(row.recipe(), "cifar10", "resnet18")[0].key)
    assert len(found) == 1


def test_extra_images_go_into_the_recipe():
    (row,) = (row for _, row in paper("vir").table("8").rows() if row.name == "at")
    assert row.recipe(extra="/a b/it's.npz") == """at(preset='edm', extra="/a b/it's.npz")"""


@pytest.mark.parametrize(("name", "said"), [("virr", "did you mean 'vir'"), ("no.json", "there is no paper 'no.json'")])
def test_a_paper_that_is_not_here_is_named(name, said):
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        paper(name)


def test_a_file_may_not_take_the_name_of_a_paper_that_is_here(tmp_path):
    """Else its trainings would stand on that paper's page."""
    (tmp_path / "mine.json").write_text(json.dumps(paper("vir").model_dump(by_alias=True)))
    with pytest.raises(UsageError, match="the name 'vir' is that of a paper"):
        paper(str(tmp_path / "mine.json"))
