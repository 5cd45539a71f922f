"""What a browser would make of a page, by Python's parser: its elements, and whether any could run or load."""

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

TAGS = {
    *("html", "head", "meta", "title", "style", "body", "header", "nav", "main", "section", "footer", "article"),
    *("h1", "h2", "h3", "h4", "p", "span", "b", "div", "br", "small", "code", "a", "img", "details", "summary"),
    *("dl", "dt", "dd", "ul", "li", "table", "caption", "thead", "tbody", "tr", "th", "td", "figure", "figcaption"),
    *("svg", "g", "path", "defs", "clippath", "rect", "use", "text", "line"),
}
ATTRIBUTES = {
    *("lang", "charset", "http-equiv", "content", "name", "class", "id", "style", "href", "src", "alt", "title"),
    *("scope", "colspan", "role", "tabindex", "dir", "aria-label", "aria-labelledby", "aria-hidden"),
    *("xmlns", "viewbox", "preserveaspectratio", "d", "x", "y", "x1", "x2", "y1", "y2", "width", "height"),
    *("clip-path", "transform"),
}
VOID = {"meta", "img", "br"}
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = re.compile(r"[-a-z]+: ?[-+\w.#%(), /]+(; ?[-a-z]+: ?[-+\w.#%(), /]+)*;?")


class Page(HTMLParser):
    """A page that was read.

    Attributes:
        elements: each with its attributes, in order; text: of all, together; headings: their levels.
        nested: elements that were closed out of turn or not at all.
    """

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.style = "", ""
        self.open: list[str] = []
        self.nested: list[str] = []
        self.feed(markup)
        self.close()
        self.nested += self.open

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.nested.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.text += data

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")

    def unknown_decl(self, data):
        raise AssertionError(f"a declaration: {data}")

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def headings(self) -> list[int]:
        return [int(tag[1]) for tag, _ in self.elements if re.fullmatch("h[1-6]", tag)]

    def section(self, name: str) -> bool:
        return any(each.get("id") == name for each in self.all("section"))


def checked(markup: str) -> Page:
    """A page in which nothing can run, nothing is loaded from elsewhere, and every element is one of ours."""
    page = Page(markup)
    assert page.nested == []
    assert {tag for tag, _ in page.elements} <= TAGS
    policies = [each["content"] for each in page.all("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [POLICY]
    assert len(page.all("style")) == 1
    assert "url(" not in page.style
    assert "@import" not in page.style
    ids = Counter()
    for tag, attributes in page.elements:
        unknown = set(attributes) - ATTRIBUTES - ({"xmlns"} if tag == "svg" else set())
        assert not unknown, (tag, unknown)
        ids.update([attributes["id"]] if "id" in attributes else [])
        if "href" in attributes:
            assert tag in ("a", "use"), tag
            assert str(attributes["href"]).startswith("#")
        if "src" in attributes:
            assert tag == "img"
            assert str(attributes["src"]).startswith("data:image/jpeg;base64,")
            assert attributes.get("alt")
        if "style" in attributes:
            assert _STYLE.fullmatch(str(attributes["style"])), attributes["style"]
            assert "url(" not in str(attributes["style"])
        if "clip-path" in attributes:
            assert re.fullmatch(r"url\(#[-\w]+\)", str(attributes["clip-path"]))
    assert max(ids.values()) == 1, ids.most_common(3)
    targets = {str(each["href"])[1:] for tag, each in page.elements if "href" in each}
    assert targets <= set(ids), targets - set(ids)
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    steps = zip(page.headings, page.headings[1:], strict=False)
    assert all(after <= before + 1 for before, after in steps), page.headings
    return page


def read(file: Path) -> Page:
    return checked(file.read_text(encoding="utf-8"))
