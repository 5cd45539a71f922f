"""A real Chromium without a window, and a log of all that pages in it ask for and complain of."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Error, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Nothing of the browser's own goes to the network.
SWITCHES = (
    *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser of CURATE_CHROMIUM, of the PATH, or Playwright's own."""
    own = os.environ.get("CURATE_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    root = ["--no-sandbox"] if os.geteuid() == 0 else []  # as root, Chromium starts only so
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=own, args=[*SWITCHES, *root])
        except Error as error:
            pytest.fail(
                f"no Chromium starts ({error.message.splitlines()[0]}): apt install chromium, or "
                "playwright install chromium, or name one with CURATE_CHROMIUM",
                pytrace=False,
            )
        yield browser
        browser.close()


@dataclass
class Log:
    """What pages did that a reader would not see.

    Attributes:
        home: where requests may go, as their addresses begin.
        requests: addresses; complaints: errors and warnings of the console, where violations of the page's policy are,
            and exceptions; dialogs: what pages said in windows of their own.
    """

    home: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    provoked: list[str] = field(default_factory=list)

    def of(self, context: BrowserContext) -> None:
        """Write down what the pages of a context do from now on."""
        context.on("request", lambda request: self.requests.append(request.url))
        context.on("console", self._said)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        context.on("dialog", self._asked)

    def forgive(self, pattern: str) -> None:
        """Complaints that a test provokes, of which there have to be some."""
        self.provoked.append(pattern)

    def away(self) -> list[str]:
        """Requests to elsewhere."""
        inside = (*self.home, "data:", "about:")
        return [url for url in self.requests if not url.startswith(inside)]

    def check(self) -> None:
        """Nothing ran, nothing was complained of, nothing went elsewhere."""
        assert not self.dialogs, self.dialogs
        for pattern in self.provoked:
            kept = [each for each in self.complaints if not re.search(pattern, each)]
            assert len(kept) < len(self.complaints), f"nothing complained of {pattern}: {self.complaints}"
            self.complaints = kept
        assert not self.complaints, self.complaints
        assert not self.away(), self.away()

    def _said(self, message: ConsoleMessage) -> None:
        # htmx complains of requests that a later one took the place of.
        if message.type in ("error", "warning") and not message.text.startswith(
            ("htmx:sendAbort", "htmx:afterRequest")
        ):
            self.complaints.append(message.text)

    def _asked(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()


def origin(address: str) -> str:
    """Of an address, the part that tells servers apart; a file is only itself."""
    parts = urlsplit(address)
    return address if parts.scheme == "file" else f"{parts.scheme}://{parts.netloc}/"
