"""What a sample is."""

import hashlib
from dataclasses import dataclass

from PIL.Image import Image


@dataclass(frozen=True)
class Sample:
    """One preference example, decoded and checked.

    Attributes:
        sample_id: 32 hex digits that depend on the sample's content alone (`content_id`).
        source_row: position in the source, counted over the files of its split.
        question: as asked, without image placeholders.
        image: RGB, upright.
        quality: a label that the data set carries, for reports; no metric reads it.
    """

    sample_id: str
    source_row: int
    question: str
    image: Image
    chosen: str
    rejected: str
    quality: str | None = None


def content_id(question: str, image: bytes, chosen: str, rejected: str) -> str:
    """SHA-256 over the four parts as stored, each with its length before it, cut to 32 hex digits."""
    digest = hashlib.sha256()
    for part in (question.encode(), image, chosen.encode(), rejected.encode()):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:32]


def draw(seed: int, sample_id: str) -> float:
    """A uniform number in [0, 1) from seed and sample id alone: 53 bits of their SHA-256."""
    digest = hashlib.sha256(f"{seed}:{sample_id}".encode()).digest()
    return (int.from_bytes(digest[:8], "little") >> 11) / 2**53
