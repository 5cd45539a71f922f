"""Images of samples in the terminal, where it can show them."""

import os
import select
import sys
from typing import Any

WIDTH, HEIGHT = 48, 20  # cells
THUMBNAIL = (24, 8)
_PIXELS = (20, 40)  # of a cell: more are not kept
_THINNEST = 8  # to 1: thinner images are given a margin, so that they are at least one cell thick


class Pictures:
    """Draws images by the best protocol that the terminal said it knows."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind

    def draw(self, encoded: bytes, width: int = WIDTH, height: int = HEIGHT) -> Any:
        """An encoded image of the data for rich, within so many cells; of one that cannot be decoded, why."""
        from rich.text import Text

        from curate.cli.console import printable
        from curate.datasets.images import decode_image
        from curate.errors import SampleError

        try:
            image = decode_image(encoded)
        except SampleError as error:
            return Text.assemble(("image: ", "yellow"), printable(f"{type(error).__name__}: {error}"))
        image.thumbnail((width * _PIXELS[0], height * _PIXELS[1]))
        return _Within(self._kind(_thick(image), "auto", "auto"), width, height)


class _Within:
    """A picture for rich that takes no more than so many cells."""

    def __init__(self, picture: Any, width: int, height: int) -> None:
        self._picture, self._width, self._height = picture, width, height

    def __rich_console__(self, console: Any, options: Any) -> Any:
        return self._picture.__rich_console__(console, self._limited(options))

    def __rich_measure__(self, console: Any, options: Any) -> Any:
        return self._picture.__rich_measure__(console, self._limited(options))

    def _limited(self, options: Any) -> Any:
        return options.update(max_width=min(self._width, options.max_width), height=self._height)


def pictures(asked: bool | None) -> Pictures | None:
    """What draws images, if the terminal can show them; of images that were asked for in vain, a note says why."""
    from curate.cli.console import print_notes

    if asked is False:
        return None
    found = _unable() or _opened()
    if isinstance(found, Pictures):
        return found
    if asked:
        print_notes([f"images are not shown: {found}"])
    return None


def _unable() -> str | None:
    """Why there are no images, as far as can be said without a word to the terminal."""
    from curate.cli.console import OUT

    if not sys.stdout.isatty():
        return "the output is no terminal"
    if OUT.is_dumb_terminal or OUT.no_color:
        return "TERM or NO_COLOR ask for plain text"
    return None if _answers() else "the terminal cannot be asked what it can show"


def _answers() -> bool:
    """Whether a terminal's answer would reach us: on an input that is ours, where nothing was typed yet."""
    try:
        if sys.stdin is None or not sys.stdin.isatty() or os.tcgetpgrp(sys.stdin.fileno()) != os.getpgrp():
            return False
        return not select.select([sys.stdin.fileno()], [], [], 0)[0]
    except OSError:
        return False


def _opened() -> Pictures | str:
    """Ask the terminal, as importing textual_image does; on one that does not answer this takes 0.3 seconds."""
    import logging

    from PIL import Image

    from curate.cli.console import OUT

    logging.getLogger("textual_image").addHandler(logging.NullHandler())  # or it would log on standard error
    try:
        from textual_image import renderable

        renderable.Image(Image.new("RGB", (1, 1))).__rich_measure__(OUT, OUT.options)  # asks for the size of a cell
    except ImportError as error:
        return f"{error.name} is not installed: pip install 'curate[report]'"
    # What a terminal answers is not ours to foresee, nor whether it gives its own size.
    except Exception as error:
        return f"the terminal did not say what it can show ({type(error).__name__})"
    if renderable.Image is renderable.HalfcellImage and OUT.color_system not in ("256", "truecolor"):
        return "the terminal has too few colours"
    return Pictures(renderable.Image)


def _thick(image: Any) -> Any:
    from PIL import ImageOps

    least = max(1, max(image.size) // _THINNEST)
    size = (max(image.width, least), max(image.height, least))
    return image if size == image.size else ImageOps.pad(image, size, color="grey")
