"""The page as a browser shows it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from bench import Ledger

from .conftest import published
from .synthetic import ledger

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
def site(demo, tmp_path_factory):
    """The folder of the published site."""
    return published(demo, tmp_path_factory.mktemp("site")).parent


@pytest.fixture(scope="module")
def board(site):
    """The page of the board with most lines."""
    return max((site / "boards").glob("*.html"), key=lambda p: p.stat().st_size)


@pytest.fixture
def show(browser, board):
    """Opens a page; what it asked for and what went wrong are in `page.asked` and `page.wrong`."""
    contexts = []

    def opened(path=board, link="", **settings):
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.asked, page.wrong = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("console", lambda message: page.wrong.append(message.text))
        page.goto(path.as_uri() + link)
        return page

    yield opened
    for context in contexts:
        context.close()


def unfold(page):
    """Opens all that opens."""
    page.locator("main > details").evaluate_all("all => all.forEach(x => (x.open = true))")
    page.locator(".open input").evaluate_all("all => all.forEach(x => (x.checked = true))")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 1400), ("light", 360), ("dark", 360)])
def test_axe_finds_no_violation(show, site, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    for path in [None, site / "index.html"]:
        settings = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
        page = show(path, **settings) if path else show(**settings)
        unfold(page)
        if not path:
            page.locator(".picker summary").click()
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


def test_no_page_asks_for_anything_beyond_the_folder_and_nothing_goes_wrong(show, site):
    page = show()
    page.get_by_role("button", name="clean").first.click()
    for path in sorted(site.rglob("*.html")):
        page.goto(path.as_uri())
    page.wait_for_timeout(200)
    assert [url for url in page.asked if not url.startswith((site.as_uri() + "/", "data:"))] == []
    assert page.wrong == []


def column(page, name):
    """The numbers of a column, from the top; those that sort last as nothing."""
    texts = page.locator(f'tbody > tr:first-child > td[data-label="{name}"]')
    return [float(v) if v else None for v in texts.evaluate_all("cells => cells.map(c => c.dataset.sort)")]


def names(page):
    return page.locator("tbody:visible > tr:first-child > th .label").all_inner_texts()


def test_the_table_sorts_by_keyboard(show):
    page = show()
    before = page.locator("table.board tbody").count()
    assert page.locator("thead th[aria-sort]").all_inner_texts()[0].startswith("worst")
    header = page.get_by_role("columnheader", name="pgd-20")
    header.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    known = [x for x in column(page, "pgd-20") if x is not None]
    assert known == sorted(known, reverse=True) and len(known) > 5
    page.keyboard.press("Space")
    assert header.get_attribute("aria-sort") == "ascending"
    known = [x for x in column(page, "pgd-20") if x is not None]
    assert known == sorted(known)
    assert page.locator("[aria-sort]").count() == 1
    assert page.locator("table.board tbody").count() == before


def test_what_has_no_number_comes_last_in_either_direction(show):
    page = show()
    for _ in range(2):
        page.get_by_role("button", name="mma").click()
        missing = [x is None for x in column(page, "mma (not strict)")]
        assert missing == sorted(missing) and not all(missing) and any(missing)


def test_best_or_last_weights_can_be_chosen(show):
    page = show()
    rows = page.locator("table.board tbody")
    everything = rows.count()
    page.locator("[name=which]").select_option("best")
    assert rows.count() == everything - 1  # one training's last weights were examined beside its best
    page.locator("[name=which]").select_option("last")
    assert set(rows.evaluate_all("rows => rows.map(r => r.dataset.which)")) == {"last", "best = last", ""}


def test_search_filters_sorting_and_columns_are_kept_in_the_link(show, board):
    """What one reader sees, another sees who is sent the link; clear brings the page as it was."""
    page = show()
    fresh = names(page)
    page.get_by_label("search").fill("trades beta")
    page.get_by_role("button", name="fgsm", exact=True).click()
    page.get_by_role("button", name="fgsm", exact=True).click()
    page.locator(".picker summary").click()
    page.get_by_role("checkbox", name="seed", exact=True).uncheck()
    page.get_by_role("checkbox", name="multiply-adds").check()
    seen, link = names(page), page.evaluate("location.hash")
    assert {x.split("(")[0] for x in seen} == {"trades"} and page.locator("output").inner_text().startswith("2 of")
    other = show(board, link)
    assert names(other) == seen and other.evaluate("location.hash") == link
    assert other.get_by_role("columnheader", name="fgsm", exact=True).get_attribute("aria-sort") == "ascending"
    assert not other.get_by_role("columnheader", name="seed").is_visible()
    assert other.get_by_role("columnheader", name="multiply-adds").is_visible()
    other.get_by_role("button", name="clear").click()
    assert names(other) == fresh and other.evaluate("location.hash") == ""
    assert other.get_by_role("columnheader", name="seed").is_visible()
    assert page.wrong == other.wrong == []


@pytest.mark.parametrize(
    "link", ["#q=%00%E2%80%AE&sort=-nothing&hide=&net=none", "#<script>alert(1)</script>", "#%", "#l1"]
)
def test_a_link_that_makes_no_sense_shows_the_board(show, board, link):
    page = show(board, link)
    assert page.wrong == [] and page.get_by_role("columnheader", name="worst").is_visible()


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
    page.goto(published(writer.ledger, tmp_path / "site").as_uri())
    unfold(page)
    assert page.locator("html").evaluate("e => e.scrollWidth") == width
    page.close()


@pytest.mark.parametrize("scripts", [True, False])
def test_a_phone_shows_all_without_sideways_scrolling(show, site, scripts):
    page = show(viewport={"width": 360, "height": 740}, java_script_enabled=scripts)
    unfold(page)
    assert not scripts or page.locator("html").evaluate("e => e.scrollWidth") == 360
    parts = page.locator(".board td.number, .board tbody th, .doubts, h1, .answer")
    boxes = parts.evaluate_all("all => all.map(x => x.getBoundingClientRect()).map(b => [b.left, b.right, b.height])")
    shown = [(left, right) for left, right, height in boxes if height]
    assert len(shown) > 100 and all(left >= 0 and right <= 360.5 for left, right in shown)
    page.goto((site / "index.html").as_uri())
    assert page.locator("html").evaluate("e => e.scrollWidth") == 360 if scripts else True


@pytest.mark.parametrize("scripts", [True, False])
def test_seeds_open_below_their_mean(show, scripts):
    page = show(java_script_enabled=scripts)
    seeds = page.locator("tr.seed")
    assert seeds.count() == 3 and not any(row.is_visible() for row in seeds.all())
    page.get_by_role("checkbox", name="3 seeds").first.focus()
    page.keyboard.press("Space")
    assert all(row.is_visible() for row in seeds.all())
    if scripts:  # wherever the mean goes, its seeds follow
        page.get_by_role("button", name="defense", exact=True).click()
    group = page.locator("tr.group")
    assert (
        group.locator("xpath=following-sibling::tr").evaluate_all("rows => rows.map(r => r.className)") == ["seed"] * 3
    )


def test_the_page_says_everything_without_scripts(show):
    page = show(java_script_enabled=False)
    assert page.get_by_role("button").count() == 0 and page.get_by_role("combobox").count() == 0
    assert page.get_by_role("columnheader", name="worst").is_visible()
    assert len(names(page)) == page.locator("table.board tbody").count() > 8
    page.locator("summary#cost").click()
    assert page.get_by_text("pgd@1(keep='last', step=0.25, steps=20)").first.is_visible()


def test_marks_lie_on_the_scale_of_their_column(show):
    page = show(viewport={"width": 1600, "height": 900})
    unfold(page)
    for cell in page.locator("td.number:visible:not(.absent):not(.off)").all()[:40]:
        plot, at = (cell.locator(s).bounding_box() for s in (".plot", ".at"))
        start, end = cell.evaluate("c => ['--from', '--to'].map(n => Number(getComputedStyle(c).getPropertyValue(n)))")
        value = float(cell.locator(".accuracy").inner_text().strip("≤ "))
        expected = plot["x"] + (value - start) / (end - start) * plot["width"]
        assert at["x"] + at["width"] / 2 == pytest.approx(expected, abs=1)


def test_five_thousand_lines_are_filtered_and_sorted_at_once(browser, tmp_path):
    """On a quiet machine in 30 ms, layout included; here with room for a busy one."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    ledger(tmp_path / "ledger", rows=5000, attacks=1, images=20)
    page.goto(published(Ledger(tmp_path / "ledger"), tmp_path / "site").as_uri())
    assert page.locator("output").inner_text() == "5,000 lines"
    times = page.evaluate(TIMED)
    assert len(times) == 12 and sorted(times)[6] < 150, times
    page.get_by_label("search").fill("mart(steps=17)")
    assert page.locator("output").inner_text() == "1 of 5,000 lines"
    page.close()


TIMED = """() => {
  const times = [];
  const lap = (change) => {
    const start = performance.now();
    change();
    document.body.offsetHeight; // lays out
    times.push(performance.now() - start);
  };
  const buttons = [...document.querySelectorAll("thead button")];
  const sort = (name) => () => buttons.find((b) => b.textContent === name).click();
  for (const name of ["clean", "clean", "fgsm", "defense", "net", "worst"]) lap(sort(name));
  const search = document.querySelector("[name=q]");
  for (const text of ["t", "tr", "trades", "mart wrn", "none such", ""])
    lap(() => {
      search.value = text;
      search.dispatchEvent(new Event("input", { bubbles: true }));
    });
  return times;
}"""


@pytest.mark.parametrize("width", [1400, 360])
def test_pages_of_tables_and_files_are_accessible_and_fit_a_phone(show, site, width):
    """Published tables, figures of boards elsewhere, files for machines: axe finds nothing, and nothing runs over."""
    from axe_playwright_python.sync_playwright import Axe

    for name in ("parity.html", "parity/vir-1.html", "parity/part-cifar10-c.html", "machines.html", "reported.html"):
        page = show(site / name, viewport={"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.wrong == []
        found = Axe().run(page)
        assert found.violations_count == 0, f"{name}: {found.generate_report()}"


def test_what_cites_a_board_is_copied_by_its_button_and_by_hand_without_one(show, board):
    """What lands on the clipboard is the file beside the page; without scripts the same text stands there."""
    written = board.with_suffix(".bib").read_text()
    page = show(permissions=["clipboard-read", "clipboard-write"])
    page.locator(".formats summary", has_text="Cite it").click()
    page.get_by_role("button", name="Copy").first.click()
    page.get_by_text("Copied.").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == written
    plain = show(java_script_enabled=False)
    assert plain.locator(".formats pre").first.text_content() == written
