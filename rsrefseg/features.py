"""What the encoders hand to the rest of the graph, whatever their size."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class ImageFeatures(NamedTuple):
    """What is kept of b images; it does not depend on any expression."""

    sam: Tensor
    """(b, d, S/16, S/16): what SAM's mask decoder draws on."""
    clip: Tensor
    """(b, c, g, g): what words are compared with."""
    traits: Tensor
    """(b, k, g, g): centre, size and colour of the object that each cell is of, as `comparison.traits_of` has them; k
    is 0 where the encoder reads off none."""
    eighth: Tensor
    """(b, d / 4, S/8, S/8): what the decoder is shown while it draws finer, as in SAM 2; no channels where the encoder
    has nothing to show."""
    quarter: Tensor
    """(b, d / 8, S/4, S/4): the same at the size of the masks."""

    @classmethod
    def of(cls, sam: Tensor, clip: Tensor) -> ImageFeatures:
        """Take what the published towers give, and nothing beside it.

        Args:
            sam: (b, d, S/16, S/16).
            clip: (b, c, g, g).

        Returns:
            The same, with no channel in the other maps.
        """
        b, _, h, w = sam.shape
        nothing = (
            clip.new_zeros(b, 0, *clip.shape[2:]),
            sam.new_zeros(b, 0, 2 * h, 2 * w),
            sam.new_zeros(b, 0, 4 * h, 4 * w),
        )
        return cls(sam, clip, *nothing)


class TextFeatures(NamedTuple):
    """What is kept of n expressions, padded to the longest."""

    tokens: Tensor
    """(n, t, c)."""
    pooled: Tensor
    """(n, c), taken at each expression's own end token."""
    valid: Tensor
    """(n, t) bool, false on the padding."""


class PointPrompts(NamedTuple):
    """Where a person pointed, for n masks; SAM's own prompts."""

    points: Tensor
    """(n, k, 2) float, x then y, as shares of the image's sides, in [0, 1]."""
    kinds: Tensor
    """(n, k) int64: NOT_A_POINT, OUTSIDE, INSIDE, or the two corners of a box."""


NOT_A_POINT, OUTSIDE, INSIDE, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3
"""What a point says. The first fills up rows, as SAM does where there is no box."""


def of_each(images: Tensor, image_index: Tensor) -> Tensor:
    """Give each expression the tensor of its image, without a copy where there is one image only.

    Args:
        images: (b, ...).
        image_index: (n,) int64, below b.

    Returns:
        (n, ...).
    """
    return images.expand(len(image_index), *images.shape[1:]) if len(images) == 1 else images[image_index]
