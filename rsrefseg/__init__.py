"""RSRefSeg: masks of overhead images from words.

>>> from rsrefseg import Predictor
>>> predictor = Predictor.from_preset("tiny")
>>> [found] = predictor.segment(np.zeros((64, 64, 3), np.uint8), ["the ship at the pier"])
>>> found.mask.shape
(64, 64)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsrefseg.pointing import Pointing
    from rsrefseg.predictor import ImageEmbedding, Predictor, Segment

__all__ = ["ImageEmbedding", "Pointing", "Predictor", "Segment"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: torch takes seconds, and errors and pictures do without.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rsrefseg import predictor

    return getattr(predictor, name)
