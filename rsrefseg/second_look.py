"""A second look at an answer: whether the same comes out in a mirror, and in other words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from rsrefseg.metrics import Overlap
from rsrefseg.pictures import squared
from rsrefseg.wordings import Mirror, mirrored, rewordings

if TYPE_CHECKING:
    from rsrefseg.predictor import Predictor, Segment

UNCERTAIN = (0.3, 0.7)
"""Scores between these are worth a second look; outside of it the first one is as good."""

WORDINGS = 2
"""Most other wordings that are asked."""

_AXES: dict[Mirror, int] = {"left-right": 1, "top-bottom": 0}


def is_uncertain(score: float) -> bool:
    """Ask whether a second look at an answer is worth while.

    Args:
        score: Of the first.

    Returns:
        Whether it is in the middle.
    """
    return UNCERTAIN[0] <= score <= UNCERTAIN[1]


def disagreements(predictor: Predictor, image: np.ndarray, segments: Sequence[Segment]) -> list[float]:
    """Say how far answers differ from those to the same question put otherwise.

    The image is turned over both ways, with the words for its sides, and what is found is turned back; and the words
    are changed where their meaning stays. That is two more encodings, and four more masks for each answer.

    Args:
        predictor: Whose answers they are.
        image: (h, w, 3) uint8 RGB.
        segments: Answers about it, to words.

    Returns:
        For each answer, one minus the mean IoU between it and the others, in [0, 1].
    """
    if not segments:
        return []
    preset = predictor.model.preset
    square = squared(image, preset.image_size, preset.antialias)
    side = (preset.image_size, preset.image_size)
    first = [cv2.resize(one.mask.astype(np.uint8), side, interpolation=cv2.INTER_NEAREST) > 0 for one in segments]
    others: list[list[np.ndarray]] = [[] for _ in segments]
    for mirror, axis in _AXES.items():
        turned = np.ascontiguousarray(np.flip(square, axis))
        found = predictor.segment(turned, [mirrored(one.expression, mirror) for one in segments])
        for masks, one in zip(others, found, strict=True):
            masks.append(np.flip(one.mask, axis))
    wordings = [rewordings(one.expression)[:WORDINGS] for one in segments]
    reworded = iter(predictor.segment(square, [words for several in wordings for words in several]))
    for masks, several in zip(others, wordings, strict=True):
        masks += [next(reworded).mask for _ in several]
    return [
        1 - float(np.mean([Overlap.of(mask, other).iou for other in masks]))
        for mask, masks in zip(first, others, strict=True)
    ]
