"""sqrti/SPA-VL: safety preferences over harmful and harmless image questions."""

from curate.datasets.layout import Layout, chosen_and_rejected

LAYOUT = Layout(
    name="spa-vl",
    summary="sqrti/SPA-VL: about 93,000 safety image preferences",
    repo="sqrti/SPA-VL",
    patterns={"train": "data/train-*.parquet", "validation": "validation/validation-*.parquet"},
    columns=("question", "image", "chosen", "rejected"),
    fields=chosen_and_rejected,
)
