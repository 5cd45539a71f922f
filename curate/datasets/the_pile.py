"""EleutherAI/the_pile_deduplicated: text alone."""

from functools import partial

from curate.datasets.layout import DocumentLayout, text_alone

LAYOUT = DocumentLayout(
    name="the-pile",
    summary="EleutherAI/the_pile_deduplicated: 134 million texts",
    repo="EleutherAI/the_pile_deduplicated",
    patterns={"train": "data/train-*.parquet"},
    columns=("text",),
    pieces=partial(text_alone, "text"),
)
