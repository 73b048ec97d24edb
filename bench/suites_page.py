"""docs/suites.md: suites, columns and what their attacks are, from the code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from bench.exam import Column, Suite
from bench.recipe import Attack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.registry import Registry

TOP = """# Suites and columns

Made from the code by `make docs`.

## Suites

| suite | threat | weights | columns | what it is |
| --- | --- | --- | --- | --- |
"""
MIDDLE = """
A suite whose threat is `any` takes the data set's, or that of `--threat`; columns that do not search its norm are left
out.

## Columns

| column | attacks, with every setting | access | passes an image | scored |
| --- | --- | --- | --- | --- |
"""
END = """
Passes are forwards + backwards of an image that never falls, for ten classes, without the judge's own. Steps are
shares of eps. Scored `all` is not strict: every image is attacked, also those that the model gets wrong to begin with.
Each attack is also a column of its own name; `bench list attacks` says what each of them is.
"""


def page(registry: Registry) -> str:
    """The page."""
    suites = [_suite_row(suite) for suite in registry.all("suite") if isinstance(suite, Suite)]
    columns = [row for c in registry.all("column") if isinstance(c, Column) for row in _column_rows(registry, c)]
    return TOP + "".join(suites) + MIDDLE + "".join(columns) + END


def _suite_row(suite: Suite) -> str:
    columns = ", ".join(dict.fromkeys(f"`{name}`" for names, _ in suite.parts for name in names))
    threat, weights = suite.threat or "any", ", ".join(suite.weights) or "any"
    return f"| `{suite.name}` | {threat} | {weights} | {columns} | {suite.summary} |\n"


def _column_rows(registry: Registry, column: Column) -> list[str]:
    """A row, and one for each norm in which its attacks are others."""
    scored = [*(["all"] if not column.strict else []), *([f"first {column.first:,}"] if column.first else [])]
    rows = []
    for norm, attacks in [("", column.attacks), *column.by_norm]:
        name = f"`{column.name}`" + (f" in {norm.capitalize()}" if norm else "")
        rows.append(f"| {name} | {_attacks(registry, attacks)} | {', '.join(scored) or 'strict'} |\n")
    return rows


def _attacks(registry: Registry, attacks: Sequence[str]) -> str:
    """Their keys, what they may ask, and their passes together."""
    recipes = [registry.parse("attack", text) for text in attacks]
    forwards = backwards = 0
    access = []
    for recipe in recipes:
        assert isinstance(recipe.plugin, Attack)
        access.append(recipe.plugin.access)
        spent = recipe.plugin.cost(**recipe.settings) if recipe.plugin.cost else (0, 0)
        forwards, backwards = forwards + spent[0], backwards + spent[1]
    keys = "<br>".join(f"`{recipe.key}`" for recipe in recipes)
    return f"{keys} | {' + '.join(dict.fromkeys(access))} | {forwards:,} + {backwards:,}"


if __name__ == "__main__":
    from bench.registry import plugins

    sys.stdout.write(page(plugins()))
