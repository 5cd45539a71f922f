"""HuggingFaceM4/OBELICS: web pages whose images and texts are interleaved. On the hub its images are URLs."""

from functools import partial

from curate.datasets.layout import DocumentLayout, interleaved

LAYOUT = DocumentLayout(
    name="obelics",
    summary="HuggingFaceM4/OBELICS: 141 million web pages, images and texts interleaved; fetch the images first",
    repo="HuggingFaceM4/OBELICS",
    patterns={"train": "data/train-*.parquet"},
    columns=("images", "texts"),
    pieces=partial(interleaved, "images", "texts"),
    image_folders=("", "images", "photos"),
)
