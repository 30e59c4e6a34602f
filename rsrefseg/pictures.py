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


def read_image(path: Path) -> np.ndarray:
    """Read a file as the model wants it, upright.

    Args:
        path: Any format that Pillow reads.

    Returns:
        (h, w, 3) uint8 RGB.

    Raises:
        BadImage: If the file is missing, not an image, or too large to be decoded safely.
    """
    try:
        with Image.open(path) as file:
            return np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
    except FileNotFoundError as exc:
        raise BadImage(f"{path} does not exist") from exc
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as exc:
        raise BadImage(f"{path} cannot be read as an image: {exc}") from exc


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
