"""Whether a page of hostile data is only text."""

from playwright.sync_api import Page

# Elements and attributes that none of our pages has, and every payload would make.
ALIEN = """() => [...document.querySelectorAll("*")].filter((each) =>
    ["IFRAME", "BASE", "OBJECT", "EMBED"].includes(each.tagName)
    || (each.tagName === "STYLE" && each.textContent.includes("elsewhere"))
    || (each.tagName === "SCRIPT" && !each.src)
    || [...each.attributes].some(({ name, value }) => name.startsWith("on") || name.startsWith("hx-on")
        || (["href", "src", "srcdoc", "action", "hx-get", "style"].includes(name)
            && /javascript:|elsewhere|pwned(?!.*sample=)/i.test(decodeURIComponent(value).replace(/[?].*/, ""))))
).map((each) => each.outerHTML.slice(0, 300))"""


def harmless(page: Page) -> None:
    """Nothing ran, not even when touched, and nothing is there that could."""
    page.wait_for_load_state()
    page.evaluate(
        """() => document.querySelectorAll("*").forEach((each) => {
            for (const name of ["mouseover", "focus"]) each.dispatchEvent(new Event(name));
        })"""
    )
    assert page.evaluate("window.pwned") is None, page.url
    found = page.evaluate(ALIEN)
    assert not found, found
