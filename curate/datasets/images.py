"""Untrusted bytes in, upright RGB images out."""

import errno
import io
import re
import stat
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from upath import UPath

from curate.errors import BadImagePath, CorruptImage, ImageBomb, MissingImage, WrongType

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
MAX_PIXELS = 100_000_000
MAX_BYTES = 256 * 2**20
_NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def image_bytes(value: object, root: UPath | None, folders: Sequence[str] = ("",)) -> bytes:
    """The encoded bytes of an image cell.

    Args:
        value: bytes, a path relative to the data, or a Hugging Face image struct (`bytes`, `path`).
        root: the folder that holds the data; None where paths are not allowed.
        folders: those below it that a path may be relative to: the first that has the file counts.

    Raises:
        MissingImage, BadImagePath, ImageBomb (too many bytes), WrongType.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if value is None or value in (b"", ""):
        raise MissingImage("the image is empty")
    if isinstance(value, bytes):
        if len(value) > MAX_BYTES:
            raise ImageBomb(f"the image has over {MAX_BYTES // 2**20} MiB")
        return value
    if not isinstance(value, str):
        raise WrongType(f"the image is a {type(value).__name__}, not bytes, a path or an image struct")
    for folder in folders[:-1]:
        with suppress(MissingImage):
            return _file_bytes(_path_inside(value, root, folder), value)
    return _file_bytes(_path_inside(value, root, folders[-1]), value)


def _file_bytes(path: UPath, value: str) -> bytes:
    try:
        status = path.stat()
        # Opening a FIFO would wait for a writer, and reading a device might never end.
        if not stat.S_ISREG(status.st_mode):
            raise MissingImage(f"{_shown(value)} is not a regular file")
        if status.st_size > MAX_BYTES:
            raise ImageBomb(f"the image file has over {MAX_BYTES // 2**20} MiB")
        data = path.read_bytes()
    except OSError as error:
        # Anything else, such as a disk or network that fails or an object store's session that ended, is no fault of
        # the row's.
        if not isinstance(error, _NO_FILE) and error.errno not in (errno.EACCES, errno.ENAMETOOLONG, errno.ELOOP):
            raise
        raise MissingImage(f"no image file can be read at {_shown(value)} ({error.strerror})") from error
    if not data:
        raise MissingImage(f"the image file {_shown(value)} is empty")
    return data


def _path_inside(name: str, root: UPath | None, folder: str) -> UPath:
    if _SCHEME.match(name):
        raise BadImagePath(f"{_shown(name)} is a URL; fetch it first: images are bytes or paths inside the data folder")
    if root is None:
        raise BadImagePath(f"{_shown(name)} is a path, and this data set holds its images itself")
    if "\0" in name or Path(name).is_absolute() or "\\" in name:
        raise BadImagePath(f"{_shown(name)} is not a relative path")
    try:
        path = (root / folder / name).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise BadImagePath(f"{_shown(name)} is not a path ({type(error).__name__})") from error
    if not path.is_relative_to(root.resolve()):
        raise BadImagePath(f"{_shown(name)} leads out of the data folder")
    return path


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 80 else name[:77] + "...")


def decode_image(data: bytes, size: int | None = None) -> Image.Image:
    """Decode to RGB: first frame, EXIF orientation applied, alpha over white, 16 bits scaled to 8.

    Args:
        data: the encoded file.
        size: if given, the image is resized to `size` × `size` first, as the SAE-V code does at 336.

    Raises:
        ImageBomb: the header declares more than `MAX_PIXELS` pixels.
        CorruptImage: no allowed decoder reads it to its end.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise ImageBomb(f"{image.width} × {image.height} pixels; at most {MAX_PIXELS:,} are read")
            image.load()
            image = _to_rgb(_upright(image))
    except ImageBomb:
        raise
    except Image.DecompressionBombError as error:
        raise ImageBomb(str(error)) from error
    # A decoder fed hostile bytes may raise anything at all; every such error means the same here.
    except Exception as error:
        reason = "not an image of a known format" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise CorruptImage(f"{reason} ({type(error).__name__}, {len(data):,} bytes)") from error
    return image if size is None else image.resize((size, size), Image.Resampling.BICUBIC)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    # Parsing hostile EXIF may raise anything; the pixels were read whole and are worth keeping as they lie.
    except Exception:
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64).clip(0, 65535) // 257
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")
