"""Surrogates: the weights of another model, which an attack may differentiate instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.errors import UsageError, nearest
from bench.recipe import Attack, Recipe
from bench.records import TrainingRecord

if TYPE_CHECKING:
    from bench.evaluate import Subject
    from bench.exam import Shape
    from bench.place import Place


def pinned(recipe: Recipe, place: Place, shape: Shape) -> Recipe:
    """The attack with the full hashes of its surrogates; UsageError where the ledger knows none, several or others."""
    assert isinstance(recipe.plugin, Attack)
    for name in recipe.plugin.surrogates:
        weights, net = _find(recipe, name, place)
        try:
            place.subject(net, weights, shape)
        except RuntimeError:  # torch's, where weights do not fit
            raise UsageError(
                f"{recipe.name}({name}={weights[:7]!r}): these are weights of {net} for other images or classes than "
                f"{shape.channels}x{shape.size}x{shape.size} and {shape.classes}"
            ) from None
        recipe = recipe.with_settings({name: weights})
    return recipe


def surrogates(recipe: Recipe, place: Place, shape: Shape) -> dict[str, Subject]:
    """The models behind the surrogates of an attack, by setting."""
    assert isinstance(recipe.plugin, Attack)
    found = {name: _find(recipe, name, place) for name in recipe.plugin.surrogates}
    return {name: place.subject(net, weights, shape) for name, (weights, net) in found.items()}


def _find(recipe: Recipe, setting: str, place: Place) -> tuple[str, str]:
    """The full hash and the net of the weights that a setting names."""
    begins = str(recipe.settings[setting])
    known = {w: d.net for d in place.ledger.all() if isinstance(d, TrainingRecord) for w in d.weights.values()}
    fitting = [w for w in known if w.startswith(begins)] if begins else []
    if len(fitting) != 1:
        what = f"{len(fitting)} weights begin so" if fitting else "the ledger has no such weights"
        hint = nearest(begins, [w[: max(7, len(begins))] for w in known]) if begins else ""
        raise UsageError(
            f"{recipe.name}({setting}={begins!r}): {what}; give the beginning of a hash on the board{hint}"
        )
    return fitting[0], known[fitting[0]]
