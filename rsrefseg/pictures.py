"""Image files in and out, and masks drawn over images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rsrefseg.errors import BadImage

PALETTE = ((230, 60, 60), (60, 120, 240), (250, 190, 40), (60, 190, 110), (190, 90, 220), (40, 200, 210))
"""Colours of masks, RGB."""

STRETCH_PERCENT = (1.0, 99.0)
"""The share of pixels of a 16-bit or float image that becomes black, and that stays below white."""


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
            return to_rgb(ImageOps.exif_transpose(file))
    except FileNotFoundError as exc:
        raise BadImage(f"{path} does not exist") from exc
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as exc:
        raise BadImage(f"{path} cannot be read as an image: {exc}") from exc


def to_rgb(picture: Image.Image) -> np.ndarray:
    """Turn a picture of any kind to RGB.

    Transparency becomes black. Grey images of 16 bits or floats are stretched from their 1st to their 99th percentile,
    as their range says nothing of what is in them; what is no number becomes black.

    Args:
        picture: Opened by Pillow.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    if picture.mode.startswith(("I", "F")):
        return np.repeat(_stretch(np.asarray(picture, dtype=np.float32))[:, :, None], 3, axis=2)
    if picture.has_transparency_data:
        black = Image.new("RGBA", picture.size, "black")
        picture = Image.alpha_composite(black, picture.convert("RGBA"))
    return np.array(picture.convert("RGB"))


def _stretch(grey: np.ndarray) -> np.ndarray:
    grey = np.nan_to_num(grey, posinf=0.0, neginf=0.0)
    low, high = np.percentile(grey, STRETCH_PERCENT)
    scaled = (grey - low) * (255.0 / (float(high) - float(low) or 1.0))  # a plain one has no range
    stretched: np.ndarray = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return stretched


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
