"""Where courts and parking lots find room."""

from __future__ import annotations

import math

from rsrefseg.scenes.canvas import Canvas
from rsrefseg.scenes.ground import Ground
from rsrefseg.scenes.grounds import BASKET_PITCH, TENNIS_PITCH, draw_basketball_courts, draw_tennis_courts
from rsrefseg.scenes.shapes import rectangle
from rsrefseg.scenes.vehicles import draw_parking, parking_size


def lay_courts(canvas: Canvas, angle: float, ground: Ground, groups: int) -> None:
    """Put groups of tennis and basketball courts where there is room.

    Args:
        canvas: The ground.
        angle: The direction the neighbourhood follows, in radians.
        ground: What the land looks like.
        groups: How many groups to try.
    """
    rng = canvas.rng
    for _ in range(groups):
        tennis = rng.uniform() < 0.6
        length, pitch = TENNIS_PITCH if tennis else BASKET_PITCH
        count = int(rng.choice((1, 2, 3, 4, 6), p=(0.26, 0.34, 0.18, 0.14, 0.08)))
        turn = angle + float(rng.choice((0, math.pi / 2)))
        spot = canvas.find(length + 3, pitch * count + 3, turn, edge=0.4)
        if spot is None:
            continue
        if tennis:
            draw_tennis_courts(spot, count, mixed=bool(rng.uniform() < 0.1))
        else:
            draw_basketball_courts(spot, min(count, 4))


def car_park(canvas: Canvas, angle: float, ground: Ground, most: int) -> None:
    """Put a parking lot where there is room.

    Args:
        canvas: The ground.
        angle: The direction the neighbourhood follows, in radians.
        ground: What asphalt looks like here.
        most: How many bays at most.
    """
    rng = canvas.rng
    rows = int(rng.integers(1, 4))
    bays = int(rng.integers(6, max(7, most // rows)))
    length, width = parking_size(bays, rows)
    spot = canvas.find(length + 4, width + 4, angle + float(rng.choice((0, math.pi / 2))))
    if spot is None:
        return
    spot.cover(rectangle(length + 4, width + 4), ground.asphalt, canvas.noise.fine)
    draw_parking(spot, bays, rows, float(rng.uniform(0.15, 0.9)))
