"""Rows that are not trusted, as a browser shows them."""

from __future__ import annotations

import pytest

from bench import Ledger
from leaderboard.site import publish

from .conftest import Writer
from .test_pages_shown import browser  # noqa: F401  a fixture
from .test_trust import exam

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A board with honest models, one that was asked more, and two that are not trusted."""
    writer = Writer(Ledger(tmp_path_factory.mktemp("trust") / "ledger"))
    for name, fell, probe, codes in (
        ("honest", range(40), None, ()), ("better", range(30), None, ()), ("probed", [], range(65), ("underflow",)),
        ("masked", [], None, ("flat", "rough")), ("changes", range(10), None, ("state",)),
    ):  # fmt: skip
        exam(writer, name, fell, probe)
        writer.check(name, *codes, figures={"gradient_honesty": 1.0, "zero_gradients_of_margin": 0.4, "float64": 1.0})
    made = tmp_path_factory.mktemp("site")
    publish(writer.ledger, made)
    return made


@pytest.fixture
def show(browser, folder):  # noqa: F811
    """Opens a page of it; what went wrong is in `page.wrong`."""
    contexts = []

    def opened(path, **settings):
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.wrong = []
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("console", lambda message: page.wrong.append(message.text))
        page.goto((folder / path).as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()


def names(page):
    return page.locator(".board tbody > tr:first-child > th .label").all_inner_texts()


def test_they_stay_below_the_others_however_the_board_is_sorted(show):
    page = show("index.html", viewport={"width": 1600, "height": 900})
    assert names(page) == ["better", "honest", "probed", "masked", "changes"]
    for column in ("pgd", "worst", "defense", "rank", "honest gradients"):
        for _ in range(2):
            page.locator("thead button", has_text=column).first.click()
            assert set(names(page)[3:]) == {"masked", "changes"}, column
    ranks = page.locator(".board tbody.apart .rank").all_inner_texts()
    assert [" ".join(r.split()) for r in ranks] == ["not trusted"] * 2
    assert page.wrong == []


def test_the_evidence_is_one_click_away(show):
    page = show("index.html", viewport={"width": 1600, "height": 900})
    page.locator("tbody.apart", has_text="masked").locator("a", has_text="why it is not trusted").click()
    assert page.url.endswith("#doubts")
    said = page.locator(".caution").inner_text()
    assert "Not trusted" in said and "probe-blind was not asked" in said and "images 3, 5" in said


@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 360)])
def test_axe_finds_nothing(show, folder, scheme, width):
    """The board, the page of a model that is not trusted, and the method."""
    from axe_playwright_python.sync_playwright import Axe

    model = next(p for p in folder.glob("models/masked*.html"))
    for path in ("index.html", f"models/{model.name}", "method.html"):
        page = show(path, color_scheme=scheme, viewport={"width": width, "height": 800})
        page.locator("details").evaluate_all("all => all.forEach(x => (x.open = true))")
        assert page.wrong == []
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
