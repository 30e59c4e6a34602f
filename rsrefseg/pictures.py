"""Image files in and out, and masks drawn over images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rsrefseg.errors import BadImage
from rsrefseg.stretch import percentiles, to_eight_bits

PALETTE = ((230, 60, 60), (60, 120, 240), (250, 190, 40), (60, 190, 110), (190, 90, 220), (40, 200, 210))
"""Colours of masks, RGB."""

STRETCH_PERCENT = (1.0, 99.0)
"""The share of pixels of a 16-bit or float image that becomes black, and that stays below white."""

BLOCK_PIXELS = 1 << 20
"""How many pixels are turned to RGB at once."""


def read_image(path: Path) -> np.ndarray:
    """Read a file as the model wants it, upright; what is not RGB becomes so as `to_rgb` says.

    Args:
        path: Any format that Pillow reads.

    Returns:
        (h, w, 3) uint8 RGB.

    Raises:
        BadImage: If the file is missing, not an image, or too large to be decoded safely.
    """
    try:
        with Image.open(path) as file:
            ImageOps.exif_transpose(file, in_place=True)
            return to_rgb(file)
    except FileNotFoundError as exc:
        raise BadImage(f"{path} does not exist") from exc
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as exc:
        raise BadImage(f"{path} cannot be read as an image: {exc}") from exc


def to_rgb(picture: Image.Image) -> np.ndarray:
    """Turn a picture of any kind to RGB.

    Transparency becomes black. Grey images of 16 bits or floats are stretched from their 1st to their 99th percentile,
    as their range says nothing of what is in them; what is no number counts as 0. Beside the picture, which Pillow
    reads whole, it takes the memory of the result and little more.

    Args:
        picture: Opened by Pillow.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    if not picture.mode.startswith(("I", "F")) and picture.width * picture.height <= BLOCK_PIXELS:
        return np.array(_without_transparency(picture))
    rgb = np.empty((picture.height, picture.width, 3), np.uint8)
    if picture.mode.startswith(("I", "F")):

        def levels() -> Iterator[np.ndarray]:
            return (_levels(picture.crop(box)) for box in _boxes(picture))

        low, high = percentiles(levels, STRETCH_PERCENT)
        for box in _boxes(picture):
            _part(rgb, box)[:] = to_eight_bits(_levels(picture.crop(box)), low, high)[:, :, None]
        return rgb
    for box in _boxes(picture):
        _part(rgb, box)[:] = np.asarray(_without_transparency(picture.crop(box)))
    return rgb


def _boxes(picture: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    # Left, top, right, bottom. A whole picture in one step would be copied several times.
    wide = max(1, min(picture.width, BLOCK_PIXELS))
    high = max(1, BLOCK_PIXELS // wide)
    for top in range(0, picture.height, high):
        for left in range(0, picture.width, wide):
            yield left, top, min(left + wide, picture.width), min(top + high, picture.height)


def _part(rgb: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    left, top, right, bottom = box
    return rgb[top:bottom, left:right]


def _levels(block: Image.Image) -> np.ndarray:
    return np.nan_to_num(np.asarray(block, dtype=np.float32), posinf=0.0, neginf=0.0)


def _without_transparency(block: Image.Image) -> Image.Image:
    if block.has_transparency_data:
        black = Image.new("RGBA", block.size, "black")
        block = Image.alpha_composite(black, block.convert("RGBA"))
    return block if block.mode == "RGB" else block.convert("RGB")


def write_image(path: Path, pixels: np.ndarray) -> Path:
    """Write an image or a mask.

    Args:
        path: Where; folders are made.
        pixels: (h, w, 3) uint8 RGB, or (h, w) bool which becomes 0 and 255.

    Returns:
        The path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels).save(path)
    return path


def overlay(image: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """Draw masks over an image, each tinted and outlined in its own colour.

    Args:
        image: (h, w, 3) uint8 RGB.
        masks: (h, w) bool each.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    drawn = image.copy()
    for number, mask in enumerate(masks):
        colour = np.array(PALETTE[number % len(PALETTE)], np.uint8)
        drawn[mask] = (0.55 * drawn[mask] + 0.45 * colour).astype(np.uint8)
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, outlines, -1, colour.tolist(), 2)
    return drawn


def squared(image: np.ndarray, size: int, antialias: bool) -> np.ndarray:
    """Resize an image to the square that a model reads, without keeping the aspect ratio.

    Args:
        image: (h, w, 3) uint8 RGB.
        size: Side of the square, in pixels.
        antialias: Whether an image that shrinks is averaged; otherwise it is sampled.

    Returns:
        (size, size, 3) uint8 RGB.
    """
    shrinks = antialias and image.shape[0] * image.shape[1] > size * size
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
