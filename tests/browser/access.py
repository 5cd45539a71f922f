"""A page as axe-core judges it, for people who see or move otherwise; and as a picture, for those who look."""

import os
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page


def clean(page: Page, name: str) -> None:
    """No violation, and nothing beyond the window's side. CURATE_PICTURES names a folder for pictures."""
    if folder := os.environ.get("CURATE_PICTURES"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=page.locator("dialog[open]").count() == 0)
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response
    wrong = [(each["id"], each["impact"], [node["html"] for node in each["nodes"]]) for each in found["violations"]]
    assert not wrong, (name, wrong)
    assert "color-contrast" in {each["id"] for each in found["passes"]}, name  # or it looked at nothing
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
