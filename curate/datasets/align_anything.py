"""PKU-Alignment/align-anything, config `text-image-to-text`: two responses and a number that names the better."""

from curate.datasets.layout import Fields, Layout, Row
from curate.errors import BadPreference


def fields(row: Row) -> Fields:
    """The better response is the one that `overall_response` (1 or 2) names.

    Raises:
        BadPreference: it is anything else.
    """
    better = row["overall_response"]
    # Neither truth values, which equal 1 and 0, nor what may not be compared at all, such as a signalling NaN.
    if type(better) not in (int, float) or better not in (1, 2):
        raise BadPreference(f"overall_response is {ascii(better)[:80]}, not 1 or 2")
    one, two = row["response_1"], row["response_2"]
    return Fields(row["question"], row["image"], *((one, two) if better == 1 else (two, one)))


LAYOUT = Layout(
    name="align-anything",
    summary="PKU-Alignment/align-anything, text-image-to-text: about 40,000 image preferences",
    repo="PKU-Alignment/align-anything",
    patterns={"train": "text-image-to-text/train*.parquet", "val": "text-image-to-text/val*.parquet"},
    columns=("question", "image", "response_1", "response_2", "overall_response"),
    fields=fields,
)
