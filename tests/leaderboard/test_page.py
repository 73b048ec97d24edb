"""The page as a browser shows it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

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
def address(demo, tmp_path_factory):
    """Where the published page lies."""
    return publish(demo, tmp_path_factory.mktemp("site")).as_uri()


@pytest.fixture
def show(browser, address):
    """Opens the published page; what it asked for and what went wrong are in `page.asked` and `page.wrong`."""
    contexts = []

    def opened(**settings):
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.asked, page.wrong = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("console", lambda message: page.wrong.append(message.text))
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()


def unfold(page):
    """Opens all that opens."""
    page.locator("details").evaluate_all("all => all.forEach(x => (x.open = true))")
    page.locator(".open input").evaluate_all("all => all.forEach(x => (x.checked = true))")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_axe_finds_no_violation(show, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    page = show(color_scheme=scheme, viewport={"width": width, "height": 800})
    unfold(page)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_nothing_is_requested_and_nothing_goes_wrong(show):
    page = show()
    page.get_by_role("button", name="clean").first.click()
    page.wait_for_timeout(200)
    assert [url for url in page.asked if not url.startswith(("file:", "data:"))] == []
    assert [url for url in page.asked if url.startswith("file:")] == [page.url]
    assert page.wrong == []


def column(page, name):
    """The numbers of a column of the first table, from the top; those that sort last as nothing."""
    texts = page.locator("table.board").first.locator(f'tbody > tr:first-child > td[data-label="{name}"]')
    return [float(v) if v else None for v in texts.evaluate_all("cells => cells.map(c => c.dataset.sort)")]


def test_the_table_sorts_by_keyboard(show):
    page = show()
    table = page.locator("table.board").first
    before = table.locator("tbody").count()
    assert table.locator("thead th[aria-sort]").all_inner_texts()[0].startswith("worst")
    header = table.get_by_role("columnheader", name="pgd-20")
    button = header.get_by_role("button")
    button.focus()
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    known = [x for x in column(page, "pgd-20") if x is not None]
    assert known == sorted(known, reverse=True) and len(known) > 5
    page.keyboard.press("Space")
    assert header.get_attribute("aria-sort") == "ascending"
    known = [x for x in column(page, "pgd-20") if x is not None]
    assert known == sorted(known)
    assert table.locator("[aria-sort]").count() == 1
    assert table.locator("tbody").count() == before


def test_what_has_no_number_comes_last_in_either_direction(show):
    page = show()
    button = page.locator("table.board").first.get_by_role("button", name="mma")
    for _ in range(2):
        button.click()
        missing = [x is None for x in column(page, "mma (not strict)")]
        assert missing == sorted(missing) and not all(missing) and any(missing)


def test_best_or_last_weights_can_be_chosen(show):
    page = show()
    rows = page.locator("table.board").first.locator("tbody:visible")
    everything = rows.count()
    page.get_by_role("radio", name="best").check()
    assert rows.count() == everything - 1  # one training's last weights were examined beside its best
    page.get_by_role("radio", name="last").check()
    kinds = set(rows.evaluate_all("rows => rows.map(r => r.dataset.which)"))
    assert kinds == {"last", "best = last", ""}


@pytest.mark.parametrize("width", [360, 1400])
def test_names_of_any_length_keep_their_place(browser, writer, tmp_path, width):
    long, wide = "x" * 3000, "<b>" * 300
    writer.dataset = writer.machine = long
    for name in (long, wide):
        writer.column(name, f"{name}@1()")
        writer.training(name, name, net_label=wide)
        writer.cell(name, "clean@1()", range(4))
        writer.cell(name, f"{name}@1()", range(4), [0], doubts=[long])
    page = browser.new_page(viewport={"width": width, "height": 740})
    page.goto(publish(writer.ledger, tmp_path / "site").as_uri())
    unfold(page)
    assert page.locator("html").evaluate("e => e.scrollWidth") == width
    page.close()


@pytest.mark.parametrize("scripts", [True, False])
def test_a_phone_shows_all_without_sideways_scrolling(show, scripts):
    page = show(viewport={"width": 360, "height": 740}, java_script_enabled=scripts)
    unfold(page)
    width = page.locator("html").evaluate("e => e.scrollWidth") if scripts else None
    assert width in {None, 360}
    parts = page.locator(".board td.number, .board tbody th, .doubts, h2, .history svg, .history p")
    boxes = parts.evaluate_all("all => all.map(x => x.getBoundingClientRect()).map(b => [b.left, b.right, b.height])")
    shown = [(left, right) for left, right, height in boxes if height]
    assert len(shown) > 200 and all(left >= 0 and right <= 360.5 for left, right in shown)


@pytest.mark.parametrize("scripts", [True, False])
def test_seeds_open_below_their_mean(show, scripts):
    page = show(java_script_enabled=scripts)
    seeds = page.locator("table.board").first.locator("tr.seed")
    assert seeds.count() == 3 and not any(row.is_visible() for row in seeds.all())
    page.get_by_role("checkbox", name="3 seeds").first.focus()
    page.keyboard.press("Space")
    assert all(row.is_visible() for row in seeds.all())
    if scripts:  # wherever the mean goes, its seeds follow
        page.locator("table.board").first.get_by_role("button", name="defense").click()
    group = page.locator("table.board").first.locator("tr.group")
    assert (
        group.locator("xpath=following-sibling::tr").evaluate_all("rows => rows.map(r => r.className)") == ["seed"] * 3
    )


def test_the_time_of_a_training_leads_to_its_figure(show):
    page = show()
    figure = page.locator("figure.history").first
    assert not figure.is_visible()
    page.locator(f'a[href="#{figure.get_attribute("id")}"]').first.click()
    assert figure.is_visible()


def test_the_page_says_everything_without_scripts(show):
    page = show(java_script_enabled=False)
    assert page.locator("table.board").count() == 3
    assert page.get_by_role("button").count() == 0
    assert page.get_by_role("radio").count() == 0
    assert page.get_by_role("columnheader", name="worst").first.is_visible()
    page.locator("summary").first.click()
    assert page.get_by_text("pgd@1(keep='last', step=0.25, steps=20)").first.is_visible()


def test_marks_lie_on_the_scale_of_their_column(show):
    page = show(viewport={"width": 1600, "height": 900})
    unfold(page)
    for cell in page.locator("td.number:not(.absent):not(.off)").all()[:40]:
        plot, at = (cell.locator(s).bounding_box() for s in (".plot", ".at"))
        start, end, value = cell.evaluate(
            "c => ['--from', '--to', '--at'].map(n => Number(getComputedStyle(c).getPropertyValue(n)))"
        )
        expected = plot["x"] + (value - start) / (end - start) * plot["width"]
        assert at["x"] + 1 == pytest.approx(expected, abs=1)
