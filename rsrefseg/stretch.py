"""Grey levels of any range brought to eight bits, by counting them a block at a time: no copy of the image is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

HALF_BITS = 16
"""Of a float32's 32 bits those that are counted in one pass."""

HALF = 1 << HALF_BITS

Blocks = Callable[[], Iterable[np.ndarray]]
"""Goes through an image once more: (n, m) float32 each, finite, at least one pixel in all."""


def percentiles(blocks: Blocks, percents: tuple[float, ...]) -> list[float]:
    """Find what `numpy.percentile` does, exactly, in two passes and half a megabyte.

    Args:
        blocks: The grey levels.
        percents: Which ones, in [0, 100].

    Returns:
        A grey level for each, between two of the image's where it lies between them.
    """
    counts = np.zeros(HALF, np.int64)
    for keys in _keys(blocks):
        counts += np.bincount(keys >> HALF_BITS, minlength=HALF)
    upto = counts.cumsum()
    places = [(upto[-1] - 1) * percent / 100 for percent in percents]
    ranks = sorted({int(rank) for place in places for rank in (np.floor(place), np.ceil(place))})
    uppers = {rank: int(upto.searchsorted(rank, side="right")) for rank in ranks}
    lower_counts = {upper: np.zeros(HALF, np.int64) for upper in uppers.values()}
    for keys in _keys(blocks):
        for upper, lower_count in lower_counts.items():
            lower_count += np.bincount(keys[keys >> HALF_BITS == upper] & (HALF - 1), minlength=HALF)
    levels = {}
    for rank, upper in uppers.items():
        left = rank - (upto[upper] - counts[upper])
        lower = int(lower_counts[upper].cumsum().searchsorted(left, side="right"))
        levels[rank] = _level(upper << HALF_BITS | lower)
    return [
        levels[int(place)] + (levels[int(np.ceil(place))] - levels[int(place)]) * (place - int(place))
        for place in places
    ]


def to_eight_bits(grey: np.ndarray, low: float, high: float) -> np.ndarray:
    """Stretch grey levels.

    Args:
        grey: (h, w) float32, finite.
        low: What becomes 0.
        high: What becomes 255; the same as `low` for an image of one level.

    Returns:
        (h, w) uint8.
    """
    scaled = (grey - np.float64(low)) * (255.0 / (high - low or 1.0))
    stretched: np.ndarray = np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled).astype(np.uint8)
    return stretched


def _keys(blocks: Blocks) -> Iterator[np.ndarray]:
    # Numbers in the order of the levels: a float's bits are so but for the sign, which turns the order of the others.
    for block in blocks():
        bits = np.ascontiguousarray(block).view(np.uint32).ravel()
        yield np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _level(key: int) -> float:
    bits = key ^ (1 << 31) if key >> 31 else ~key & 0xFFFFFFFF
    return float(np.array(bits, np.uint32).view(np.float32))
