"""Untrusted image bytes: every mode becomes upright RGB, everything hostile its own error."""

import numpy as np
import pytest
from PIL import Image

from curate.datasets.images import decode_image, image_bytes
from curate.errors import BadImagePath, CorruptImage, ImageBomb, MissingImage, SampleError, WrongType
from tests.hostile.images import bomb, encoded


def half(mode: str, left, right) -> Image.Image:
    image = Image.new(mode, (8, 4), left)
    image.paste(right, (4, 0, 8, 4))
    return image


def corners(data: bytes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    image = decode_image(data)
    assert image.mode == "RGB"
    return image.getpixel((0, 0)), image.getpixel((image.width - 1, image.height - 1))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("data", "first", "last"),
    [
        (encoded(half("RGB", "red", "blue")), (255, 0, 0), (0, 0, 255)),
        (encoded(half("L", 10, 200)), (10, 10, 10), (200, 200, 200)),
        (encoded(half("1", 0, 1)), (0, 0, 0), (255, 255, 255)),
        (encoded(half("RGBA", (255, 0, 0, 255), (0, 0, 255, 0))), (255, 0, 0), (255, 255, 255)),
        (encoded(half("LA", (0, 255), (0, 0))), (0, 0, 0), (255, 255, 255)),
        (encoded(half("RGB", "red", "blue").quantize(4)), (255, 0, 0), (0, 0, 255)),
        (encoded(half("RGB", "red", "lime"), "GIF"), (255, 0, 0), (0, 255, 0)),
        (encoded(half("CMYK", (0, 255, 255, 0), (0, 0, 0, 0)), "TIFF"), (255, 0, 0), (255, 255, 255)),
        (encoded(Image.fromarray(np.array([[0, 0x8000], [0x00FF, 0xFFFF]], np.uint16))), (0, 0, 0), (255, 255, 255)),
        (encoded(half("RGB", "red", "blue"), "BMP"), (255, 0, 0), (0, 0, 255)),
        (encoded(half("RGB", "red", "blue"), "WEBP", lossless=True), (255, 0, 0), (0, 0, 255)),
    ],
    ids=["rgb", "grey", "bilevel", "alpha", "grey-alpha", "palette", "gif", "cmyk", "16-bit", "bmp", "webp"],
)
def test_every_mode_becomes_rgb(data, first, last):
    assert corners(data) == (first, last)


def test_16_bit_values_keep_their_proportion():
    image = decode_image(encoded(Image.fromarray(np.full((2, 2), 0x8000, np.uint16))))
    assert image.getpixel((0, 0)) == (127, 127, 127)


def test_a_transparent_palette_entry_is_white():
    image = half("RGB", "red", "blue").quantize(4)
    transparent = image.getpixel((7, 0))
    assert corners(encoded(image, transparency=transparent)) == ((255, 0, 0), (255, 255, 255))


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # shown a quarter turn clockwise
    data = encoded(half("RGB", "red", "blue"), "PNG", exif=exif.tobytes())
    image = decode_image(data)
    assert image.size == (4, 8)
    assert image.getpixel((0, 0)) == (255, 0, 0)
    assert image.getpixel((0, 7)) == (0, 0, 255)


def test_an_image_with_damaged_exif_is_kept_as_it_lies():
    data = encoded(half("RGB", "red", "blue"), "PNG", exif=b"Exif\0\0no such thing")
    assert corners(data) == ((255, 0, 0), (0, 0, 255))


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert corners(data)[0] == (255, 0, 0)


def test_image_size_resizes_to_a_square():
    assert decode_image(encoded(half("RGB", "red", "blue")), 336).size == (336, 336)


@pytest.mark.parametrize("size", [(12_000, 9_000), (60_000, 60_000)])
def test_image_bombs_are_found_by_their_header(size):
    with pytest.raises(ImageBomb):
        decode_image(bomb(*size))


PHOTO = encoded(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG")


@pytest.mark.parametrize(
    "data",
    [
        PHOTO[:300],
        PHOTO[:-200],
        b"not an image",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<html></html>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"\x89PNG\r\n\x1a\n",
        bomb(40, 40)[:-30],
    ],
    ids=["truncated early", "truncated late", "text", "svg", "html", "eps", "bare header", "cut png"],
)
def test_what_is_not_a_whole_image_is_corrupt(data):
    with pytest.raises(CorruptImage):
        decode_image(data)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (None, MissingImage),
        (b"", MissingImage),
        ("", MissingImage),
        ({"bytes": None, "path": None}, MissingImage),
        (3, WrongType),
        ("http://127.0.0.1/a.png", BadImagePath),
        ("file:///etc/passwd", BadImagePath),
        ("data:image/png;base64,AAAA", BadImagePath),
        ("/etc/passwd", BadImagePath),
        ("../secret.png", BadImagePath),
        ("inside/../../secret.png", BadImagePath),
        ("inside\\..\\..\\secret.png", BadImagePath),
        ("a\0b", BadImagePath),
        ("link.png", BadImagePath),
        ("loop.png", BadImagePath),
        ("http://[a", BadImagePath),
        ("a\ud800.png", BadImagePath),
        ("missing.png", MissingImage),
        ("empty.png", MissingImage),
        ("folder", MissingImage),
        ("x" * 5000, MissingImage),
    ],
)
def test_image_cells_that_hold_no_image(tmp_path, value, error):
    (tmp_path / "secret.png").write_bytes(PHOTO)
    root = tmp_path / "data"
    (root / "folder").mkdir(parents=True)
    (root / "empty.png").touch()
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "loop.png").symlink_to("loop.png")
    with pytest.raises(error) as caught:
        image_bytes(value, root)
    assert isinstance(caught.value, SampleError)
    assert "\n" not in str(caught.value)


def test_image_cells_that_do(tmp_path):
    (tmp_path / "a.jpg").write_bytes(PHOTO)
    for value in (PHOTO, "a.jpg", {"bytes": PHOTO, "path": "../ignored"}, {"bytes": None, "path": "a.jpg"}):
        assert image_bytes(value, tmp_path) == PHOTO


def test_paths_are_refused_where_data_hold_their_images():
    with pytest.raises(BadImagePath, match="holds its images itself"):
        image_bytes("a.jpg", None)
