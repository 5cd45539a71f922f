"""Options that the studies of labelled images share."""

from typing import Annotated, Any, Literal

import typer

from curate.cli.arguments import MODEL, parts

IMAGES = "Images"

Images = Annotated[
    str,
    typer.Option(
        "--images",
        help="demo-shapes, demo-colours, digits (scikit-learn's), a folder of one folder per class, or CIFAR-100's "
        "binary version.",
        rich_help_panel=IMAGES,
    ),
]
Split = Annotated[
    str, typer.Option(help="Where the folder has folders, or CIFAR-100 files, of splits.", rich_help_panel=IMAGES)
]
Classes = Annotated[
    str | None,
    typer.Option(help="Only these, joined by commas; two or more.", rich_help_panel=IMAGES, show_default=False),
]
Sample = Annotated[
    int | None,
    typer.Option(help="N images drawn with the seed, all classes alike; by default all.", rich_help_panel=IMAGES),
]
Seed = Annotated[int, typer.Option(help="Of the draw, and of all else that is random.", rich_help_panel=IMAGES)]
Model = Annotated[
    str | None,
    typer.Option(
        help="A model that sees images: hub id or folder; by default demo for demo images and digits.",
        rich_help_panel=MODEL,
    ),
]
SAE = Annotated[
    str | None,
    typer.Option(
        help="SAE to look through, named as in `curate score`. By default the one known for the model.",
        rich_help_panel=MODEL,
    ),
]
SAEs = Annotated[
    list[str] | None,
    typer.Option(
        help="SAE to look through, named as in `curate score`; by default the one known for the model. Several, of the "
        "same or of different layers, are read from one pass of the model.",
        rich_help_panel=MODEL,
        show_default=False,
    ),
]
HookLayer = Annotated[
    int | None, typer.Option(help="Layer that an SAE reads, where its file does not say.", rich_help_panel=MODEL)
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(help="Of the model; auto is bfloat16 on a GPU, else float32.", rich_help_panel=MODEL),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU if there is one.", rich_help_panel=MODEL)
]


def images_spec(images: str | None, split: str, classes: str | None, sample: int | None, seed: int) -> dict[str, Any]:
    """The job's `images`."""
    return {"name": images, "split": split, "classes": parts(classes), "sample": sample, "seed": seed}
