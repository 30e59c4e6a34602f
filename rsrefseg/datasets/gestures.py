"""What a person might point at besides saying words, or in their place: points and boxes on what is named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rsrefseg.expressions import Referral, Thing
from rsrefseg.features import BOTTOM_RIGHT, INSIDE, NOT_A_POINT, OUTSIDE, TOP_LEFT

POINTS = 3
"""Most points of one gesture: a box and a point, or some points."""

SILENT = 0.5
"""How often nobody points at anything."""

WORDLESS = 0.4
"""How often those who point say nothing."""


class Gesture(NamedTuple):
    """A person's gesture, and what is meant by it together with the words."""

    points: tuple[tuple[float, float], ...]
    """POINTS of them, x then y, as shares of the image's sides."""
    kinds: tuple[int, ...]
    said: bool
    """Whether the words count."""
    mask: np.ndarray
    """(h, w) bool."""


def point_at(things: Sequence[Thing], referral: Referral, shape: tuple[int, ...], rng: np.random.Generator) -> Gesture:
    """Invent a gesture, or none, for an expression.

    A box means what of the named lies in it, a point the one that is hit, a point outside all but the one that is hit.

    Args:
        things: What the image holds.
        referral: The expression.
        shape: (h, w) of the image.
        rng: Chooses.

    Returns:
        The gesture.
    """
    named = list(referral.indices)
    if not named or rng.random() < SILENT:
        return _gesture([], said=True, mask=union(things, named, shape))
    said = rng.random() >= WORDLESS
    hit = named[int(rng.integers(len(named)))]
    if len(named) > 1 and said and rng.random() < 0.25:
        rest = [index for index in named if index != hit]
        points = [(OUTSIDE, *_inside(things[hit].mask, rng)), (INSIDE, *_inside(things[rest[0]].mask, rng))]
        return _gesture(points, said=True, mask=union(things, rest, shape))
    if rng.random() < 0.5:
        return _gesture([(INSIDE, *_inside(things[hit].mask, rng))], said=said, mask=things[hit].mask)
    left, top, right, bottom = _box(things[hit].mask, rng)
    h, w = shape
    box = np.zeros(shape, bool)
    box[round(top * h) : round(bottom * h), round(left * w) : round(right * w)] = True
    mask = union(things, named, shape) & box if said else things[hit].mask
    return _gesture([(TOP_LEFT, left, top), (BOTTOM_RIGHT, right, bottom)], said=said, mask=mask)


def _gesture(points: list[tuple[int, float, float]], *, said: bool, mask: np.ndarray) -> Gesture:
    points = points + [(NOT_A_POINT, 0.0, 0.0)] * (POINTS - len(points))
    return Gesture(tuple((x, y) for _, x, y in points), tuple(kind for kind, _, _ in points), said, mask)


def _inside(mask: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    # The middle of three, which is seldom at the edge.
    chosen = rng.integers(len(rows), size=3)
    middle = chosen[np.argsort(np.hypot(rows[chosen] - rows.mean(), columns[chosen] - columns.mean()))[0]]
    return (columns[middle] + 0.5) / mask.shape[1], (rows[middle] + 0.5) / mask.shape[0]


def _box(mask: np.ndarray, rng: np.random.Generator) -> tuple[float, float, float, float]:
    # Nobody draws a box that fits to the pixel; most are a little large.
    rows, columns = np.nonzero(mask)
    h, w = mask.shape
    left, top, right, bottom = columns.min() / w, rows.min() / h, (columns.max() + 1) / w, (rows.max() + 1) / h
    slack = rng.uniform(-0.03, 0.12, size=4) * np.array([right - left, bottom - top] * 2) + rng.uniform(0, 0.006, 4)
    sides = np.array([left, top, right, bottom]) + slack * np.array([-1, -1, 1, 1])
    left, top, right, bottom = np.clip(sides, 0, 1).tolist()
    return left, top, right, bottom


def union(things: Sequence[Thing], indices: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
    """Put masks together.

    Args:
        things: What the image holds.
        indices: Which of them.
        shape: (h, w) of the image.

    Returns:
        (h, w) bool.
    """
    mask = np.zeros(shape, bool)
    for index in indices:
        mask |= things[index].mask
    return mask
