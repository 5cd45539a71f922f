"""What `curate features` of labelled images is asked to do."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from curate.interpret.pooling_rule import Pooling, Tokens
from curate.interpret.study import ManySAEsJob

LARGEST_SHARE = 0.1


def _share_or_count(value: float) -> float:
    if value > 1 and value != int(value):
        raise ValueError(f"{value} is neither a share, up to 1, nor a count of images")
    return value


class FeaturesJob(ManySAEsJob):
    """What `curate features` of labelled images is asked."""

    kind: Literal["features"] = "features"
    by_class: bool = Field(default=False, description="the features of each class, not of each image")
    poolings: tuple[Pooling, ...] = Field(
        default=("sum",), min_length=1, description="of activations over tokens: sum, max, or top-K of each token"
    )
    tokens: Tokens = Field(default="image", description="which are pooled")
    clean: Annotated[float, AfterValidator(_share_or_count)] | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="features that fire on more images are left out: a count, or up to 1 a share; by default "
        f"{LARGEST_SHARE}, as of the study of CIFAR-100, or twice the largest class where that is more",
    )
    rank: Literal["mean", "difference"] = Field(
        default="mean",
        description="a class's features by their mean over its images, or by how much that is over the mean elsewhere",
    )
    top: int = Field(default=10, ge=1, description="features listed of each image or class")
