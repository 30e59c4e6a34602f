"""Refineries and tank farms."""

from __future__ import annotations

import math

import numpy as np

from rsrefseg.scenes.canopy import grove, scatter
from rsrefseg.scenes.canvas import Canvas, Frame
from rsrefseg.scenes.clutter import lay_patches
from rsrefseg.scenes.ground import Ground
from rsrefseg.scenes.roads import draw_road, draw_traffic, straight
from rsrefseg.scenes.shapes import blob, rectangle
from rsrefseg.scenes.structures import draw_building, draw_tank, tank_paint
from rsrefseg.scenes.texture import jittered, scaled
from rsrefseg.scenes.waters import draw_river


def lay_refinery(canvas: Canvas, ground: Ground) -> None:
    """Lay out tanks in bunds among roads, pipes and buildings.

    Args:
        canvas: Empty ground.
        ground: What the land looks like.
    """
    rng = canvas.rng
    chance = rng.uniform()
    canvas.cover_all(
        ground.soil if chance < 0.4 else ground.grass if chance < 0.75 else ground.concrete, canvas.noise.rough
    )
    angle = float(rng.uniform(0, 6.3))
    extent = canvas.extent
    lay_patches(canvas, ground, angle)
    yard = canvas.anywhere(angle, 0.35, 0.65)
    if rng.uniform() < 0.6:
        outline = rectangle(*rng.uniform(0.6, 1.1, 2) * extent)
        yard.cover(outline, ground.concrete if rng.uniform() < 0.4 else ground.soil, canvas.noise.rough)
    roomy = (extent / 300) ** 2
    if rng.uniform() < 0.2:
        edge = canvas.at(extent / 2, extent / 2, angle).at(0, extent * 0.55)
        draw_river(canvas, straight(canvas, edge.x, edge.y, angle), extent * 0.3, ground)
    paths = []
    for turn in (0.0, math.pi / 2):
        if rng.uniform() < 0.75:
            x, y = rng.uniform(0.15, 0.85, 2) * extent
            path = straight(canvas, x, y, angle + turn)
            paths.append(path)
            draw_road(canvas, path, float(rng.uniform(6, 11)), ground, kerb=False)
    paint = tank_paint(rng)
    widest = max(float(rng.uniform(14, 60)), 16 * canvas.metres_per_pixel)
    left = int(rng.integers(3, 40))
    for _ in range(int(rng.integers(1, int(5 + 4 * roomy)))):
        left -= _bund(canvas, angle, widest * float(rng.uniform(0.4, 1.0)), left, ground, paint)
    for _ in range(int(rng.integers(1, min(18, int(6 + 5 * roomy))))):
        size = float(rng.uniform(10, 45))
        spot = canvas.find(size, size * 0.7, angle)
        if spot is not None:
            draw_building(spot, size * 0.9, size * 0.5, float(rng.uniform(4, 12)), bool(rng.uniform() < 0.25))
    for _ in range(int(rng.integers(0, min(9, int(3 + 2 * roomy))))):
        spot = canvas.find(50, 34, angle)
        if spot is not None:
            _plant(spot)
    for path in paths:
        draw_traffic(canvas, path, 7.0, 2, int(rng.integers(0, 6)))
    if rng.uniform() < 0.6:
        scatter(canvas, int(rng.integers(0, 120)), 4.0)
    if rng.uniform() < 0.35:
        corner = canvas.anywhere(angle)
        grove(canvas, corner.place(blob(rng, extent * 0.6, extent * 0.4)), 4.5)


def _bund(
    canvas: Canvas, angle: float, diameter: float, most: int, ground: Ground, paint: tuple[float, float, float]
) -> int:
    rng = canvas.rng
    pitch = diameter * rng.uniform(1.25, 1.9)
    columns, rows = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    frame = canvas.find(columns * pitch + 4, rows * pitch + 4, angle) if most > 0 else None
    if frame is None:
        return 0
    floor = rectangle(columns * pitch, rows * pitch)
    table = (ground.soil, ground.concrete, ground.grass)[rng.integers(3)]
    frame.cover(floor, table, canvas.noise.rough)
    if rng.uniform() < 0.7:
        frame.shadow(rectangle(columns * pitch, 1.0, 0, -rows * pitch / 2), 1.5)
        frame.line(floor, scaled(ground.concrete_colour, rng.uniform(0.8, 1.1)), 1.0, closed=True)
    drawn = 0
    mixed = rng.uniform() < 0.3
    for row in range(rows):
        frame.line(
            [(-columns * pitch / 2, (row - rows / 2) * pitch), (columns * pitch / 2, (row - rows / 2) * pitch)],
            (150, 146, 140),
            0.6,
        )
        for column in range(columns):
            if drawn >= most or rng.uniform() < 0.12:
                continue
            x, y = (column + 0.5 - columns / 2) * pitch, (row + 0.5 - rows / 2) * pitch
            pipe = jittered(rng, (160, 158, 150), 10)
            frame.line([(x, y), (x, (row - rows / 2) * pitch)], pipe, 0.6)
            size = diameter * (rng.uniform(0.6, 1.1) if mixed else 1.0)
            own = (
                None if rng.uniform() < 0.18 else tuple(np.clip(np.asarray(paint) + rng.normal(0, 4), 0, 255).tolist())
            )
            draw_tank(frame.at(x, y), size, own)
            drawn += 1
    return drawn


def _plant(frame: Frame) -> None:
    rng = frame.rng
    frame.fill(rectangle(46, 30), jittered(rng, (140, 134, 126), 12))
    for _ in range(26):
        x, y = rng.uniform(-21, 21), rng.uniform(-13, 13)
        box = rectangle(rng.uniform(1, 8), rng.uniform(1, 5), x, y)
        frame.shadow(box, rng.uniform(2, 12))
        frame.fill(box, jittered(rng, (170, 166, 160), 28))
    for _ in range(8):
        y = rng.uniform(-14, 14)
        frame.line([(-22, y), (22, y)], jittered(rng, (190, 186, 180), 20), 0.6)
