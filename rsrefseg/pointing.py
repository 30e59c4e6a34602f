"""Where a person points in an image, besides saying words or in their place."""

from __future__ import annotations

from dataclasses import dataclass

from rsrefseg.errors import BadPointing


@dataclass(frozen=True)
class Pointing:
    """Points and at most one box: SAM's own prompts, for one mask.

    Places are shares of the image's sides, x to the right and y down, so they hold at any size.

    Raises:
        BadPointing: If there is neither, or one lies outside of the image.
    """

    inside: tuple[tuple[float, float], ...] = ()
    """(x, y) on what is meant."""
    outside: tuple[tuple[float, float], ...] = ()
    """(x, y) on what is not meant."""
    box_xyxy: tuple[float, float, float, float] | None = None
    """Around what is meant: left, top, right, bottom."""

    def __post_init__(self) -> None:
        box = self.box_xyxy
        places = [*self.inside, *self.outside, *([box[:2], box[2:]] if box else [])]
        if not places:
            raise BadPointing("a pointing has a point or a box")
        if not all(len(place) == 2 and 0 <= place[0] <= 1 and 0 <= place[1] <= 1 for place in places):
            raise BadPointing("points and boxes are given as shares of the image's sides, in [0, 1]")
        if box and not (box[0] < box[2] and box[1] < box[3]):
            raise BadPointing("a box is given as left, top, right, bottom")
