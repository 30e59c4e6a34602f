"""Which cells of an image's grid a person pointed at."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rsrefseg.features import BOTTOM_RIGHT, INSIDE, TOP_LEFT, PointPrompts, TextFeatures, of_each


def cells_in_box(pointed: PointPrompts, size_hw: tuple[int, int]) -> Tensor:
    """Find the cells that each box touches; all of them where there is no box.

    Args:
        pointed: n gestures.
        size_hw: Rows and columns of the grid.

    Returns:
        (n, h, w) bool.
    """
    left, top = _corner(pointed, TOP_LEFT)
    right, bottom = _corner(pointed, BOTTOM_RIGHT)
    x, y = _edges(pointed, size_hw)
    w, h = size_hw[1], size_hw[0]
    columns = (x < right[:, None]) & (x + 1 / w > left[:, None])  # (n, w)
    rows = (y < bottom[:, None]) & (y + 1 / h > top[:, None])  # (n, h)
    boxed = (pointed.kinds == TOP_LEFT).any(1)
    return (rows[:, :, None] & columns[:, None, :]) | ~boxed[:, None, None]


def cells_meant(pointed: PointPrompts, size_hw: tuple[int, int]) -> Tensor:
    """Find the cells that speak for what each gesture means: those in its box, else those that it hits.

    Args:
        pointed: n gestures.
        size_hw: Rows and columns of the grid.

    Returns:
        (n, h, w) bool; none is empty.
    """
    x, y = _edges(pointed, size_hw)
    w, h = size_hw[1], size_hw[0]
    there = pointed.points.clamp(0, 1 - 1e-6)  # (n, k, 2)
    columns = (x <= there[:, :, :1]) & (x + 1 / w > there[:, :, :1])  # (n, k, w)
    rows = (y <= there[:, :, 1:]) & (y + 1 / h > there[:, :, 1:])  # (n, k, h)
    inside = (pointed.kinds == INSIDE)[:, :, None, None]
    hit = (rows[:, :, :, None] & columns[:, :, None, :] & inside).any(1)  # (n, h, w)
    boxed = (pointed.kinds == TOP_LEFT).any(1)[:, None, None]
    return torch.where(boxed | ~hit.any(2).any(1)[:, None, None], cells_in_box(pointed, size_hw), hit)


def alike(clip: Tensor, image_index: Tensor, pointed: PointPrompts) -> TextFeatures:
    """Let what was pointed at stand for words: the rest of the image is compared with it.

    Args:
        clip: (b, c, g, g), the features of b images.
        image_index: (n,) int64, which image each gesture is about.
        pointed: n gestures.

    Returns:
        Features of n expressions of one word each.
    """
    cells = of_each(functional.normalize(clip, dim=1), image_index)  # (n, c, g, g)
    meant = cells_meant(pointed, (clip.shape[2], clip.shape[3])).to(cells.dtype)  # (n, g, g)
    pooled = torch.einsum("nchw,nhw->nc", cells, meant / meant.sum((1, 2), keepdim=True))  # (n, c)
    valid = torch.ones(len(pooled), 1, dtype=torch.bool, device=clip.device)
    return TextFeatures(tokens=pooled[:, None], pooled=pooled, valid=valid)


def said_or_alike(
    text: TextFeatures, said: Tensor, clip: Tensor, image_index: Tensor, pointed: PointPrompts
) -> TextFeatures:
    """Let places stand for the words of those who said none, and leave the others' as they are.

    Args:
        text: Features of n expressions.
        said: (n,) bool, whether the words count.
        clip: (b, c, g, g), the features of b images.
        image_index: (n,) int64, which image each is about.
        pointed: n gestures.

    Returns:
        Features of n expressions, padded as they were.
    """
    places = alike(clip, image_index, pointed)
    first = torch.arange(text.valid.shape[1], device=said.device) == 0  # the one word of a place
    return TextFeatures(
        tokens=torch.where(said[:, None, None], text.tokens, places.tokens.to(text.tokens.dtype)),
        pooled=torch.where(said[:, None], text.pooled, places.pooled.to(text.pooled.dtype)),
        valid=torch.where(said[:, None], text.valid, first),
    )


def _corner(pointed: PointPrompts, kind: int) -> tuple[Tensor, Tensor]:
    place = (pointed.points * (pointed.kinds == kind)[..., None]).sum(1)  # (n, 2)
    return place[:, 0], place[:, 1]


def _edges(pointed: PointPrompts, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    # Where each column and each row of cells begins.
    h, w = size_hw
    points = pointed.points
    return torch.arange(w, device=points.device) / w, torch.arange(h, device=points.device) / h
