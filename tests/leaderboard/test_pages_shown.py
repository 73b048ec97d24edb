"""The pages about one thing as a browser shows them."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from leaderboard.evidence import WORST
from leaderboard.pairs import Pair
from leaderboard.site import publish

pytestmark = pytest.mark.browser

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("BENCH_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), "/usr/bin/chromium")
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-default-apps", "--disable-extensions", "--no-first-run", "--disable-dev-shm-usage",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    if not Path(CHROMIUM).exists():
        pytest.fail(f"there is no browser at {CHROMIUM}: run `make chromium`, or set BENCH_CHROMIUM to one")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def published(demo, tmp_path_factory):
    """The site of the demonstration ledger, and the folder that it lies in."""
    folder = tmp_path_factory.mktemp("site")
    return publish(demo, folder), folder


@pytest.fixture
def show(browser, published):
    """Opens a page; what it asked for and what went wrong are in `page.asked` and `page.wrong`."""
    contexts = []

    def opened(path, fragment="", **settings):
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.asked, page.wrong = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("console", lambda message: page.wrong.append(message.text))
        page.goto((published[1] / path).as_uri() + fragment)
        return page

    yield opened
    for context in contexts:
        context.close()


def attacked(site):
    """The board with most columns."""
    return max((s for s in site.board.sections if s.summary == WORST), key=lambda s: len(s.heads))


def telling(site):
    """One page of each kind, the fullest."""
    section = attacked(site)
    row = next(r for r in section.rows if r.maker.defense == "part-trades")
    key = (section.test, section.threat or "", section.condition)
    return {
        "model": site.path("model", row.net_key, row.weights), "attack": site.path("attack", "fgsm@1()"),
        "data": site.path("data", section.test), "method": "method.html",
        "optimality": "optimality.html", "compare": site.path("compare", *key), "plots": site.path("plots", *key),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["model", "attack", "data", "compare", "plots", "method", "optimality"])
def test_axe_finds_nothing_and_nothing_goes_wrong(show, published, kind):
    """Light on a desk and dark on a phone, with everything open; no request beyond the site, no line on the console."""
    from axe_playwright_python.sync_playwright import Axe

    for scheme, width in (("light", 1400), ("dark", 360)):
        page = show(telling(published[0])[kind], color_scheme=scheme, viewport={"width": width, "height": 800})
        page.locator("details").evaluate_all("all => all.forEach(x => (x.open = true))")
        assert page.wrong == []
        assert all(url.startswith(published[1].as_uri()) for url in page.asked)
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        found = Axe().run(page)  # it asks for the styles itself, which the policy refuses: so it comes last
        assert found.violations_count == 0, found.generate_report()


def test_labels_do_not_overlap_as_they_are_drawn(show, published):
    """No two texts of one drawing touch, by the boxes that the browser gives them."""
    for kind in ("model", "plots", "data"):
        page = show(telling(published[0])[kind], viewport={"width": 1400, "height": 800})
        overlaps = page.locator(".drawing svg").evaluate_all("""all => all.flatMap(svg => {
          const boxes = [...svg.querySelectorAll("text")].map(t => [t.textContent, t.getBoundingClientRect()]);
          return boxes.flatMap(([a, p], i) => boxes.slice(i + 1).filter(([, q]) =>
            Math.min(p.right, q.right) - Math.max(p.left, q.left) > 1
            && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 4).map(([b]) => [a, b]));
        })""")
        assert overlaps == []


def test_a_pair_is_tested_as_python_tests_it(show, published):
    """The counts, the p-value, and the choice in the link, which brings it back."""
    site, _ = published
    section = attacked(site)
    rows = {r.weights[:12]: r for r in section.rows}
    path = telling(site)["compare"]
    names = [r.weights[:12] for r in section.rows if not r.evidence.columns[WORST].bound]
    for a, b in ((names[0], names[1]), (names[0], names[-1]), (names[2], names[5])):
        page = show(path, f"#a={a}&b={b}&column=worst")
        pair = Pair.of(rows[a].evidence.columns[WORST], rows[b].evidence.columns[WORST])
        told = [int(page.locator(f"[data-of={x}-only]").inner_text().replace(",", "")) for x in "ab"]
        assert told == [pair.first, pair.second]
        said = page.locator("#answer").inner_text()
        matched = re.search(r"p = ([\d.e-]+)\.$", said)
        if pair.p_value < 1e-4:
            assert "p is below 0.0001" in said
        else:
            assert float(matched[1]) == pytest.approx(pair.p_value, rel=0.06)
        page.locator("#second").select_option(index=0)
        assert f"a={a}" in page.url and f"b={page.evaluate('globalThis.compared.models[0].id')}" in page.url


def test_without_scripts_every_pair_of_the_best_is_there(show, published):
    """The table of pairs needs none, and the choices, which would do nothing, are hidden."""
    page = show(telling(published[0])["compare"], java_script_enabled=False)
    assert page.locator("table.pairs tbody tr").count() > 1
    assert not page.locator("#pair").is_visible()
