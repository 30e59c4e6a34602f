"""Where a person points in an image, besides saying words or in their place."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from rsrefseg.errors import BadPointing

SLACK = 0.05
"""How far a mask may reach beyond a box, as a share of the box's sides: nobody draws one that fits to the pixel."""


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

    def narrow(self, mask: np.ndarray) -> np.ndarray:
        """Keep of a mask what the gesture means: what lies in the box, and of its connected parts those that are hit.

        A point that hits none means the nearest; a point outside takes the part away that it hits.

        Args:
            mask: (h, w) bool.

        Returns:
            (h, w) bool.
        """
        h, w = mask.shape
        narrowed = mask.copy()
        if self.box_xyxy:
            left, top, right, bottom = self.box_xyxy
            slack_x, slack_y = SLACK * (right - left), SLACK * (bottom - top)
            rows = slice(max(0, int((top - slack_y) * h)), int(np.ceil((bottom + slack_y) * h)))
            columns = slice(max(0, int((left - slack_x) * w)), int(np.ceil((right + slack_x) * w)))
            narrowed[:] = False
            narrowed[rows, columns] = mask[rows, columns]
        if not narrowed.any() or not (self.inside or self.outside):
            return narrowed
        _, parts = cv2.connectedComponents(narrowed.astype(np.uint8))
        rows_there, columns_there = np.nonzero(narrowed)
        hit = set()
        for x, y in self.inside:
            nearest = np.argmin((rows_there + 0.5 - y * h) ** 2 + (columns_there + 0.5 - x * w) ** 2)
            hit.add(int(parts[rows_there[nearest], columns_there[nearest]]))
        missed = {int(parts[min(h - 1, int(y * h)), min(w - 1, int(x * w))]) for x, y in self.outside} - hit
        kept = narrowed if not hit else np.isin(parts, list(hit))
        return kept & ~np.isin(parts, list(missed - {0}))
