"""Which plain colour word fits the pixels of an object."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

COLOURS = ("white", "grey", "black", "red", "orange", "yellow", "green", "blue", "brown")
"""The words, each at the index that `classify` gives it plus one."""

_BITS = 5


@cache
def _table() -> np.ndarray:
    levels = (np.arange(1 << _BITS) * 8 + 4).astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(1, -1, 3)
    hue, saturation, value = (plane.astype(int) for plane in cv2.split(cv2.cvtColor(cube, cv2.COLOR_RGB2HSV))[:3])
    hue = hue * 2
    word = np.zeros(hue.shape, np.uint8)

    def name(colour: str, where: np.ndarray) -> None:
        word[where & (word == 0)] = COLOURS.index(colour) + 1

    chroma = saturation * value // 255
    name("black", (value < 52) & (chroma < 28))
    name("white", (value >= 196) & (saturation < 34))
    name("grey", (value >= 66) & (value < 180) & (saturation < 36))
    plain = (saturation >= 60) & (value >= 60)
    warm = (hue < 48) | (hue >= 345)
    name("red", plain & ((hue < 14) | (hue >= 340)) & (saturation >= 105) & (value >= 95))
    name("brown", plain & warm & (hue >= 8) & (hue < 44) & (value < 205) & (saturation < 190))
    name("orange", plain & (hue >= 14) & (hue < 42) & (value >= 190) & (saturation >= 110))
    name("yellow", plain & (hue >= 42) & (hue < 66) & (value >= 150) & (saturation >= 90))
    name("green", plain & (hue >= 75) & (hue < 165))
    name("green", (saturation >= 45) & (value >= 50) & (hue >= 80) & (hue < 160))
    name("blue", plain & (hue >= 180) & (hue < 260))
    return word.reshape(-1)


def classify(image: np.ndarray) -> np.ndarray:
    """Sort every pixel into a plain colour.

    Args:
        image: (h, w, 3) uint8 RGB.

    Returns:
        (h, w) uint8: an index into `COLOURS` plus one, 0 where no plain word fits.
    """
    parts = (image >> (8 - _BITS)).astype(np.int32)
    packed = (parts[..., 0] << (2 * _BITS)) | (parts[..., 1] << _BITS) | parts[..., 2]
    classes: np.ndarray = _table()[packed]
    return classes


def colour_word(pixels: np.ndarray, classes: np.ndarray, share: float = 0.55) -> str | None:
    """Name the colour of an object, where it clearly has one.

    Args:
        pixels: (n, 3) uint8 RGB of the object.
        classes: (n,) what `classify` says about them.
        share: How much of the object must have the colour.

    Returns:
        A word from `COLOURS`, or None.
    """
    counts = np.bincount(classes, minlength=len(COLOURS) + 1)
    best = int(counts[1:].argmax()) + 1
    if counts[best] < share * len(classes):
        return None
    mean = pixels.reshape(-1, 3).mean(axis=0)
    return COLOURS[best - 1] if int(classify(mean[None, None].astype(np.uint8))[0, 0]) == best else None
