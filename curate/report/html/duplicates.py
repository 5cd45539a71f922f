"""Copies: of a sample in the whole run, and of images and texts among the best."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int, UInt8, UInt64
from upath import UPath

from curate.datasets.images import decode_image
from curate.errors import DataError, SampleError
from curate.manifest.order import rows_at
from curate.manifest.record import MANIFEST
from curate.manifest.verify import read_tables
from curate.report.html.contents import contents
from curate.report.pages import needs_report
from curate.report.samples import RunSamples

MOST_BEST = 2_000
# A re-encoded or resized photograph differs by a few of 64 bits; unrelated ones by about 32.
MOST_BITS = 4
# The hash sees no colour: the image in 4 × 4 squares, of 0 to 255.
MOST_COLOUR, _SQUARES = 24, 4
LEAST_COSINE = 0.9
_TEXT_CHARACTERS = 2_000
_BLOCK = 128


@dataclass(frozen=True)
class Member:
    """A row of a group."""

    rank: int
    sample_id: str
    source_row: int


@dataclass(frozen=True)
class Groups:
    """Groups of rows that are alike.

    Attributes:
        groups: how many there are; rows: in all of them together.
        largest: some of them, the largest first, each with its best rows first.
    """

    groups: int
    rows: int
    largest: tuple[tuple[Member, ...], ...]


@dataclass(frozen=True)
class Duplicates:
    """What is alike in a run.

    Attributes:
        copies: rows with the same sample: all four parts, byte for byte; of all rows.
        best: rows that were looked at for the rest; read: those of them that the data still hold.
        same_image: different samples with the same image, byte for byte; of the best rows.
        near: different samples whose images and texts are nearly the same; of the best rows.
        unavailable: why the best rows were not looked at.
    """

    copies: Groups
    best: int
    read: int
    same_image: Groups | None
    near: Groups | None
    unavailable: str | None


def duplicates(
    run: UPath,
    order: Int[np.ndarray, " rows"],
    keep: int,
    samples: RunSamples,
    most: int,
    report: Callable[[int, int], None],
) -> Duplicates:
    """Look for copies.

    Args:
        order: the manifest's rows, best first.
        keep: rows above the cut; of these the best `MOST_BEST` are looked at.
        most: groups to list.
        report: is told how many samples of how many have been read.

    Raises:
        DataError: the manifest cannot be read.
        ConfigurationError: a library is not installed.
    """
    copies = _copies(run, order, most)
    best = order[: min(keep, MOST_BEST)]
    rows = rows_at(run, best.tolist(), ["sample_id", "source_row"])
    members: dict[str, Member] = {}
    for rank, row in enumerate(rows, start=1):
        members.setdefault(row["sample_id"], Member(rank, row["sample_id"], row["source_row"]))
    try:
        seen = list(_looks(samples, list(members.values()), report))
    except DataError as error:
        return Duplicates(copies, len(best), 0, None, None, str(error))
    if samples.unavailable is not None:
        return Duplicates(copies, len(best), 0, None, None, samples.unavailable)
    seen.sort(key=lambda look: look.member.rank)
    by_image: dict[bytes, list[Member]] = {}
    for look in seen:
        by_image.setdefault(look.digest, []).append(look.member)
    hashed = [look for look in seen if look.squares is not None]
    near = near_groups(
        np.array([look.bits for look in hashed], np.uint64),
        np.array([look.squares for look in hashed], np.uint8).reshape(-1, 3 * _SQUARES**2),
        [look.text for look in hashed],
    )
    return Duplicates(
        copies,
        len(best),
        len(seen),
        _listed([group for group in by_image.values() if len(group) > 1], most),
        _listed([[hashed[place].member for place in group] for group in near], most),
        None,
    )


def _listed(groups: Sequence[Sequence[Member]], most: int) -> Groups:
    largest = sorted(groups, key=lambda group: (-len(group), group[0].rank))[:most]
    return Groups(len(groups), sum(map(len, groups)), tuple(map(tuple, largest)))


def _copies(run: UPath, order: Int[np.ndarray, " rows"], most: int) -> Groups:
    """Rows that share a sample id. Holds about 150 bytes a row."""
    tables = list(read_tables(run, MANIFEST, ["sample_id", "source_row"]))
    if not tables:
        return Groups(0, 0, ())
    table = pa.concat_tables(tables)
    counted = pc.value_counts(table["sample_id"])  # type: ignore[attr-defined]
    repeated = counted.filter(pc.greater(counted.field("counts"), 1))  # type: ignore[attr-defined]
    sizes = repeated.field("counts").to_numpy()
    chosen = repeated.field("values").take(pa.array(np.argsort(-sizes, kind="stable")[:most]))
    at = np.flatnonzero(pc.is_in(table["sample_id"], value_set=chosen).to_numpy())  # type: ignore[attr-defined]
    rank_of = np.empty(len(order), np.int64)
    rank_of[order] = np.arange(1, len(order) + 1)
    groups: dict[str, list[Member]] = {}
    for rank, row in sorted(
        zip(rank_of[at].tolist(), table.take(pa.array(at)).to_pylist(), strict=True), key=lambda each: each[0]
    ):
        groups.setdefault(row["sample_id"], []).append(Member(rank, row["sample_id"], row["source_row"]))
    return Groups(len(sizes), int(sizes.sum()), _listed(list(groups.values()), most).largest)


@dataclass(frozen=True)
class _Look:
    """What is compared of a sample; `squares` is None where the image cannot be decoded."""

    member: Member
    digest: bytes
    bits: int
    squares: UInt8[np.ndarray, " 48"] | None
    text: str


def _looks(samples: RunSamples, members: Sequence[Member], report: Callable[[int, int], None]) -> Iterator[_Look]:
    try:
        from imagehash import phash
    except ImportError as error:
        raise needs_report(error) from error
    from PIL import Image

    by_row = {member.source_row: member for member in members}
    wanted = {row: member.sample_id for row, member in by_row.items()}
    for done, (row, content) in enumerate(contents(samples, wanted), start=1):
        bits, squares = 0, None
        try:
            image = decode_image(content.image)
            bits = int(str(phash(image)), 16)
            squares = np.asarray(image.resize((_SQUARES, _SQUARES), Image.Resampling.BOX)).ravel()
        except SampleError:
            pass
        text = f"{content.asked[:_TEXT_CHARACTERS]}\n{content.chosen[:_TEXT_CHARACTERS]}"
        yield _Look(by_row[row], hashlib.sha256(content.image).digest(), bits, squares, text)
        report(done, len(by_row))


def near_groups(
    bits: UInt64[np.ndarray, " n"], squares: UInt8[np.ndarray, "n 48"], texts: Sequence[str]
) -> list[list[int]]:
    """Groups of places that hang together by pairs whose images and texts are nearly the same, each ascending.

    Images are by their perceptual hash and their colours in squares, texts by the cosine of their pieces of 3 to 5
    characters (TF-IDF). Memory grows with n × `_BLOCK`, and by 32 bytes a pair of alike images.

    Args:
        bits: the images' hashes.
        squares: their colours, 0 to 255.
        texts: questions and chosen responses.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(texts)
    alike = list(_alike_images(bits, squares))
    if not alike:
        return []
    pairs = np.concatenate([np.stack(each, axis=1) for each in alike])
    pairs = pairs[_cosines(pairs, texts) >= LEAST_COSINE]
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    groups: dict[int, list[int]] = {}
    for place, number in enumerate(component.tolist()):
        groups.setdefault(number, []).append(place)
    return [group for group in groups.values() if len(group) > 1]


def _alike_images(
    bits: UInt64[np.ndarray, " n"], squares: UInt8[np.ndarray, "n 48"]
) -> Iterator[tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]]:
    """Pairs of places, the first before the second, a block of first ones at a time."""
    for start in range(0, len(bits), _BLOCK):
        differing = np.bitwise_count(bits[start : start + _BLOCK, None] ^ bits[None, :])
        one, other = np.nonzero(differing <= MOST_BITS)
        one += start
        before = one < other
        one, other = one[before], other[before]
        apart = np.abs(squares[one].astype(np.int16) - squares[other]).max(axis=1, initial=0)
        close = apart <= MOST_COLOUR
        if close.any():
            yield one[close], other[close]


def _cosines(pairs: Int[np.ndarray, "pairs 2"], texts: Sequence[str]) -> np.ndarray:
    """Of the texts of each pair; only texts that are in some pair are looked at."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    places, at = np.unique(pairs, return_inverse=True)
    at = at.reshape(pairs.shape)
    # Pieces do not cross words, so that every text that can be seen has some.
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5)).fit_transform([texts[place] for place in places])
    found = np.empty(len(pairs))
    for start in range(0, len(places), _BLOCK):
        here = (at[:, 0] >= start) & (at[:, 0] < start + _BLOCK)
        if here.any():
            cosines = (vectors[start : start + _BLOCK] @ vectors.T).toarray()
            found[here] = cosines[at[here, 0] - start, at[here, 1]]
    return found
