"""A real Chromium, in which every request and every complaint is noted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)
PATIENCE = 120_000  # milliseconds: other tests have the cores, too


@dataclass
class Visit:
    """A page, and what was seen of it.

    Attributes
    ----------
    page : Page
        Playwright's.
    home : str
        Address of the dashboard.
    requests : list of str
        Addresses that were asked for.
    complaints : list of str
        What the console had to say, and errors of scripts.
    """

    page: Page
    home: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def go(self, path: str) -> None:
        """Open a page of the dashboard."""
        answer = self.page.goto(self.home + path)
        assert answer is not None
        assert answer.ok, path

    def elsewhere(self) -> list[str]:
        """Return the requests that did not go to the dashboard."""
        return [url for url in self.requests if not url.startswith((self.home + "/", "data:"))]

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        wide: int = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        return wide


def chromium() -> str:
    """Return where Chromium is.

    A missing browser is a failure, not a pass, unless whoever runs the tests says otherwise.
    """
    if os.environ.get("FEDPRINT_WITHOUT_BROWSER") == "1":
        pytest.skip("FEDPRINT_WITHOUT_BROWSER=1: the dashboard was not tried in a browser")
    named = os.environ.get("FEDPRINT_BROWSER", "")
    found = named or next(filter(None, map(shutil.which, NAMES)), "")
    if not found:
        pytest.fail(
            "there is no Chromium: apt-get install chromium, name one in FEDPRINT_BROWSER, or set "
            "FEDPRINT_WITHOUT_BROWSER=1 to leave these tests out"
        )
    return found


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium without a window."""
    where = chromium()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=where, args=FLAGS, timeout=PATIENCE)
        try:
            yield started
        finally:
            started.close()


@contextmanager
def visiting(started: Browser, home: str, **options: object) -> Iterator[Visit]:
    """Open a window on a dashboard; requests to anywhere else are stopped, and noted."""
    context = started.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE)
    visit = Visit(context.new_page(), home)
    page = visit.page
    page.on("request", lambda request: visit.requests.append(request.url))
    page.on("console", lambda said: visit.complaints.append(f"{said.type}: {said.text}"))
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    context.route(
        lambda url: not url.startswith(home + "/"),
        lambda route: route.continue_() if route.request.url.startswith("data:") else route.abort(),
    )
    try:
        yield visit
    finally:
        context.close()
