"""Noise and colour ramps: what makes a painted surface look like ground."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

Colour = tuple[float, float, float]

_NOISE_SIDE = 512


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Blend two colours.

    Args:
        one: The colour at share 0.
        other: The colour at share 1.
        share: How much of `other`.

    Returns:
        The blend.
    """
    return (
        one[0] + (other[0] - one[0]) * share,
        one[1] + (other[1] - one[1]) * share,
        one[2] + (other[2] - one[2]) * share,
    )


def scaled(colour: Colour, factor: float) -> Colour:
    """Brighten or darken a colour.

    Args:
        colour: The colour to change.
        factor: Below 1 darkens.

    Returns:
        The new colour, kept inside 0..255.
    """
    return (min(255.0, colour[0] * factor), min(255.0, colour[1] * factor), min(255.0, colour[2] * factor))


def jittered(rng: np.random.Generator, colour: Colour, amount: float = 8.0) -> Colour:
    """Vary a colour a little, mostly in brightness.

    Args:
        rng: Where chance comes from.
        colour: The colour to vary.
        amount: Standard deviation of the brightness, of 255.

    Returns:
        The varied colour, kept inside 0..255.
    """
    shift = rng.normal(0.0, amount) + rng.normal(0.0, amount * 0.3, 3)
    red, green, blue = np.clip(np.asarray(colour) + shift, 0, 255).tolist()
    return (red, green, blue)


def ramp(*colours: Colour) -> np.ndarray:
    """Spread colours evenly over the 256 values of a noise field.

    Args:
        *colours: From the darkest to the brightest noise.

    Returns:
        (256, 1, 3) uint8, as `cv2.applyColorMap` wants it.
    """
    # Noise gathers around the middle, so the ramp spends its range there.
    stops = np.linspace(40, 215, len(colours))
    columns = np.asarray(colours, np.float64)
    table = np.stack([np.interp(np.arange(256), stops, columns[:, i]) for i in range(3)], axis=-1)
    return np.clip(table + 0.5, 0, 255).astype(np.uint8)[:, None, :]


def fractal(
    rng: np.random.Generator, grids: Sequence[int], weights: Sequence[float], spread: float = 40.0
) -> np.ndarray:
    """Add smoothed random grids of several spacings.

    Args:
        rng: Where chance comes from.
        grids: Cells along a side, one number an octave.
        weights: How strongly each octave counts.
        spread: Standard deviation of the field.

    Returns:
        (512, 512) uint8 around 128.
    """
    total = np.zeros((_NOISE_SIDE, _NOISE_SIDE), np.float32)
    for grid, weight in zip(grids, weights, strict=True):
        cells = rng.integers(0, 256, (grid, grid), np.uint8).astype(np.float32)
        method = cv2.INTER_CUBIC if grid < 100 else cv2.INTER_LINEAR
        octave = cells if grid == _NOISE_SIDE else cv2.resize(cells, total.shape, interpolation=method)
        cv2.addWeighted(total, 1.0, octave, weight, 0.0, total)
    mean, deviation = cv2.meanStdDev(total)
    gain = spread / max(float(deviation[0, 0]), 1e-3)
    field: np.ndarray = cv2.convertScaleAbs(np.maximum(total * gain + (128.0 - float(mean[0, 0]) * gain), 0.0))
    return field


class Noise:
    """Noise fields of one scene, at the size of its canvas."""

    def __init__(self, rng: np.random.Generator, side: int) -> None:
        """Make the fields.

        Args:
            rng: Where chance comes from.
            side: Width and height of the canvas in pixels.
        """
        size = (side, side)
        octaves = np.array((0.9, 0.6, 0.45, 0.45, 0.5, 0.6)) * rng.uniform(0.4, 1.3, 6)
        rough = fractal(rng, (4, 11, 37, 101, 256, 512), octaves.tolist(), float(rng.uniform(20, 44)))
        fine = fractal(rng, (9, 60, 170, 512), (0.4, 0.3, 0.6, 1.2), float(rng.uniform(18, 36)))
        smooth = fractal(rng, (3, 7, 16, 40), (1.0, 0.7, 0.4, 0.2))
        self.rough = cv2.resize(rough, size, interpolation=cv2.INTER_LINEAR)
        """All octaves: soil, grass, meadows."""
        self.fine = cv2.resize(fine, size, interpolation=cv2.INTER_LINEAR)
        """Mostly grain: concrete, roofs, crops."""
        self.smooth = cv2.resize(smooth, size, interpolation=cv2.INTER_LINEAR)
        """Only broad blobs: water, stains."""
