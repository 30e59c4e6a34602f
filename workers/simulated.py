"""A model that sleeps where another one computes, so that everything around it is measured without GPUs; no torch."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workers.notices import SKETCH_SIZE

if TYPE_CHECKING:
    from rsrefseg.pointing import Pointing


RADIUS = 1 / 8
"""Of the disc that is found, as a share of the image's shorter side."""


@dataclass(frozen=True)
class SimulatedSegment:
    """What an expression is said to refer to."""

    expression: str
    mask: np.ndarray
    """(h, w) bool at the image's own size: one disc."""
    score: float
    predicted_iou: float


class SimulatedPredictor:
    """The door of `rsrefseg.Predictor`: an image takes its time, and each expression finds a disc where its hash says.

    Args:
        seconds_per_image: How long to sleep over each image.
    """

    def __init__(self, seconds_per_image: float) -> None:
        self.version = f"simulated@{seconds_per_image:g}s"
        self._seconds_per_image = seconds_per_image

    def with_heads(self, folder: Path) -> SimulatedPredictor:
        """Serve a project's version: it finds the same, and says whose it is.

        Args:
            folder: Where the version is; it has its name.

        Returns:
            The same under that name.
        """
        other = SimulatedPredictor(self._seconds_per_image)
        other.version = folder.name
        return other

    def encode_all(self, images: Sequence[np.ndarray]) -> list[tuple[int, int]]:
        """Sleep for as long as the images take.

        Args:
            images: (h, w, 3) uint8 RGB each.

        Returns:
            Their heights and widths: all that is kept of them.
        """
        time.sleep(self._seconds_per_image * len(images))
        return [(image.shape[0], image.shape[1]) for image in images]

    def segment(
        self,
        image: np.ndarray | tuple[int, int],
        expressions: Sequence[str],
        pointings: Sequence[Pointing | None] | None = None,
    ) -> list[SimulatedSegment]:
        """Find a disc for each expression; the same words find the same disc.

        Args:
            image: (h, w, 3) uint8 RGB, or what `encode_all` made of it.
            expressions: Words.
            pointings: Not looked at.

        Returns:
            One segment for each expression, in their order.
        """
        size_hw = image if isinstance(image, tuple) else self.encode_all([image])[0]
        return [_disc(expression, size_hw) for expression in expressions]

    def look_again(self, image: np.ndarray, segments: Sequence[SimulatedSegment]) -> list[SimulatedSegment]:
        """Think the same as before.

        Args:
            image: Not looked at.
            segments: Answers about it.

        Returns:
            The same answers.
        """
        return list(segments)

    def sketch(self, image: tuple[int, int]) -> np.ndarray:
        """Say what an image looks like: images of one size look alike.

        Args:
            image: What `encode_all` made of it.

        Returns:
            (64,) float16 of length one.
        """
        height, width = image
        vector = np.random.default_rng((height, width)).standard_normal(SKETCH_SIZE)
        return (vector / np.linalg.norm(vector)).astype(np.float16)


def _disc(expression: str, size_hw: tuple[int, int]) -> SimulatedSegment:
    down, right, sure = (byte / 255 for byte in hashlib.sha256(expression.encode()).digest()[:3])
    height, width = size_hw
    rows = np.arange(height)[:, None] - down * (height - 1)
    columns = np.arange(width)[None, :] - right * (width - 1)
    radius = max(1.0, RADIUS * min(size_hw))
    # float32: an image may have 150 million pixels.
    mask = rows.astype(np.float32) ** 2 + columns.astype(np.float32) ** 2 <= radius**2
    return SimulatedSegment(expression, mask, score=sure, predicted_iou=sure)
