"""Image files that declare too much, hold too little, or are something else."""

import io
import struct
import zlib

from PIL import Image


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(kind: str = "PNG", size: tuple[int, int] = (40, 40), **options) -> bytes:
    return encoded(Image.new("RGB", size, "red"), kind, **options)


def photo(kind: str = "PNG", side: int = 64, **options) -> bytes:
    """An image that does not compress, so that losing its end loses pixels."""
    return encoded(Image.effect_noise((side, side), 50).convert("RGB"), kind, **options)


def patched(data: bytes, after: bytes, offset: int, layout: str, *values: int) -> bytes:
    """The bytes with numbers overwritten, `offset` bytes from where a marker begins."""
    content = bytearray(data)
    struct.pack_into(layout, content, data.index(after) + offset, *values)
    return bytes(content)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header declares any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def tiff(*tags: tuple[int, int, int, int]) -> bytes:
    """A TIFF of one directory of (tag, type, count, value), without pixels."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def tiff_bomb() -> bytes:
    sides = (256, 4, 1, 60_000), (257, 4, 1, 60_000)
    grey = (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)
    strips = (273, 4, 1, 8), (278, 4, 1, 60_000), (279, 4, 1, 100)
    return tiff(*sorted([*sides, *grey, *strips]))


def absurd_tiff() -> bytes:
    return tiff((256, 4, 2**31, 60_000), (258, 3, 2**31, 8), (65_000, 4, 2**32 - 1, 9))


ZIPPED = zlib.compress(bytes(200 * 2**20), 1)


def zipped_text(kind: bytes) -> bytes:
    """A whole PNG with one more chunk after its header, which unpacks to 200 MiB."""
    data = plain()
    return data[:33] + chunk(kind, (b"a\0\1\0\0\0" if kind == b"iTXt" else b"a\0\0") + ZIPPED) + data[33:]


def too_many_pixels() -> bytes:
    return plain()[:33] + chunk(b"IDAT", ZIPPED) + chunk(b"IEND", b"")


def many_frames(count: int) -> bytes:
    """A GIF whose second frame comes `count` times."""
    data = plain("GIF", (10, 10), save_all=True, append_images=[Image.new("RGB", (10, 10), "blue")])
    frame = data[data.rindex(b"!\xf9") : -1]
    return data[:-1] + frame * count + b";"


def endless_apng() -> bytes:
    data = plain(save_all=True, append_images=[Image.new("RGB", (40, 40), "blue")])
    start = data.index(b"acTL")
    return data[: start - 4] + chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)) + data[start + 16 :]
