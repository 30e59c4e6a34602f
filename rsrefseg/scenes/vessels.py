"""Ships, and harbors with their moored boats."""

from __future__ import annotations

import math

import numpy as np

from rsrefseg.scenes.canvas import Frame
from rsrefseg.scenes.shapes import ellipse, rectangle
from rsrefseg.scenes.texture import Colour, jittered, mix, scaled

_HULLS: tuple[Colour, ...] = (
    (226, 228, 230), (150, 152, 156), (95, 100, 106), (150, 62, 48), (196, 70, 50), (58, 84, 128), (70, 96, 82),
    (130, 100, 74), (46, 48, 54), (60, 120, 170), (200, 190, 170),
)  # fmt: skip
_HULL_CHANCES = (0.26, 0.18, 0.10, 0.10, 0.07, 0.06, 0.05, 0.05, 0.04, 0.04, 0.05)
_BOXES: tuple[Colour, ...] = (
    (178, 60, 50), (50, 90, 150), (60, 130, 90), (200, 140, 60), (170, 172, 176), (110, 80, 60), (222, 224, 226),
)  # fmt: skip


def hull(length: float, width: float, bow: float = 0.2, stern: float = 0.8) -> np.ndarray:
    """Give the outline of a ship that points to +x.

    Args:
        length: Metres.
        width: Metres.
        bow: Which share of the length the bow takes.
        stern: How wide the stern is, of the full width.

    Returns:
        (n, 2) corners.
    """
    half = width / 2
    start = length * (0.5 - bow)
    side = [
        (-0.5 * length, half * stern), (-0.46 * length, half * (0.4 + 0.6 * stern)), (-0.4 * length, half),
        (start, half), (start + bow * length * 0.4, half * 0.86), (start + bow * length * 0.75, half * 0.5),
    ]  # fmt: skip
    return np.array([*side, (0.5 * length, 0.0), *((x, -y) for x, y in reversed(side))])


def draw_ship(frame: Frame, length: float, paint: Colour | None = None) -> int:
    """Float a ship that heads towards the frame's +x.

    Args:
        frame: Its middle.
        length: Metres.
        paint: Colour of the deck, by chance if None.

    Returns:
        Its owner number.
    """
    rng = frame.rng
    paint = jittered(rng, _HULLS[rng.choice(len(_HULLS), p=_HULL_CHANCES)], 9) if paint is None else paint
    owner = frame.canvas.thing("ship")
    small = length < 28
    width = length / (rng.uniform(2.6, 3.6) if small else rng.uniform(4.6, 7.2))
    outline = hull(length, width, rng.uniform(0.35, 0.5) if small else rng.uniform(0.12, 0.28), rng.uniform(0.65, 0.95))
    frame.shadow(outline, width * 0.22)
    frame.fill(outline, scaled(paint, 0.72), owner)
    frame.fill(outline * (0.97, 0.84), paint)
    if small:
        _cabin(frame, length, width, paint)
        return owner
    load = rng.integers(5)
    if load == 0:
        _containers(frame, length, width)
    elif load == 1:
        _hatches(frame, length, width, paint)
    elif load == 2:
        _pipes(frame, length, width, paint)
    elif load == 3:
        _decks(frame, length, width)
    _bridge_house(frame, length, width)
    return owner


def _cabin(frame: Frame, length: float, width: float, paint: Colour) -> None:
    rng = frame.rng
    frame.fill(ellipse(length * 0.36, width * 0.62, rng.uniform(-0.1, 0.08) * length, 0, 14), scaled(paint, 1.08))
    frame.fill(rectangle(length * 0.1, width * 0.5, 0.12 * length), (70, 84, 98))
    if rng.uniform() < 0.5:
        frame.fill(rectangle(length * 0.2, width * 0.6, -0.32 * length), jittered(rng, (150, 120, 90), 12))


def _containers(frame: Frame, length: float, width: float) -> None:
    rng = frame.rng
    rows, columns = int(rng.integers(5, 12)), int(rng.integers(2, 5))
    pitch, lane = 0.62 * length / rows, 0.8 * width / columns
    for row in range(rows):
        for column in range(columns):
            if rng.uniform() < 0.88:
                x = -0.26 * length + (row + 0.5) * pitch
                y = (column + 0.5) * lane - 0.4 * width
                colour = jittered(rng, _BOXES[rng.integers(len(_BOXES))], 10)
                frame.fill(rectangle(pitch * 0.88, lane * 0.92, x, y), colour)


def _hatches(frame: Frame, length: float, width: float, paint: Colour) -> None:
    rng = frame.rng
    count = int(rng.integers(3, 8))
    pitch = 0.64 * length / count
    cover = jittered(rng, scaled(paint, rng.uniform(0.6, 1.35)), 10)
    for i in range(count):
        x = -0.26 * length + (i + 0.5) * pitch
        frame.fill(rectangle(pitch * 0.66, width * 0.58, x), scaled(cover, 0.75))
        frame.fill(rectangle(pitch * 0.6, width * 0.5, x - pitch * 0.02), cover)
        if rng.uniform() < 0.4:
            frame.line(
                [(x + pitch * 0.45, -width * 0.4), (x + pitch * 0.45, width * 0.4)], (210, 200, 150), width * 0.06
            )


def _pipes(frame: Frame, length: float, width: float, paint: Colour) -> None:
    for y in (-0.12, 0.0, 0.12):
        frame.line([(-0.3 * length, y * width), (0.4 * length, y * width)], scaled(paint, 1.3), width * 0.05)
    for x in np.linspace(-0.22, 0.3, 6):
        frame.line([(x * length, -0.36 * width), (x * length, 0.36 * width)], scaled(paint, 0.75), width * 0.04)


def _decks(frame: Frame, length: float, width: float) -> None:
    for share, level in ((0.72, 222.0), (0.58, 240.0), (0.4, 206.0)):
        frame.fill(rectangle(length * share, width * (0.3 + share * 0.55), -0.03 * length), (level, level, level + 3))


def _bridge_house(frame: Frame, length: float, width: float) -> None:
    rng = frame.rng
    x = -0.37 * length if rng.uniform() < 0.85 else 0.3 * length
    block = rectangle(length * rng.uniform(0.07, 0.13), width * 0.86, x)
    frame.shadow(block, width * 0.5)
    frame.fill(block, jittered(rng, (232, 232, 230), 8))
    frame.fill(rectangle(length * 0.035, width * 0.3, x - length * 0.02), jittered(rng, (120, 90, 80), 20))


def draw_wake(frame: Frame, length: float) -> None:
    """Trail white water behind a ship that heads towards +x.

    Args:
        frame: The ship's middle.
        length: Of the ship.
    """
    rng = frame.rng
    tail = length * rng.uniform(0.8, 2.5)
    for sign in (-1, 1):
        spread = sign * tail * rng.uniform(0.1, 0.2)
        foam = [
            (-0.1 * length, sign * 0.08 * length),
            (-0.5 * length - tail, spread),
            (-0.5 * length - tail * 0.9, spread * 0.8),
        ]
        frame.canvas.tint(frame.place(foam), (220, 228, 226), 0.3)
    middle = [(-0.45 * length, 0.06 * length), (-0.5 * length - tail, 0.02 * length), (-0.45 * length, -0.06 * length)]
    frame.canvas.tint(frame.place(middle), (226, 232, 230), 0.45)


def draw_harbor(frame: Frame, length: float, slip: float, pitch: float) -> int:
    """Build a pier along +x from the frame's origin, with boats on its sides.

    Args:
        frame: Where the pier starts.
        length: Of the pier, metres.
        slip: How long a berth is, metres.
        pitch: How wide a berth is, metres.

    Returns:
        Its owner number.
    """
    rng = frame.rng
    owner = frame.canvas.thing("harbor")
    walk = float(rng.uniform(1.6, 3.2)) * max(1.0, slip / 14)
    plank = jittered(rng, (190, 184, 172) if rng.uniform() < 0.6 else (140, 122, 104), 10)
    sides = (1, -1) if rng.uniform() < 0.85 else (int(rng.choice((-1, 1))),)
    full = rng.uniform(0.6, 0.97)
    count = max(2, int(length / pitch))
    reaches: dict[int, list[float]] = {1: [], -1: []}
    boats: list[tuple[float, float, int, bool]] = []
    for side in (1, -1):
        for i in range(count):
            x = (i + 0.5) * pitch
            moored = side in sides and rng.uniform() < full
            reach = walk / 2 + (slip * rng.uniform(0.72, 1.05) if moored else slip * 0.5 if side in sides else 0.0)
            reaches[side].append(reach)
            if moored:
                boats.append((x, reach - walk / 2, side, rng.uniform() < 0.3))
    edges = {side: _around(reaches[side], pitch, side) for side in (1, -1)}
    outline = [*edges[1], (count * pitch, 0.0), *reversed(edges[-1])]
    frame.canvas.claim(frame.place(outline), owner)
    pier = rectangle(count * pitch + walk, walk, count * pitch / 2)
    frame.shadow(pier, 1.2)
    frame.fill(pier, plank, owner)
    for side in sides:
        for i in range(0, count + 1, 2):
            frame.line([(i * pitch, 0), (i * pitch, side * (walk / 2 + slip * 0.7))], scaled(plank, 0.92), walk * 0.3)
    for x, size, side, reverse in boats:
        angle = math.pi / 2 * side + (math.pi if reverse else 0.0)
        _boat(
            frame.at(x + rng.normal(0, 0.05) * pitch, side * (walk / 2 + size / 2 + 0.2), angle),
            size * 0.94,
            pitch * 0.72,
        )
    return owner


def _around(reaches: list[float], pitch: float, side: int) -> list[tuple[float, float]]:
    # People outline a pier along the ends of its boats and do not follow every gap.
    outline = []
    for i in range(len(reaches)):
        reach = side * max(reaches[max(0, i - 2) : i + 3])
        outline += [(i * pitch, reach), ((i + 1) * pitch, reach)]
    return outline


def _boat(frame: Frame, length: float, room: float) -> None:
    rng = frame.rng
    width = min(room, length * rng.uniform(0.27, 0.38))
    paint = jittered(rng, (228, 230, 232) if rng.uniform() < 0.85 else _HULLS[rng.integers(len(_HULLS))], 9)
    outline = hull(length, width, 0.45, 0.8)
    frame.shadow(outline, 1.0)
    frame.fill(outline, paint)
    deck = mix(paint, (120, 126, 136) if rng.uniform() < 0.6 else (60, 84, 130), rng.uniform(0.2, 0.9))
    frame.fill(rectangle(length * rng.uniform(0.2, 0.4), width * 0.6, -length * rng.uniform(0, 0.2)), deck)
