"""Sports grounds: courts, diamonds and running tracks."""

from __future__ import annotations

import math

import numpy as np

from rsrefseg.scenes.canvas import Frame
from rsrefseg.scenes.shapes import arc, ellipse, rectangle
from rsrefseg.scenes.texture import Colour, jittered, mix, ramp, scaled

_HARD: tuple[Colour, ...] = (
    (74, 110, 84), (60, 92, 138), (146, 82, 66), (104, 122, 102), (56, 76, 116), (126, 126, 122), (84, 136, 108),
    (96, 88, 140), (168, 96, 66),
)  # fmt: skip
_TENNIS_CHANCES = (0.26, 0.2, 0.12, 0.14, 0.1, 0.04, 0.08, 0.03, 0.03)
_BASKET_CHANCES = (0.14, 0.1, 0.16, 0.17, 0.04, 0.27, 0.06, 0.02, 0.04)
_LINE: Colour = (226, 228, 224)

TENNIS_PITCH = (36.5, 17.0)
"""Length and width of the ground one tennis court needs."""
BASKET_PITCH = (32.0, 18.5)
"""Length and width of the ground one basketball court needs."""


def draw_tennis_courts(frame: Frame, count: int, mixed: bool = False) -> None:
    """Lay tennis courts side by side on one slab.

    Args:
        frame: The middle of the slab; courts lie along x.
        count: How many.
        mixed: Whether the courts differ in colour.
    """
    rng = frame.rng
    length, pitch = TENNIS_PITCH
    inner = jittered(rng, _HARD[rng.choice(9, p=_TENNIS_CHANCES)], 8)
    outer = jittered(rng, _HARD[rng.choice(9, p=_TENNIS_CHANCES)], 8)
    if rng.uniform() < 0.35:
        outer = scaled(inner, rng.uniform(0.75, 1.2))
    _slab(frame, length, pitch * count, outer)
    for i in range(count):
        if mixed:
            inner = jittered(rng, _HARD[rng.choice(9, p=_TENNIS_CHANCES)], 8)
        _tennis(frame.at(0.0, (i - (count - 1) / 2) * pitch), inner)


def _slab(frame: Frame, length: float, width: float, colour: Colour) -> None:
    slab = rectangle(length, width)
    frame.shadow(slab, 1.0)
    frame.cover(slab, ramp(scaled(colour, 0.9), colour, scaled(colour, 1.08)), frame.canvas.noise.rough)
    frame.line(slab, scaled(colour, 0.6), 0.3, closed=True)


def _tennis(frame: Frame, colour: Colour) -> None:
    owner = frame.canvas.thing("tennis court")
    court = rectangle(23.8, 11.0)
    frame.cover(court, ramp(scaled(colour, 0.92), colour, scaled(colour, 1.08)), frame.canvas.noise.rough, owner)
    line = mix(colour, _LINE, frame.rng.uniform(0.55, 0.95))
    frame.line(court, line, 0.14, closed=True)
    for y in (-4.1, 4.1):
        frame.line([(-11.9, y), (11.9, y)], line, 0.1)
    for x in (-6.4, 6.4):
        frame.line([(x, -4.1), (x, 4.1)], line, 0.1)
    frame.line([(-6.4, 0), (6.4, 0)], line, 0.1)
    frame.line([(0, -6), (0, 6)], mix(colour, (30, 34, 34), 0.6), 0.1)


def draw_basketball_courts(frame: Frame, count: int) -> None:
    """Lay basketball courts side by side on one slab.

    Args:
        frame: The middle of the slab; courts lie along x.
        count: How many.
    """
    rng = frame.rng
    length, pitch = BASKET_PITCH
    inner = jittered(rng, _HARD[rng.choice(9, p=_BASKET_CHANCES)], 8)
    outer = inner if rng.uniform() < 0.4 else jittered(rng, _HARD[rng.choice(9, p=_BASKET_CHANCES)], 8)
    key = jittered(rng, _HARD[rng.integers(9)], 8) if rng.uniform() < 0.5 else inner
    _slab(frame, length, pitch * count, scaled(outer, 0.96))
    for i in range(count):
        _basketball(frame.at(0.0, (i - (count - 1) / 2) * pitch), inner, key)


def _basketball(frame: Frame, colour: Colour, key: Colour) -> None:
    owner = frame.canvas.thing("basketball court")
    court = rectangle(28.0, 15.0)
    frame.cover(court, ramp(scaled(colour, 0.92), colour, scaled(colour, 1.08)), frame.canvas.noise.rough, owner)
    line = mix(colour, _LINE, frame.rng.uniform(0.5, 0.95))
    for end in (-1, 1):
        frame.fill(rectangle(5.8, 4.9, end * 11.1), key)
        frame.line(rectangle(5.8, 4.9, end * 11.1), line, 0.12, closed=True)
        around = 0.0 if end < 0 else math.pi
        frame.line(arc(6.9, around - 1.35, around + 1.35, end * 12.4), line, 0.12)
        frame.line(arc(1.8, around - 1.57, around + 1.57, end * 8.2, 0, 9), line, 0.12)
        frame.shadow(rectangle(0.4, 1.8, end * 12.8), 3.0)
        frame.fill(rectangle(0.3, 1.8, end * 12.8), (236, 236, 236))
    frame.fill(ellipse(3.6, 3.6, 0, 0, 18), key)
    frame.line(ellipse(3.6, 3.6, 0, 0, 18), line, 0.12, closed=True)
    frame.line([(0, -7.5), (0, 7.5)], line, 0.12)
    frame.line(court, line, 0.15, closed=True)


def draw_diamond(frame: Frame, size: float, lawn: np.ndarray) -> int:
    """Lay out a baseball diamond with home plate at the frame's origin, opening towards +x.

    Args:
        frame: Home plate.
        size: 1 for a full diamond, less for youth fields.
        lawn: The ramp of its grass.

    Returns:
        Its owner number.
    """
    rng = frame.rng
    canvas = frame.canvas
    dirts: tuple[Colour, ...] = ((190, 160, 122), (206, 184, 150), (168, 122, 88), (158, 104, 76), (184, 150, 112))
    dirt = jittered(rng, dirts[rng.integers(5)], 9)
    table = ramp(scaled(dirt, 0.88), dirt, scaled(dirt, 1.1))
    if rng.uniform() < 0.75:
        reach = 75 * size
        outfield = np.concatenate([[(-6 * size, 0)], arc(reach, -0.85, 0.85)])
        grass = lawn if rng.uniform() < 0.5 else np.roll(lawn, int(rng.integers(-22, 22)), 0)
        frame.cover(outfield, np.clip(grass, 0, 255), canvas.noise.rough)
        if rng.uniform() < 0.5:
            frame.line(outfield, mix((150, 140, 110), (220, 220, 214), rng.uniform()), 0.4, closed=True)
    bulge = rng.uniform(0.95, 1.12)
    turn = math.radians(rng.uniform(70, 88))
    home = arc(3.9, math.radians(110), math.radians(250), 0.0, 0.0, 9)
    outline = np.concatenate([arc(28.5 * bulge, -turn, turn, 18.4, 0.0, 40), home]) * size
    owner = canvas.thing("baseball diamond")
    frame.cover(outline, table, canvas.noise.rough, owner)
    if rng.uniform() < 0.68:
        inset = rng.uniform(2.2, 4.4)
        c = 19.4
        square = [(inset, 0.0), (c, -c + inset), (2 * c - inset, 0.0), (c, c - inset)]
        corners = _rounded(np.array(square), rng.uniform(0.08, 0.24)) * size
        frame.cover(corners, lawn, canvas.noise.rough)
        frame.cover(ellipse(8.4, 8.4, 0.5, 0, 18) * size, table, canvas.noise.rough)
        frame.cover(ellipse(5.6, 5.6, 18.4, 0, 14) * size, table, canvas.noise.rough)
    else:
        frame.fill(ellipse(3.4, 3.4, 14.5, 0, 12) * size, scaled(dirt, 1.06))
    chalk = mix(dirt, (240, 238, 230), rng.uniform(0.3, 0.9))
    for side in (-1, 1):
        frame.line(np.array([(1.0, side * 1.0), (21.0, side * 21.0)]) * size, chalk, 0.15)
    if rng.uniform() < 0.5:
        stop = arc(11 * size, math.radians(130), math.radians(230), 3.0, 0.0, 9)
        frame.line(stop, mix((150, 140, 110), (226, 226, 220), rng.uniform()), 0.4)
    if rng.uniform() < 0.6:
        for side in (-1, 1):
            dugout = frame.at(7 * size, side * 17.5 * size, side * math.pi / 4)
            dugout.shadow(rectangle(9, 2.4), 2.4)
            dugout.fill(rectangle(9, 2.4), (150, 150, 148), 0)
    return owner


def _rounded(corners: np.ndarray, share: float) -> np.ndarray:
    points = []
    for i in range(len(corners)):
        before, here, after = corners[i - 1], corners[i], corners[(i + 1) % len(corners)]
        start, stop = here + (before - here) * share, here + (after - here) * share
        for step in np.linspace(0, 1, 5):
            points.append((1 - step) ** 2 * start + 2 * step * (1 - step) * here + step**2 * stop)
    return np.array(points)


def stadium(length: float, width: float) -> np.ndarray:
    """Give the outline of a running track.

    Args:
        length: Full length along x.
        width: Full width.

    Returns:
        (n, 2) points.
    """
    half, radius = (length - width) / 2, width / 2
    right = arc(radius, -math.pi / 2, math.pi / 2, half, 0, 24)
    left = arc(radius, math.pi / 2, 3 * math.pi / 2, -half, 0, 24)
    return np.concatenate([right, left])


def draw_track(frame: Frame, size: float, lawn: np.ndarray) -> int:
    """Lay a running track around a pitch; the whole oval is one thing.

    Args:
        frame: Its middle; the straights lie along x.
        size: 1 for 400 metres.
        lawn: The ramp of its grass.

    Returns:
        Its owner number.
    """
    rng = frame.rng
    canvas = frame.canvas
    owner = canvas.thing("ground track field")
    length, width = 176.0 * size * rng.uniform(0.93, 1.05), 92.0 * size * rng.uniform(0.88, 1.08)
    lanes = rng.uniform(7.0, 10.5) * size
    surfaces: tuple[Colour, ...] = (
        (160, 84, 66),
        (176, 100, 78),
        (138, 72, 60),
        (188, 160, 124),
        (72, 72, 76),
        (120, 98, 84),
    )
    surface = jittered(rng, surfaces[rng.choice(6, p=(0.3, 0.22, 0.14, 0.12, 0.13, 0.09))], 8)
    table = ramp(scaled(surface, 0.9), surface, scaled(surface, 1.08))
    frame.cover(stadium(length, width), table, canvas.noise.rough, owner)
    line = mix(surface, (240, 236, 230), rng.uniform(0.2, 0.6))
    for i in range(1, 6):
        step = 2 * lanes * i / 6
        frame.line(stadium(length - step, width - step), line, 0.08, closed=True)
    inner_length, inner_width = length - 2 * lanes, width - 2 * lanes
    ends = rng.uniform()
    inside = lawn
    if ends < 0.3:
        inside = table if rng.uniform() < 0.5 else ramp((170, 150, 116), (196, 178, 142))
    frame.cover(stadium(inner_length, inner_width), inside, canvas.noise.rough)
    pitch_length, pitch_width = (
        (inner_length - inner_width) * rng.uniform(1.1, 1.32),
        inner_width * rng.uniform(0.8, 0.94),
    )
    pitch = rectangle(pitch_length, pitch_width)
    turf = lawn
    if rng.uniform() < 0.4:
        green = jittered(rng, (58, 96, 58), 9)
        turf = ramp(scaled(green, 0.95), scaled(green, 1.05))
    frame.cover(pitch, turf, canvas.noise.fine)
    _pitch_marks(frame, pitch_length, pitch_width)
    frame.line(stadium(length, width), scaled(surface, 0.8), 0.3, closed=True)
    return owner


def _pitch_marks(frame: Frame, length: float, width: float) -> None:
    rng = frame.rng
    if rng.uniform() < 0.5:
        count = int(rng.integers(8, 15))
        for i in range(0, count, 2):
            stripe = rectangle(length / count, width, -length / 2 + (i + 0.5) * length / count)
            frame.canvas.tint(frame.place(stripe), (140, 160, 110), 0.1)
    strength = rng.uniform(0.15, 0.8)
    if strength < 0.25:
        return
    line = mix((90, 120, 80), (240, 242, 236), strength)
    frame.line(rectangle(length, width), line, 0.15, closed=True)
    frame.line([(0, -width / 2), (0, width / 2)], line, 0.15)
    if rng.uniform() < 0.5:
        frame.line(ellipse(18, 18, 0, 0, 24), line, 0.15, closed=True)
        for end in (-1, 1):
            frame.line(rectangle(16, min(40.0, width * 0.7), end * (length / 2 - 8)), line, 0.15, closed=True)
        return
    for x in np.linspace(-length * 0.42, length * 0.42, 11):
        frame.line([(x, -width / 2), (x, width / 2)], line, 0.1)
    if rng.uniform() < 0.4:
        paint = jittered(rng, ((40, 60, 130), (150, 40, 40), (50, 50, 54))[rng.integers(3)], 8)
        for end in (-1, 1):
            frame.fill(rectangle(length * 0.07, width * 0.96, end * length * 0.46), paint)


def draw_stand(frame: Frame, length: float, width: float) -> None:
    """Put up a grandstand, which is not a thing of its own.

    Args:
        frame: Its middle.
        length: Metres along x.
        width: Metres.
    """
    rng = frame.rng
    paint = jittered(rng, (200, 200, 200), 14)
    frame.shadow(rectangle(length, width), 5)
    frame.fill(rectangle(length, width), paint, 0)
    for y in np.linspace(-0.4, 0.4, 5):
        frame.line([(-length / 2, y * width), (length / 2, y * width)], scaled(paint, 0.8), 0.3)
