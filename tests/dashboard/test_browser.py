"""The page in a real browser: what it shows, what it does, and that it keeps to itself."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from neatstack.experiment.netns import Lab
from tests.dashboard.support import Dashboard, dashboard
from tests.support.fake_stack import FakeStack
from tools.browser import Browser, browser
from tools.load import busy_stack

LIMIT = 20.0  # seconds for something to be seen
EVIL = '<img src="x" onerror="document.title=1"><script>document.title=2</script>'


class Page:
    """The dashboard's page, in the words of who looks at it."""

    def __init__(self, driver: Browser, url: str) -> None:
        self.driver, self.url = driver, url
        driver.complaints()
        driver.requested()
        driver.get(url)
        self.until(lambda: self.text("#live-text") == "live" and self.all("#replica-rows tr"))

    def until(self, true: Callable[[], Any], limit: float = LIMIT) -> Any:
        return WebDriverWait(self.driver, limit, 0.05, [StaleElementReferenceException]).until(lambda _: true())

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        found = self.all(selector)
        return found[0].text if found else ""

    def texts(self, selector: str) -> list[str]:
        """Of all in one step: the page may change meanwhile."""
        return self.driver.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)", selector
        )

    def click(self, selector: str) -> None:
        self.all(selector)[0].click()

    def cell(self, replica: int, name: str) -> str:
        return self.texts(f'#replica-rows tr[data-key="{replica}"] [data-cell="{name}"]')[0]

    def tile(self, name: str) -> str:
        return self.texts(f'#tiles [data-key="{name}"] dd')[0]

    def owners(self) -> set[str]:
        """The replicas in the map of buckets, as it is coloured and as it is written."""
        cells = self.driver.execute_script(
            "return [...document.querySelectorAll('#map > span')].map(c => [c.dataset.slot, c.textContent])"
        )
        assert len(cells) in (0, 256) and all(slot == text for slot, text in cells)
        return {slot for slot, _ in cells}

    def act(self, button: str) -> str:
        """Press it, confirm, and wait for what is said."""
        self.click(button)
        self.until(lambda: self.all("dialog[open]"))
        self.driver.execute_script("document.getElementById('said').hidden = true")  # what was said before
        self.click("#ask-yes")
        return self.until(lambda: self.all('#said:not([hidden]):not([data-state="waiting"])') and self.text("#said"))

    def kept_to_itself(self) -> None:
        """Nothing is wrong, and nothing was asked of anybody else."""
        assert self.driver.complaints() == []
        requested = self.driver.requested()
        assert requested and all(url.startswith(self.url) for url in requested), requested


@pytest.fixture(scope="module")
def driver() -> Iterator[Browser]:
    with browser() as made:
        made.resize(1400, 1600)
        yield made


@pytest.fixture
def page(driver: Browser, board: Dashboard) -> Page:
    return Page(driver, board.url)


class TestFake:
    def test_what_it_shows(self, page: Page, fake: FakeStack) -> None:
        assert page.text("#name") == "web"
        assert "10.77.0.2/24" in page.text("#where") and "version 0.1.0" in page.text("#where")
        assert (page.tile("active replicas"), page.tile("wrong replica"), page.tile("pins")) == ("2", "0", "3")
        assert page.owners() == {"0", "1"}
        assert "replica 0: 128, replica 1: 128" in page.all("#map")[0].get_attribute("aria-label")
        assert (page.cell(0, "state"), page.cell(1, "connections"), page.cell(1, "pins")) == ("running", "16", "3")
        page.until(lambda: page.cell(0, "requests").startswith(("9", "1,0")))
        before = page.text("#where")
        page.until(lambda: page.text("#where") != before)
        shares = page.all('#shares [aria-label^="requests/s"]')[0].get_attribute("aria-label")
        assert "33 %" in shares and "67 %" in shares
        page.kept_to_itself()

    def test_charts_are_drawn(self, page: Page, driver: Browser) -> None:
        count = "const c = arguments[0], d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        count += "return new Set(new Uint32Array(d.buffer)).size"
        canvases = page.all("canvas")
        assert len(canvases) == 3
        for canvas in canvases:
            page.until(lambda canvas=canvas: driver.execute_script(count, canvas) > 20)

    def test_text_of_strangers_is_text(self, page: Page, driver: Browser, fake: FakeStack) -> None:
        fake.happen("crash", 0, EVIL, gap_ms=1.0)
        fake.happen(EVIL, 1, "an event of a kind that we do not know")
        page.until(lambda: EVIL in page.texts("#event-rows td"))
        assert EVIL in page.all(".mark[aria-label*='onerror']")[0].get_attribute("aria-label")
        assert not page.all("main img") and driver.title == "web · NEaT"
        page.kept_to_itself()

    def test_killing(self, page: Page, fake: FakeStack) -> None:
        before, incarnation = len(fake.requests), int(page.cell(0, "incarnation"))
        button = '[data-key="0"] [data-action="kill"]'
        page.click(button)
        assert "Kill replica 0?" in page.text("#ask-title") and "16 connections" in page.text("#ask-text")
        page.click("#ask-no")
        assert len(fake.requests) == before
        assert page.act(button) == "killed replica 0 (pid 1000)"
        page.until(lambda: page.cell(0, "incarnation") == str(incarnation + 1))
        mark = page.until(lambda: page.all('.axis .mark[data-kind="crash"][aria-label*="SIGKILL"]'))[0]
        assert "gap 1.25 ms" in mark.get_attribute("aria-label") and "1.25 ms" in mark.text
        row = page.texts('#event-rows tr[data-kind="crash"]')[0]
        assert "replica 0 was killed by SIGKILL" in row and "1.25 ms" in row
        page.driver.execute_script("arguments[0].focus()", mark)
        assert "connections kept" in page.text("#tip") and "16" in page.text("#tip")

    def test_scaling_and_rejuvenation(self, page: Page) -> None:
        assert page.act("#more") == "scaled from 2 to 3 replicas in 12 ms"
        page.until(lambda: page.owners() == {"0", "1", "2"} and len(page.all("#replica-rows tr")) == 3)
        assert page.act("#rejuvenate").startswith("rejuvenated 3 replicas; longest gap 0.9 ms")
        assert page.act("#fewer") == "scaled from 3 to 2 replicas in 12 ms"
        page.until(lambda: page.owners() == {"0", "1"})
        kinds = {mark.get_attribute("data-kind") for mark in page.all(".axis .mark")}
        assert {"scale_up", "scale_down", "rejuvenation"} <= kinds

    def test_a_refusal_is_shown(self, page: Page, fake: FakeStack) -> None:
        fake.replies["rejuvenate"] = {"error": "a scaling is under way; try again"}
        try:
            assert page.act("#rejuvenate") == "a scaling is under way; try again"
        finally:
            fake.replies.clear()
        assert page.all('#said[data-state="refused"]')

    def test_a_manager_that_restarts(self, page: Page, fake: FakeStack) -> None:
        fake.be_silent()
        page.until(lambda: "is not there" in page.text("#problem"))
        assert page.text("#live-text") == "no answer"
        assert not any(button.is_enabled() for button in page.all("#replica-rows button"))
        fake.answer()
        page.until(lambda: page.text("#live-text") == "live" and not page.text("#problem"))

    def test_a_dashboard_that_hangs_or_ends(self, driver: Browser, fake: FakeStack) -> None:
        with dashboard(fake.root) as own:
            page = Page(driver, own.url)
            own.process.send_signal(signal.SIGSTOP)
            try:
                page.until(lambda: "dashboard does not answer" in page.text("#problem"))
            finally:
                own.process.send_signal(signal.SIGCONT)
            page.until(lambda: page.text("#live-text") == "live" and not page.text("#problem"))
        page.until(lambda: "dashboard does not answer" in page.text("#problem"))
        with dashboard(fake.root, listen=f"127.0.0.1:{own.port}"):
            page.until(lambda: page.text("#live-text") == "live" and not page.text("#problem"))

    def test_schemes_and_sizes(self, page: Page, driver: Browser) -> None:
        grounds = set()
        for scheme, (width, height) in itertools.product(("light", "dark"), ((1400, 1600), (700, 900), (360, 700))):
            driver.prefer(scheme)
            driver.resize(width, height)
            page.until(
                lambda width=width: driver.execute_script("return document.documentElement.scrollWidth") == width
            )
            grounds.add(driver.execute_script("return getComputedStyle(document.body).backgroundColor"))
        driver.prefer("light")
        driver.resize(1400, 1600)
        assert len(grounds) == 2

    def test_everything_to_press_has_a_name(self, page: Page) -> None:
        for button in page.all("button"):
            assert button.accessible_name or not button.is_displayed()


@pytest.mark.heavy
def test_a_real_stack(lab: Lab, driver: Browser) -> None:
    """Two replicas under load, one of which is killed in the page."""
    with lab.scope():
        stack = busy_stack(lab, replicas=2, seconds=90)
        with dashboard(stack.run_dir) as board:
            page = Page(driver, board.url)
            assert page.text("#name") == stack.name
            page.until(lambda: page.owners() == {"0", "1"})
            for replica in (0, 1):
                page.until(lambda replica=replica: int(page.cell(replica, "connections")) > 0)
                rate = page.until(lambda replica=replica: float(page.cell(replica, "bytes").strip("–") or 0))
                page.until(lambda replica=replica, rate=rate: float(page.cell(replica, "bytes")) != rate)
            pid, incarnation = stack.replicas()[0]["pid"], int(page.cell(0, "incarnation"))
            assert page.act('[data-key="0"] [data-action="kill"]') == f"killed replica 0 (pid {pid})"
            page.until(lambda: int(page.cell(0, "incarnation")) > incarnation and page.cell(0, "state") == "running")
            mark = page.until(lambda: page.all('.axis .mark[data-kind="crash"]'))[0]
            assert " ms" in mark.text and "0 connections lost" in mark.get_attribute("aria-label")
            assert " ms" in page.texts('#event-rows tr[data-kind="crash"]')[0]
            assert page.tile("wrong replica") == "0"
            assert stack.replicas()[0]["pid"] != pid
            page.kept_to_itself()
