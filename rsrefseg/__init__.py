"""RSRefSeg: masks of overhead images from words.

>>> from rsrefseg import Predictor
>>> predictor = Predictor.from_preset("tiny")
>>> [found] = predictor.segment(np.zeros((64, 64, 3), np.uint8), ["the ship at the pier"])
>>> found.mask.shape
(64, 64)
"""

from rsrefseg.predictor import ImageEmbedding, Predictor, Segment

__all__ = ["ImageEmbedding", "Predictor", "Segment"]
