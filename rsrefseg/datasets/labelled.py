"""An image whose objects are known, in the compact form that training keeps many of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from rsrefseg.expressions import Thing
from rsrefseg.pictures import squared


@dataclass(frozen=True)
class LabelledImage:
    """An image and which object each pixel belongs to."""

    image: np.ndarray
    """(h, w, 3) uint8 RGB."""
    ids: np.ndarray
    """(h, w) uint8: 0 for none, i for the i-th object, counted from 1."""
    categories: tuple[str, ...]
    colours: tuple[str | None, ...]
    vocabulary: tuple[str, ...]
    """Classes that were looked for: only of these can one say that there is none."""

    @classmethod
    def of(cls, image: np.ndarray, things: Sequence[Thing], vocabulary: Sequence[str]) -> LabelledImage:
        """Pack an image and its objects; where two overlap, the later is on top.

        Args:
            image: (h, w, 3) uint8 RGB.
            things: At most 255 of the image's size.
            vocabulary: Classes that were looked for.

        Returns:
            The packed form.
        """
        ids = np.zeros(image.shape[:2], np.uint8)
        for number, thing in enumerate(things[:255], start=1):
            ids[thing.mask] = number
        kept = things[:255]
        return cls(image, ids, tuple(t.category for t in kept), tuple(t.colour for t in kept), tuple(vocabulary))

    def things(self) -> tuple[Thing, ...]:
        """Unpack the objects.

        Returns:
            One for each, masks of the image's size.
        """
        return tuple(
            Thing(category, self.ids == number, colour)
            for number, (category, colour) in enumerate(zip(self.categories, self.colours, strict=True), start=1)
        )

    def resized(self, size: int) -> LabelledImage:
        """Resize to a square without keeping the aspect ratio, as the model reads it.

        Args:
            size: Side in pixels.

        Returns:
            The same objects.
        """
        image = squared(self.image, size, antialias=True)
        ids = cv2.resize(self.ids, (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
        return replace(self, image=image, ids=ids)
