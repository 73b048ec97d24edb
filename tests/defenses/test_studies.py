"""The studies that come with the code: every name in them is found, and the figures are the papers'."""

from __future__ import annotations

import pytest

from bench import Study, ThreatModel
from bench.registry import plugins, split_recipe
from defenses.studies import LINEAR_STUDY, MNIST_STUDY, QUARTERS, RESTRICTED_STUDY

REGISTRY = plugins()
STUDIES = [study for study in REGISTRY.all("study") if isinstance(study, Study)]


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_every_name_of_a_study_is_found(study):
    """Its data set, net, column and recipes with all their settings; its main eps are among those trained for."""
    dataset, net = REGISTRY.parse("dataset", study.dataset), REGISTRY.parse("net", study.net)
    assert REGISTRY.column(study.column).attacks
    assert "train_images" in dataset.settings or [size for size, _, _ in study.sizes] == [0]
    for size, standard, robust in study.sizes:
        assert size >= 0
        for text, name in ((standard, "standard"), (robust, "at")):
            recipe, _ = REGISTRY.parse_defense(text, dataset.name, net.name, without=("eps",))
            assert recipe.name == name
            assert all(drop <= recipe.settings["epochs"] for drop in recipe.settings["drops"])
    assert {norm for norm, _ in study.eps} == {norm for norm, _ in study.main}
    for norm, eps in study.main:
        assert eps in dict(study.eps)[norm]
        assert all(ThreatModel.parse(f"{norm}:{e}").eps > 0 for e in dict(study.eps)[norm])


def test_regions_are_recipes_of_part():
    """The first has the whole budget everywhere, the others less on a quarter each."""
    found = [
        REGISTRY.parse("defense", recipe.format(low=0.5, settings="epochs=3")).settings
        for _, recipe in QUARTERS.recipes
    ]
    assert [(s["mask"], s["low"]) for s in found] == [("none", 1.0), *((name, 0.5) for name, _ in QUARTERS.recipes[1:])]
    assert all(s["warm_up"] == 0 and s["epochs"] == 3 for s in found)


def test_restricted_imagenet_sees_as_many_images_as_in_the_authors_code():
    """33 epochs of about 257,000 images are 110 of 300 steps of 256; the rate falls at the same shares."""
    settings = split_recipe(RESTRICTED_STUDY.sizes[0][2])[2]
    assert settings["epochs"] * 257_000 == pytest.approx(110 * 300 * 256, rel=0.02)
    falls = [30, 60, 85, 95, 105]
    for ours, theirs in zip(settings["drops"], falls, strict=True):
        assert (ours - 1) / settings["epochs"] == pytest.approx(theirs / 110, abs=0.02)
    assert (settings["steps"], dict(RESTRICTED_STUDY.main)) == (8, {"linf": "0.005", "l2": "1.0"})


def test_smaller_training_sets_are_passed_more_often():
    """Of MNIST's: fewer images, more epochs, and eps grows over the same share of them."""
    sizes = [size or 59_000 for size, _, _ in MNIST_STUDY.sizes]
    settings = [split_recipe(robust)[2] for _, _, robust in MNIST_STUDY.sizes]
    epochs = [s.get("epochs", 4) for s in settings]
    assert sizes == sorted(sizes, reverse=True) and epochs == sorted(epochs)
    assert all(s.get("ramp", 1.0) == e / 4 for s, e in zip(settings, epochs, strict=True))


def test_one_step_is_the_best_against_a_linear_model():
    """Of a linear model the gradient is the same everywhere, so the inner attack is one step of eps from the image."""
    settings = split_recipe(LINEAR_STUDY.sizes[0][2])[2]
    assert (settings["steps"], settings["step"], settings["start"]) == (1, 1.0, "centre")
