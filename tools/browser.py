"""Chromium without a window, for the dashboard's test and its screenshots. It reaches this host and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-breakpad"),
    *("--disable-default-apps", "--disable-extensions", "--disable-domain-reliability", "--no-pings"),
    "--metrics-recording-only",  # and nothing sent
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)
PATIENCE = 30  # seconds for a page


class Browser(webdriver.Chrome):
    """One page at a time."""

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        """The size of the page itself, in CSS pixels; each is `scale` pixels wide in a screenshot."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def prefer(self, scheme: str) -> None:
        """light or dark"""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def complaints(self) -> list[str]:
        """What the console has shown since the last call."""
        return [entry["message"] for entry in self.get_log("browser")]

    def requested(self) -> list[str]:
        """The URLs that pages have asked for since the last call."""
        events = (json.loads(entry["message"])["message"] for entry in self.get_log("performance"))
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [each["request"]["url"] for each in sent]


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser with a profile of its own, which ends with the block. Raises FileNotFoundError where there is none."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        raise FileNotFoundError("chromium and chromedriver: apt-get install chromium chromium-driver")
    options = Options()
    options.binary_location = program
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    environment = {**os.environ, "SE_AVOID_STATS": "true", "CHROME_HEADLESS": "1"}
    with tempfile.TemporaryDirectory(prefix="neat-browser-", ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        made = Browser(options=options, service=Service(driver, env=environment))
        try:
            made.set_page_load_timeout(PATIENCE)
            yield made
        finally:
            made.quit()
