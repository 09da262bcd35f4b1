"""The dashboard in a real browser: opened, walked through by keyboard, looked at in all ways."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from fl_server.dashboard.sources import Sources
from fl_server.progress import Progress
from fl_server.report_data import read_run
from fl_server.runstate import locked
from tests.fl_server.dashboard.browsing import PATIENCE, Visit, browser, chromium, visiting
from tests.fl_server.dashboard.serving import serving

PAGES = (
    "/", "/run/trained", "/run/trained/map", "/run/trained/training", "/run/trained/privacy",
    "/run/trained/site/site-0-0", "/run/private", "/run/private/privacy", "/outcomes", "/pool",
)  # fmt: skip
CONTRAST = """
() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = light(getComputedStyle(document.body).backgroundColor);
  const poor = [];
  const spots = "h1, h2, h3, p, th, td, dt, dd, a, caption, li, summary, label";
  for (const spot of document.querySelectorAll(spots)) {
    if (!spot.textContent.trim()) continue;
    const ink = light(getComputedStyle(spot).color);
    const ratio = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    if (ratio < 4.5) poor.push(`${spot.tagName} ${spot.textContent.trim().slice(0, 30)} ${ratio}`);
  }
  return poor;
}
"""  # WCAG 2's contrast of words against the page


@pytest.fixture(scope="module", autouse=True)
def patience() -> None:
    expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def started() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def home(sources: Sources) -> Iterator[str]:
    with serving(sources) as address:
        yield address


@pytest.fixture
def visit(started: Browser, home: str) -> Iterator[Visit]:
    with visiting(started, home) as found:
        yield found
        assert found.complaints == []
        assert found.elsewhere() == []


def test_the_figures_of_a_run_are_shown(visit: Visit, runs: Path) -> None:
    metrics = json.loads((runs / "trained" / "metrics.json").read_text())["sites"]
    groups = json.loads((runs / "trained" / "groups.json").read_text())["groups"]
    data = read_run(runs / "trained")
    visit.go("/")
    page = visit.page
    page.get_by_role("link", name="trained").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("trained")
    table = page.get_by_role("table").filter(has=page.get_by_text("Each site has a page"))
    expect(table.get_by_role("row")).to_have_count(1 + len(metrics))
    for site, outcome in metrics.items():
        row = table.get_by_role("row").filter(has=page.get_by_role("link", name=site, exact=True))
        expect(row).to_contain_text(f"{100 * outcome['final']:.1f}\u00a0%")
    page.get_by_role("link", name="Map and groups").click()
    drawn = page.get_by_role("img", name="Map of the tasks")
    expect(drawn.locator("circle")).to_have_count(len(data.sites))
    colours = {
        dot.locator("title").text_content(): dot.get_attribute("fill")
        for dot in drawn.locator("circle").all()
    }
    for group in groups:
        assert len({colours[f"{site}, {group['name']}"] for site in group["sites"]}) == 1
    assert len(set(colours.values())) == len(groups)
    for name in ("Distances between sites, ordered by group", "Dendrogram of the sites"):
        expect(page.get_by_role("img", name=name)).to_be_visible()


def test_it_is_walked_through_by_keyboard(visit: Visit) -> None:
    visit.go("/")
    page, keys = visit.page, visit.page.keyboard
    keys.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    keys.press("Enter")
    expect(page.locator("main")).to_be_focused()
    keys.press("Tab")
    first = page.locator("main a").first
    expect(first).to_be_focused()
    assert first.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    keys.press("Enter")
    page.wait_for_url("**/run/*")
    links = page.get_by_role("navigation", name="This run").get_by_role("link")
    for _ in range(30):
        keys.press("Tab")
        if links.nth(1).evaluate("e => e === document.activeElement"):
            break
    keys.press("Enter")
    page.wait_for_url("**/map")
    current = page.get_by_role("navigation", name="This run").locator("[aria-current=page]")
    expect(current).to_have_text("Map and groups")
    summary = page.get_by_text("The map as a table")
    summary.focus()
    keys.press("Enter")
    expect(page.get_by_text("Places on the map")).to_be_visible()


def test_landmarks_and_captions(visit: Visit) -> None:
    for path in PAGES:
        visit.go(path)
        page = visit.page
        expect(page.get_by_role("main")).to_have_count(1)
        expect(page.get_by_role("navigation", name="Dashboard")).to_have_count(1)
        for table in page.locator("table").all():
            assert table.locator("caption").count() == 1, path
        for drawn in page.locator("figure svg").all():
            assert drawn.locator(":scope > title").text_content(), path
            assert drawn.locator(":scope > desc").text_content(), path


def test_searching_the_pool(visit: Visit) -> None:
    visit.go("/pool")
    page = visit.page
    page.get_by_role("searchbox").fill("site-1")
    page.keyboard.press("Enter")
    expect(page.get_by_text("2 of 5 tasks.")).to_be_visible()
    page.get_by_role("link", name="site-1-0").click()
    expect(page.get_by_role("heading", name="Nearest tasks")).to_be_visible()
    page.get_by_role("link", name="What to try on it").click()
    expect(page.get_by_role("heading", name="co-training")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read_in_light_and_dark(started: Browser, home: str, scheme: str) -> None:
    with visiting(started, home, color_scheme=scheme) as visit:
        for path in PAGES:
            visit.go(path)
            ground = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
            assert visit.page.evaluate(CONTRAST) == [], path


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_no_page_is_wider_than_its_window(started: Browser, home: str, width: int) -> None:
    with visiting(started, home, viewport={"width": width, "height": 740}) as visit:
        for path in PAGES:
            visit.go(path)
            assert visit.overflow() <= 0, path


def test_on_paper_there_is_no_navigation_and_nothing_is_cut_off(
    started: Browser, home: str
) -> None:
    paper = {"width": 703, "height": 1000}  # A4 less the margins, at 96 dots an inch
    with visiting(started, home, viewport=paper, color_scheme="dark") as visit:
        visit.page.emulate_media(media="print")
        for path in PAGES:
            visit.go(path)
            assert visit.overflow() <= 0, path
            expect(visit.page.get_by_role("navigation", name="Dashboard")).to_be_hidden()
            ground = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert ground == "rgb(255, 255, 255)"
            for drawn in visit.page.locator("figure svg").all():
                box = drawn.bounding_box()
                assert box is not None
                assert box["x"] + box["width"] <= 703, path
        assert visit.page.pdf(prefer_css_page_size=True).startswith(b"%PDF")


def test_a_live_run_is_followed_without_a_reload(started: Browser, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "new"
    progress = Progress(run, "r")
    with serving(Sources(tmp_path / "runs")) as address, visiting(started, address) as visit:
        page = visit.page
        with locked(run):
            progress.phase("fingerprints", ["north", "south"], 600)
            visit.go("/run/new")
            page.evaluate("window.untouched = true")
            expect(page.get_by_text("0 of 2 answered")).to_be_visible()
            progress.done("north")
            expect(page.get_by_text("1 of 2 answered")).to_be_visible()
            progress.lost("south", "no-reply", "<b>gone</b>")
            expect(page.get_by_role("cell", name="no-reply: <b>gone</b>").first).to_be_visible()
            progress.phase("train alone", ["north"])
            expect(page.locator("[data-fact=phase]")).to_have_text("train alone")
            assert page.evaluate("window.untouched")
            progress.finish("finished")
        expect(page.locator("[data-fact=state]")).not_to_have_text("running")
        page.wait_for_function("window.untouched === undefined")  # over: loaded once more
        expect(page.locator("[data-live]")).to_have_count(0)
        assert visit.complaints == []
        assert visit.elsewhere() == []


def test_without_scripts_the_page_loads_itself_again(started: Browser, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "new"
    progress = Progress(run, "r")
    with (
        serving(Sources(tmp_path / "runs")) as address,
        visiting(started, address, java_script_enabled=False) as visit,
        locked(run),
    ):
        progress.phase("connect", ["north"])
        visit.go("/run/new")
        progress.phase("fingerprints", ["north"])
        expect(visit.page.locator("[data-fact=phase]")).to_have_text("fingerprints")


def test_a_token_is_asked_for_once(started: Browser, sources: Sources) -> None:
    token = "a-token-of-more-than-sixteen-letters"
    with serving(sources, token) as address, visiting(started, address) as visit:
        page = visit.page
        page.goto(address + "/")
        expect(page.get_by_role("heading")).to_have_text("This dashboard wants a token")
        page.get_by_label("Token").fill(token)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Runs")
        assert token not in page.url
        assert page.evaluate("document.cookie") == ""
        visit.go("/run/trained")


def test_a_missing_browser_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FEDPRINT_BROWSER", "FEDPRINT_WITHOUT_BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(pytest.fail.Exception, match=r"^there is no Chromium: apt-get install"):
        chromium()
    monkeypatch.setenv("FEDPRINT_WITHOUT_BROWSER", "1")
    with pytest.raises(pytest.skip.Exception):
        chromium()
