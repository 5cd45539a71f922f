"""Where in an image its tokens look, and what they say of its patches together."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Box(NamedTuple):
    """A part of an image, in its pixels; it may reach beyond the image's edges, where a model sees padding."""

    left: float
    top: float
    right: float
    bottom: float


class View(NamedTuple):
    """An image as a model sees it at one resolution: a grid of equal patches over a part of the image.

    Attributes:
        box: the part of the image.
        first: the token of the upper left patch, counted over the image's tokens.
        stride: from a token to that of the patch below: the columns, and a separator where the model has one.
    """

    box: Box
    rows: int
    columns: int
    first: int
    stride: int

    @property
    def tokens(self) -> Int[Tensor, "rows columns"]:
        """The token of each patch."""
        return self.first + torch.arange(self.rows)[:, None] * self.stride + torch.arange(self.columns)


@dataclass(frozen=True)
class Patches:
    """The patches of one image. Their grid is that of the first view, in which the model sees all that it sees.

    Attributes:
        size: width and height of the image in pixels.
        views: one for each resolution.
    """

    size: tuple[int, int]
    views: tuple[View, ...]

    @property
    def box(self) -> Box:
        """The part of the image that the grid covers."""
        return self.views[0].box

    @property
    def rows(self) -> int:
        return self.views[0].rows

    @property
    def columns(self) -> int:
        return self.views[0].columns

    def boxes(self, n_tokens: int) -> list[Box | None]:
        """The part of the image that each of its tokens looks at; None for what separates rows."""
        found: list[Box | None] = [None] * n_tokens
        for view in self.views:
            (left, top, right, bottom), tokens = view.box, view.tokens.tolist()
            width, height = (right - left) / view.columns, (bottom - top) / view.rows
            for row, of_row in enumerate(tokens):
                for column, token in enumerate(of_row):
                    x, y = left + column * width, top + row * height
                    found[token] = Box(x, y, x + width, y + height)
        return found

    def on_grid(self, values: Float[Tensor, "image_tokens n"]) -> Float[Tensor, "rows columns n"]:
        """The mean over each patch's area of what the tokens there say, at all resolutions alike.

        For one image of 336 × 336 in LLaVA-NeXT, where two tokens share each patch, it ranks patches as the published
        sum over both does; row separators, of which the published code is off by one, are left out.
        """
        total = torch.zeros(self.rows, self.columns, values.shape[1], dtype=torch.float64)
        area = torch.zeros(self.rows, self.columns, 1, dtype=torch.float64)
        for view in self.views:
            down = _overlap((self.box.top, self.box.bottom), self.rows, (view.box.top, view.box.bottom), view.rows)
            across = _overlap(
                (self.box.left, self.box.right), self.columns, (view.box.left, view.box.right), view.columns
            )
            seen = values[view.tokens].cpu().double()
            total += torch.einsum("ri,ijn,cj->rcn", down, seen, across)
            area += (down.sum(1)[:, None] * across.sum(1))[..., None]
        return total / area

    def strongest(
        self, values: Float[Tensor, " image_tokens"], width: int, height: int
    ) -> Float[Tensor, "height width"]:
        """The strongest of what all tokens say that look at a place, for a picture of `width` × `height` places.

        0 where the model sees nothing, and below 0 nowhere.
        """
        found = torch.zeros(height, width, dtype=torch.float64)
        for view in self.views:
            left, top, right, bottom = view.box
            across, down = width / self.size[0], height / self.size[1]
            row = _place(height, top * down, bottom * down, view.rows)
            column = _place(width, left * across, right * across, view.columns)
            seen = values[view.tokens].cpu().double()[row.clamp(min=0)[:, None], column.clamp(min=0)]
            found = torch.maximum(found, torch.where((row >= 0)[:, None] & (column >= 0), seen, 0))
        return found

    def of_pixels(self) -> Int[Tensor, "height width"]:
        """The patch, counted row by row, that each pixel's centre lies in; -1 where the model does not see it."""
        width, height = self.size
        row = _place(height, self.box.top, self.box.bottom, self.rows)
        column = _place(width, self.box.left, self.box.right, self.columns)
        seen = (row >= 0)[:, None] & (column >= 0)
        return torch.where(seen, row[:, None] * self.columns + column, -1)


def _overlap(grid: tuple[float, float], n: int, tokens: tuple[float, float], m: int) -> Float[Tensor, "patches tokens"]:
    """The length that each of n equal parts of one interval shares with each of m equal parts of another."""
    edges = torch.linspace(*grid, n + 1, dtype=torch.float64)
    others = torch.linspace(*tokens, m + 1, dtype=torch.float64)
    stop = torch.minimum(edges[1:, None], others[1:])
    start = torch.maximum(edges[:-1, None], others[:-1])
    return (stop - start).clamp(min=0)


def _place(pixels: int, start: float, stop: float, n: int) -> Int[Tensor, " pixels"]:
    """Which of n equal parts of an interval each pixel's centre lies in; -1 where in none."""
    centres = torch.arange(pixels, dtype=torch.float64) + 0.5
    # Rounded, for a centre that lies on an edge is of the part after it, whatever the last bit says.
    place = ((centres - start) * n / (stop - start)).round(decimals=9).floor().long()
    return torch.where((place >= 0) & (place < n), place, -1)


def square_view(processor: Any, size: tuple[int, int], side: int, first: int) -> View:
    """The view of a model that sees each image as one square of `side` × `side` patches.

    Args:
        processor: the image processor, by whose settings an image is padded, scaled and cropped.
        size: width and height of the image.
        first: the token of the upper left patch.
    """
    width, height = size
    left = top = 0
    if getattr(processor, "do_pad", None):
        longest = max(size)
        left, top, width, height = -((longest - width) // 2), -((longest - height) // 2), longest, longest
    scaled_width, scaled_height = width, height
    if processor.do_resize:
        wanted, shortest = processor.size, min(width, height)
        if wanted.get("shortest_edge"):
            edge = wanted["shortest_edge"]
            scaled_width, scaled_height = (int(edge * each / shortest) for each in (width, height))
        else:
            scaled_width, scaled_height = wanted["width"], wanted["height"]
    crop_width, crop_height = scaled_width, scaled_height
    if processor.do_center_crop:
        crop_width, crop_height = processor.crop_size["width"], processor.crop_size["height"]
    crop_left, crop_top = (scaled_width - crop_width) // 2, (scaled_height - crop_height) // 2
    across, down = width / scaled_width, height / scaled_height
    box = Box(
        left + crop_left * across,
        top + crop_top * down,
        left + (crop_left + crop_width) * across,
        top + (crop_top + crop_height) * down,
    )
    return View(box, side, side, first, side)
