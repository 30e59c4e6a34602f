"""Masks as shapes: cleaned, made coarser, cut into connected parts, enclosed by rings and boxes, and drawn from them.

Rings and boxes run along the edges of pixels, not through their centres: a mask of one pixel is a square of size 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from workers.contract import Rules

HOLES_LIMIT = 32
"""Most holes that are cut out of one part; smaller ones beyond it are filled."""

POINTS_AT_ONCE = 256

CROSSINGS_LIMIT = 20_000_000
"""Most rows that the lines of a ring may cross in all."""

PIXELS_AT_ONCE = 1 << 22

TOUCHING_CORNERS = 8
TOUCHING_SIDES = 4
"""What belongs together: pixels of a mask may touch at a corner, and so those of a hole may not."""


@dataclass(frozen=True)
class Part:
    """A connected part of a mask."""

    left: int
    top: int
    pixels: int
    mask: np.ndarray
    """(h, w) bool, no larger than the part."""

    def alone(self, size_hw: tuple[int, int]) -> np.ndarray:
        """Draw it without the other parts.

        Args:
            size_hw: The image's height and width.

        Returns:
            (h, w) bool.
        """
        mask = np.zeros(size_hw, bool)
        height, width = self.mask.shape
        mask[self.top : self.top + height, self.left : self.left + width] = self.mask
        return mask


class Box(NamedTuple):
    """A rectangle in pixels, turned clockwise about its own upper left corner."""

    x: float
    y: float
    width: float
    height: float
    degrees: float = 0.0


def clean(mask: np.ndarray, rules: Rules) -> np.ndarray:
    """Fill pinholes, then leave out specks; the largest part always stays.

    Args:
        mask: (h, w) bool.
        rules: What is a pinhole and what a speck.

    Returns:
        (h, w) bool.
    """
    if not mask.any():
        return mask
    where = _bounds(mask)
    drawn = np.ascontiguousarray(mask[where])
    if rules.pinhole_pixels > 1:
        drawn = drawn | _pinholes(drawn, rules.pinhole_pixels)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(drawn.view(np.uint8), connectivity=TOUCHING_CORNERS)
    areas = stats[:, cv2.CC_STAT_AREA]
    largest = areas[1:].max(initial=0)
    keep = areas >= min(largest, max(rules.speck_pixels, rules.speck_share * largest))
    keep[0] = False
    cleaned = np.zeros_like(mask)
    cleaned[where] = drawn if keep[1:].all() else keep[labels]
    return cleaned


def _bounds(mask: np.ndarray) -> tuple[slice, slice]:
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    return slice(top, top + height), slice(left, left + width)


def _pinholes(mask: np.ndarray, pixels: int) -> np.ndarray:
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).view(np.uint8), connectivity=TOUCHING_SIDES)
    height, width = mask.shape
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    right, bottom = left + stats[:, cv2.CC_STAT_WIDTH], top + stats[:, cv2.CC_STAT_HEIGHT]
    # What touches the border is open to what lies around it, and no hole.
    fill = (left > 0) & (top > 0) & (right < width) & (bottom < height) & (stats[:, cv2.CC_STAT_AREA] < pixels)
    fill[0] = False
    holes: np.ndarray = fill[labels]
    return holes


def coarser(mask: np.ndarray, level: int) -> np.ndarray:
    """Draw a mask with less detail: whatever is finer than 2 ** level pixels is averaged away.

    Args:
        mask: (h, w) bool.
        level: How coarse; 0 changes nothing.

    Returns:
        (h, w) bool; empty only if the mask is.
    """
    if level == 0 or not mask.any():
        return mask
    height, width = mask.shape
    cells = max(1, -(-width >> level)), max(1, -(-height >> level))
    density = cv2.resize(mask.view(np.uint8) * np.uint8(255), cells, interpolation=cv2.INTER_AREA)
    density = cv2.GaussianBlur(density, (3, 3), 0, borderType=cv2.BORDER_REPLICATE)
    smooth = cv2.resize(density, (width, height), interpolation=cv2.INTER_LINEAR)
    # Of a mask that is thin everywhere, or strewn, the densest half stays.
    drawn: np.ndarray = smooth >= max(1, min(128, int(smooth.max()) // 2))
    return drawn if drawn.any() and smooth.any() else mask


def parts(mask: np.ndarray, most: int) -> list[Part]:
    """Cut a mask into its connected parts.

    Args:
        mask: (h, w) bool.
        most: How many are wanted.

    Returns:
        The largest of them, the largest first.
    """
    if not mask.any():
        return []
    down, right = _bounds(mask)
    drawn = np.ascontiguousarray(mask[down, right])
    _, labels, stats, _ = cv2.connectedComponentsWithStats(drawn.view(np.uint8), connectivity=TOUCHING_CORNERS)
    by_size = 1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable")[:most]
    found = []
    for label in by_size:
        left, top, width, height, pixels = (int(number) for number in stats[label])
        inside = labels[top : top + height, left : left + width] == label
        found.append(Part(right.start + left, down.start + top, pixels, inside))
    return found


def box_around(several: Sequence[Part]) -> Box:
    """Enclose parts with an upright box.

    Args:
        several: At least one.

    Returns:
        The smallest such box.
    """
    left, top = min(part.left for part in several), min(part.top for part in several)
    right = max(part.left + part.mask.shape[1] for part in several)
    bottom = max(part.top + part.mask.shape[0] for part in several)
    return Box(left, top, right - left, bottom - top)


def turned_box_around(several: Sequence[Part], size_hw: tuple[int, int]) -> Box:
    """Enclose parts with a box that is turned to fit.

    Args:
        several: At least one.
        size_hw: The image's height and width.

    Returns:
        The smallest such box, turned as little as can be and with the corner that it is turned about inside of the
        image; the upright box if there is none that is no longer than the image's sides.
    """
    height, width = size_hw
    corners = np.concatenate([_rings(part)[0] for part in several]).astype(np.float32)
    around = cv2.boxPoints(cv2.minAreaRect(corners)).astype(float)  # (4, 2), clockwise
    candidates = []
    for first in range(4):
        corner, second, _, fourth = np.roll(around, -first, axis=0)
        along, across = second - corner, fourth - corner
        degrees = float(np.degrees(np.arctan2(along[1], along[0]))) % 360
        sides = float(np.hypot(*along)), float(np.hypot(*across))
        box = Box(float(corner[0]), float(corner[1]), *sides, degrees)
        if 0 <= box.x <= width and 0 <= box.y <= height and box.width <= width and box.height <= height:
            candidates.append((min(degrees, 360 - degrees), box))
    return min(candidates)[1] if candidates else box_around(several)


def corners_of(box: Box) -> np.ndarray:
    """Say where a box ends.

    Args:
        box: The box.

    Returns:
        (4, 2) float, x and y, clockwise from the corner that it is turned about.
    """
    turn = np.radians(box.degrees)
    along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    corner = np.array([box.x, box.y])
    sides = [0 * along, box.width * along, box.width * along + box.height * across, box.height * across]
    corners: np.ndarray = corner + np.array(sides)
    return corners


def filled(ring: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Draw what a ring encloses: the way back from `in_one_line`.

    A pixel belongs to it if its middle does. Where the ring crosses itself, what it goes round in sum counts, as in
    the editor, so that a hole that is gone round the other way stays open.

    Args:
        ring: (n, 2) float, x and y in pixels, in one line and closed; it may reach beyond the image.
        size_hw: The image's height and width.

    Returns:
        (h, w) bool.

    Raises:
        ValueError: If the ring goes up and down more often than any that is worth drawing.
    """
    height, width = size_hw
    start = np.clip(ring, -1e9, 1e9)
    end = np.roll(start, -1, axis=0)
    # Each line from above to below, so that one that is gone both ways is crossed at the very same spot.
    down = start[:, 1] < end[:, 1]
    upper, lower = np.where(down[:, None], start, end), np.where(down[:, None], end, start)
    first, last = (np.clip(np.ceil(ends[:, 1] - 0.5), 0, height).astype(np.int64) for ends in (upper, lower))
    rows = last - first
    if rows.sum() > CROSSINGS_LIMIT:
        raise ValueError("a polygon has too many long lines")
    line = np.repeat(np.arange(len(ring)), rows)
    row = np.arange(len(line)) - np.repeat(np.cumsum(rows) - rows, rows) + first[line]
    share = (row + 0.5 - upper[line, 1]) / (lower - upper)[line, 1]
    x = upper[line, 0] + share * (lower - upper)[line, 0]
    # Beyond the right edge is a column more, which is cut off.
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    turn = np.where(down[line], 1, -1)
    mask = np.zeros(size_hw, bool)
    at_once = max(1, PIXELS_AT_ONCE // (width + 1))
    order = np.argsort(row, kind="stable")
    row, column, turn = row[order], column[order], turn[order]
    for top in range(int(row[0]) if len(row) else height, int(row[-1]) + 1 if len(row) else height, at_once):
        some = slice(*np.searchsorted(row, [top, top + at_once]))
        bottom = min(height, top + at_once)
        places = (row[some] - top) * (width + 1) + column[some]
        crossed = np.bincount(places, turn[some], (bottom - top) * (width + 1)).reshape(-1, width + 1)
        mask[top:bottom] = np.cumsum(crossed, axis=1)[:, :width] != 0
    return mask


def rings_of(part: Part, tolerance_px: float, hole_pixels: int) -> list[np.ndarray]:
    """Draw round a part, and round its holes.

    Args:
        part: The part.
        tolerance_px: How far a ring may lie from the pixels' edges; Douglas and Peucker's rule.
        hole_pixels: Smaller holes are filled.

    Returns:
        (n, 2) float each, x and y, at least three points: first clockwise around the part, then around holes the other
        way round, so that every rule of filling leaves them open.
    """
    around, *holes = _rings(part)
    cut_out = [hole for hole in holes if cv2.contourArea(hole) >= hole_pixels]
    simple: list[np.ndarray] = [
        cv2.approxPolyDP(ring, tolerance_px, True).reshape(-1, 2).astype(float) for ring in (around, *cut_out)
    ]
    if len(simple[0]) < 3:
        height, width = part.mask.shape
        simple[0] = np.array([[0, 0], [width, 0], [width, height], [0, height]], float) + (part.left, part.top)
    turned = [ring if _clockwise(ring) is (n == 0) else ring[::-1] for n, ring in enumerate(simple)]
    return [turned[0], *(ring for ring in turned[1:] if len(ring) >= 3)]


def in_one_line(rings: Sequence[np.ndarray]) -> np.ndarray:
    """Join rings by cuts: a line that goes from one to the next and comes back on the same way.

    No cut crosses another ring, since each is the shortest way to the nearest one.

    Args:
        rings: (n, 2) float each, at least one.

    Returns:
        (n, 2) float.
    """
    line, *others = rings
    nearest = [_way(line, ring).length for ring in others]
    while others:
        chosen = int(np.argmin(nearest))
        ring = others.pop(chosen)
        nearest.pop(chosen)
        line = _joined(line, ring)
        nearest = [min(length, _way(ring, other).length) for length, other in zip(nearest, others, strict=True)]
    return line


def _rings(part: Part) -> list[np.ndarray]:
    # (n, 2) int32 each: around the part, then around its largest holes. On a grid of the pixels' corners, since a line
    # through the pixels' centres would make everything smaller by half a pixel.
    padded = np.pad(part.mask, 1)
    corners = padded[:-1, :-1] | padded[:-1, 1:] | padded[1:, :-1] | padded[1:, 1:]
    found, hierarchy = cv2.findContours(corners.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    is_hole = hierarchy[0][:, 3] >= 0
    holes = sorted((ring for ring, hole in zip(found, is_hole, strict=True) if hole), key=cv2.contourArea, reverse=True)
    [around] = [ring for ring, hole in zip(found, is_hole, strict=True) if not hole]
    return [_squared(ring[:, 0], corners) + (part.left, part.top) for ring in (around, *holes[:HOLES_LIMIT])]


def _squared(ring: np.ndarray, corners: np.ndarray) -> np.ndarray:
    # OpenCV goes aslant where it can; the pixels' edges go through the corner in between that belongs to the part.
    following = np.roll(ring, -1, axis=0)
    aslant = (ring != following).all(1)
    one = np.stack([ring[:, 0], following[:, 1]], 1)
    other = np.stack([following[:, 0], ring[:, 1]], 1)
    first, second = corners[one[:, 1], one[:, 0]], corners[other[:, 1], other[:, 0]]
    between = np.where(first[:, None], one, other)
    keep = np.stack([np.ones(len(ring), bool), aslant & (first != second)], 1).reshape(-1)
    squared: np.ndarray = np.stack([ring, between], 1).reshape(-1, 2)[keep]
    return squared


def _clockwise(ring: np.ndarray) -> bool:
    x, y = ring.T
    return bool(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) > 0)


class _Way(NamedTuple):
    length: float
    """Squared, in pixels."""
    start_edge: int
    """The edge of the first ring that it begins on."""
    start: np.ndarray
    end_edge: int
    end: np.ndarray


def _way(one: np.ndarray, other: np.ndarray) -> _Way:
    # The shortest way between two rings begins or ends at a point of one of them.
    there, point, edge, foot = _nearest(one, other)
    back, other_point, other_edge, other_foot = _nearest(other, one)
    if there <= back:
        return _Way(there, point, one[point], edge, foot)
    return _Way(back, other_edge, other_foot, other_point, other[other_point])


def _nearest(points: np.ndarray, ring: np.ndarray) -> tuple[float, int, int, np.ndarray]:
    along = np.roll(ring, -1, axis=0) - ring
    squared = np.maximum((along**2).sum(1), 1e-12)
    best = (float("inf"), 0, 0, ring[0])
    for start in range(0, len(points), POINTS_AT_ONCE):
        some = points[start : start + POINTS_AT_ONCE]
        share = np.clip(((some[:, None] - ring) * along).sum(2) / squared, 0, 1)
        feet = ring + share[..., None] * along
        distances = ((some[:, None] - feet) ** 2).sum(2)
        point, edge = divmod(int(distances.argmin()), len(ring))
        best = min(
            best, (float(distances[point, edge]), start + point, edge, feet[point, edge]), key=lambda way: way[0]
        )
    return best


def _joined(line: np.ndarray, ring: np.ndarray) -> np.ndarray:
    way = _way(line, ring)
    around = np.concatenate([[way.end], ring[way.end_edge + 1 :], ring[: way.end_edge + 1], [way.end]])
    head, tail = line[: way.start_edge + 1], line[way.start_edge + 1 :]
    joined: np.ndarray = np.concatenate([head, [way.start], around, [way.start], tail])
    fresh = np.ones(len(joined), bool)
    fresh[1:] = (joined[1:] != joined[:-1]).any(1)
    line = joined[fresh]
    return line
