"""Cars, vans, trucks and buses."""

from __future__ import annotations

import math

import numpy as np

from rsrefseg.scenes.canvas import Frame
from rsrefseg.scenes.shapes import rectangle
from rsrefseg.scenes.texture import Colour, jittered, scaled

_PAINTS: tuple[Colour, ...] = (
    (232, 232, 234), (176, 180, 184), (104, 108, 112), (34, 36, 40), (170, 36, 38), (44, 76, 140), (40, 90, 70),
    (196, 160, 60), (130, 110, 90), (80, 120, 160), (200, 110, 50),
)  # fmt: skip
_CHANCES = (0.28, 0.18, 0.12, 0.13, 0.09, 0.08, 0.03, 0.02, 0.03, 0.03, 0.01)
_GLASS: Colour = (36, 44, 52)


def draw_vehicle(frame: Frame, kind: str = "car", paint: Colour | None = None) -> int:
    """Park a vehicle that looks towards the frame's +x.

    Args:
        frame: Its middle.
        kind: "car", "van", "truck" or "bus".
        paint: Its colour, by chance if None.

    Returns:
        Its owner number.
    """
    rng = frame.rng
    owner = frame.canvas.thing("vehicle")
    paint = jittered(rng, _PAINTS[rng.choice(len(_PAINTS), p=_CHANCES)], 10) if paint is None else paint
    if kind == "truck":
        _truck(frame, owner, paint)
        return owner
    length, width, height = {"van": (5.4, 2.0, 2.1), "bus": (11.8, 2.55, 3.1)}.get(kind, (4.5, 1.82, 1.45))
    length, width = length * rng.uniform(0.93, 1.1), width * rng.uniform(0.96, 1.06)
    outline = _body(length, width)
    frame.shadow(outline, height)
    frame.fill(outline, scaled(paint, 0.86), owner)
    frame.fill(outline * (0.97, 0.86), paint)
    if length * frame.canvas.scale < 14:
        frame.fill(rectangle(length * 0.16, width * 0.7, length * 0.14), _GLASS)
        return owner
    if kind == "bus":
        frame.fill(rectangle(length * 0.06, width * 0.8, length * 0.45), _GLASS)
        for x in (-0.25, 0.2):
            frame.fill(rectangle(length * 0.12, width * 0.45, x * length), scaled(paint, 0.85))
        return owner
    back = -0.40 if kind == "van" else -0.33
    glass = [(0.26, -0.36), (0.26, 0.36), (0.12, 0.32), (0.12, -0.32)]
    rear = [(back, -0.34), (back, 0.34), (back + 0.1, 0.31), (back + 0.1, -0.31)]
    size = np.array((length, width))
    frame.fill(np.array(glass) * size, _GLASS)
    frame.fill(np.array(rear) * size, scaled(_GLASS, 1.2))
    if width * frame.canvas.scale > 14:
        for side in (-1, 1):
            window = [(0.1, side * 0.4), (back + 0.11, side * 0.4), (back + 0.12, side * 0.35), (0.1, side * 0.35)]
            frame.fill(np.array(window) * size, _GLASS)
        roof = rectangle(length * (0.11 - back - 0.1), width * 0.62, length * (back + 0.1 + 0.11) / 2)
        frame.fill(roof, scaled(paint, 1.1))
        for side in (-1, 1):
            frame.fill(rectangle(length * 0.03, width * 0.16, length * 0.465, side * width * 0.32), (236, 236, 224))
            frame.fill(rectangle(length * 0.02, width * 0.16, -length * 0.475, side * width * 0.32), (150, 40, 36))
    return owner


def _body(length: float, width: float) -> np.ndarray:
    quarter = np.array([(0.5, 0.3), (0.485, 0.42), (0.44, 0.49), (-0.44, 0.49), (-0.485, 0.43), (-0.5, 0.32)])
    outline: np.ndarray = np.concatenate([quarter, quarter[::-1] * (1, -1)]) * (length, width)
    return outline


def _truck(frame: Frame, owner: int, paint: Colour) -> None:
    rng = frame.rng
    length, width = float(rng.uniform(8, 15)), 2.55
    cab = rectangle(2.3, width, length / 2 - 1.15)
    box = rectangle(length - 2.7, width, -1.35)
    frame.shadow(box, 3.2)
    frame.shadow(cab, 2.6)
    frame.fill(rectangle(length - 0.4, width * 0.7), (60, 60, 62), owner)
    frame.fill(cab, paint, owner)
    frame.fill(rectangle(0.7, width * 0.8, length / 2 - 0.5), _GLASS)
    load = jittered(rng, (222, 222, 220) if rng.uniform() < 0.6 else _PAINTS[rng.integers(len(_PAINTS))], 10)
    frame.fill(box, load, owner)
    for x in np.arange(-length / 2 + 1, length / 2 - 3, 1.6).tolist():
        frame.line([(x, -width / 2), (x, width / 2)], scaled(load, 0.92), 0.1)


def draw_parking(frame: Frame, bays: int, rows: int, full: float, angle_of_bays: float = 0.0) -> None:
    """Paint a parking lot and fill part of it.

    Args:
        frame: Its middle; rows run along x.
        bays: Bays in a row.
        rows: Rows, two to an aisle.
        full: Which share of the bays holds a car.
        angle_of_bays: How far the cars stand from square to the row, in radians.
    """
    rng = frame.rng
    pitch, depth, aisle = 2.7, 5.4, 6.5
    y = -parking_size(bays, rows)[1] / 2 + 1.0
    for row in range(rows):
        middle = y + depth / 2
        for i in range(bays + 1):
            x = (i - bays / 2) * pitch
            frame.line([(x, y), (x, y + depth)], (200, 200, 196), 0.1)
        for i in range(bays):
            if rng.uniform() < full:
                x = (i + 0.5 - bays / 2) * pitch + rng.normal(0, 0.12)
                turn = math.pi / 2 * float(rng.choice((-1, 1))) + angle_of_bays + rng.normal(0, 0.03)
                draw_vehicle(frame.at(x, middle + rng.normal(0, 0.25), turn), "van" if rng.uniform() < 0.15 else "car")
        y += depth + (aisle if row % 2 == 0 else 0.0)


def parking_size(bays: int, rows: int) -> tuple[float, float]:
    """Tell how much ground a parking lot needs.

    Args:
        bays: Bays in a row.
        rows: Rows, two to an aisle.

    Returns:
        Metres along its rows and across them.
    """
    return bays * 2.7 + 4.0, rows * 5.4 + math.ceil(rows / 2) * 6.5 + 2.0
