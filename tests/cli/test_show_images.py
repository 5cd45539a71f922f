"""Images of samples on pseudo-terminals of each kind."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from curate.datasets.demo import demo_row
from curate.datasets.images import decode_image
from tests.cli.terminal import CELL, START, on_terminal
from tests.command import curate

WITHOUT = f"import sys; sys.modules['textual_image'] = None; {START}"


@pytest.fixture(scope="module")
def best(scored_run):
    """The best sample's image, and whether its colours were kept."""
    (row,) = json.loads(curate("show", scored_run, "--sample", "#1", "--json").stdout)
    return decode_image(demo_row(0, row["source_row"])["image"]["bytes"])


def has_images(sent: str) -> bool:
    return bool(re.search("▀|\x1b_G(?!.*a=q)|\x1bP", sent))


def same(found: Image.Image, image: Image.Image) -> bool:
    pixels = [np.asarray(each.convert("RGB").resize((16, 16)), float) for each in (found, image)]
    return np.abs(pixels[0] - pixels[1]).mean() < 8


def test_kitty_is_sent_the_image_itself(scored_run, best):
    code, sent = on_terminal("kitty", "show", scored_run, "--sample", "#1")
    assert code == 0, sent
    chunks = re.findall("\x1b_Gi=\\d+,m=[01],f=100,q=2;([^\x1b]*)\x1b", sent)
    found = Image.open(io.BytesIO(base64.b64decode("".join(chunks))))
    assert abs(found.width / found.height - best.width / best.height) < 0.1
    assert found.height <= 20 * CELL[1]
    assert same(found, best)


def test_elsewhere_half_blocks_have_its_colours(scored_run, best):
    code, sent = on_terminal("blocks", "show", scored_run, "--sample", "#1")
    assert code == 0, sent
    lines = [line for line in sent.splitlines() if "▀" in line]
    cells = [re.findall(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m(▀+)", line) for line in lines]
    rows = []
    for line in cells:
        for half in (0, 3):
            rows.append([tuple(map(int, cell[half : half + 3])) for cell in line for _ in cell[6]])
    assert same(Image.fromarray(np.array(rows, np.uint8)), best)


def places(sent: str) -> tuple[list[tuple[int, int]], dict[int, str]]:
    """Where Sixel images begin, in lines and columns, and the text of each line."""
    line = column = 0
    saved, found, texts = (0, 0), [], {}
    for step in re.finditer(
        r"\x1b\[(\d*)([A-Za-z])|\x1b([78])|(\x1bP)[^\x1b]*\x1b\\|\x1b\[[\d;?]*[a-z]|([^\x1b])", sent
    ):
        moved, how, kept, image, character = step.groups()
        if how == "A":
            line -= int(moved)
        elif kept:
            saved, (line, column) = ((line, column), (line, column)) if kept == "7" else (saved, saved)
        elif image:
            found.append((line, column))
        elif character == "\n":
            line += 1
        elif character == "\r":
            column = 0
        elif character:
            texts[line] = texts.get(line, "") + character
            column += 1
    return found, texts


def test_sixel_is_drawn_beside_its_row(scored_run):
    code, sent = on_terminal("sixel", "show", scored_run, "--ratio", "0.5", "--around", 2)
    assert code == 0, sent
    found, texts = places(sent)
    assert [column for _, column in found] == [0] * 4
    assert [texts[line].split()[0] for line, _ in found] == ["#99", "#100", "#101", "#102"]


@pytest.mark.parametrize(
    ("kind", "options", "environment"),
    [
        ("kitty", ("--sample", "#1", "--no-images"), {}),
        ("kitty", ("--sample", "#1", "--json"), {}),
        ("kitty", ("--sample", "#1"), {"NO_COLOR": "1"}),
        ("kitty", ("--sample", "#1"), {"TERM": "dumb"}),
        ("kitty", ("--top", "13"), {}),
        ("blocks", ("--sample", "#1"), {"TERM": "xterm", "COLORTERM": ""}),
    ],
)
def test_where_none_are_wanted_the_terminal_is_not_even_asked(scored_run, kind, options, environment):
    code, sent = on_terminal(kind, "show", scored_run, *options, **environment)
    assert code == 0, sent
    assert not has_images(sent)
    assert "note:" not in sent
    if kind == "kitty":
        assert "\x1b[c" not in sent
        assert "\x1b_G" not in sent


@pytest.mark.parametrize("kind", ["kitty", "sixel", "blocks", "mute"])
def test_a_gallery_has_an_image_for_each_row(scored_run, kind):
    code, sent = on_terminal(kind, "show", scored_run, "--ratio", "0.5", "--around", 2, columns=80)
    assert code == 0, sent
    assert "Traceback" not in sent
    if kind == "kitty":
        assert len(re.findall("a=p", sent)) == 4
    elif kind == "sixel":
        assert len(re.findall("\x1bP", sent)) == 4
    else:
        assert len([line for line in sent.splitlines() if "▀" in line]) > 4 * 4
    for rank in (99, 100, 101, 102):
        assert f"#{rank}" in sent
    assert "not kept" in sent


def test_a_terminal_of_no_size_and_a_missing_library_are_no_error(scored_run):
    code, sent = on_terminal("mute", "show", scored_run, "--top", 2, columns=0, lines=0)
    assert (code, "Traceback" in sent) == (0, False)
    code, sent = on_terminal("mute", "show", scored_run, "--top", 2, cell=(0, 0))
    assert (code, has_images(sent), "Failed" in sent or "Traceback" in sent) == (0, True, False)
    code, sent = on_terminal("kitty", "show", scored_run, "--top", 2, start=WITHOUT)
    assert (code, "note:" in sent, has_images(sent)) == (0, False, False)
    code, sent = on_terminal("kitty", "show", scored_run, "--top", 2, "--images", start=WITHOUT)
    assert code == 0
    assert "textual_image is not installed: pip install 'curate[report]'" in " ".join(sent.split())
    assert not has_images(sent)


@pytest.mark.parametrize("kind", ["kitty", "sixel", "blocks"])
def test_the_thinnest_images_are_drawn(kind):
    start = """
import io
from PIL import Image
from curate.cli.console import OUT
from curate.cli.pictures import THUMBNAIL, pictures
drawer = pictures(True)
for size in ((3_000, 1), (1, 3_000), (1, 1)):
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "PNG")
    for cells in ((), THUMBNAIL):
        OUT.print("next")
        OUT.print(drawer.draw(file.getvalue(), *cells))
"""
    code, sent = on_terminal(kind, start=start)
    assert code == 0, sent
    _, *drawn = sent.split("next")
    assert len(drawn) == 6
    assert all(has_images(each) for each in drawn)


@pytest.mark.parametrize(
    "taken", ["import os; os.dup2(os.open('/dev/null', os.O_RDONLY), 0)", "import sys; sys.stdin = None"]
)
def test_input_that_is_no_terminal_is_left_alone(scored_run, taken):
    code, sent = on_terminal("kitty", "show", scored_run, "--sample", "#1", "--images", start=f"{taken}; {START}")
    assert code == 0, sent
    assert "cannot be asked what it can show" in " ".join(sent.split())
    assert not has_images(sent)
