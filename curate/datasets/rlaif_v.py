"""openbmb/RLAIF-V-Dataset: open-source AI feedback on image questions."""

from curate.datasets.layout import Layout, chosen_and_rejected

LAYOUT = Layout(
    name="rlaif-v",
    summary="openbmb/RLAIF-V-Dataset: about 83,000 AI-feedback image preferences",
    repo="openbmb/RLAIF-V-Dataset",
    patterns={"train": "*.parquet"},
    columns=("question", "image", "chosen", "rejected"),
    fields=chosen_and_rejected,
)
