"""Draws report.png, the picture in docs/report.md: `python docs/images/report.py REPORT.html --browser CHROMIUM`."""

import argparse
import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH, HEIGHT, GAP = 1100, 1180, 24
# Of the light half and the dark one: what stands at the top.
HALVES = (("light", "#scores"), ("dark", "#galleries"))


def main() -> None:
    """Write the picture beside this script: two places of a report, one light and one dark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("--browser", help="A Chromium, if not Playwright's own.")
    arguments = parser.parse_args()
    whole = Image.new("RGB", (2 * WIDTH + GAP, HEIGHT), "#888888")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=arguments.browser, args=["--no-sandbox"])
        for place, (scheme, top) in enumerate(HALVES):
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme)
            page.goto(arguments.report.absolute().as_uri())
            page.evaluate(f"document.querySelector('{top}').scrollIntoView()")
            half = Image.open(io.BytesIO(page.screenshot()))
            whole.paste(half, (place * (WIDTH + GAP), 0))
        browser.close()
    whole.resize((whole.width * 2 // 3, whole.height * 2 // 3)).save(Path(__file__).with_suffix(".png"), optimize=True)


if __name__ == "__main__":
    main()
