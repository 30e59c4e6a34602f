"""Suburbs: houses with gardens along streets."""

from __future__ import annotations

import math

import numpy as np

from rsrefseg.scenes.canopy import edge_trees, scatter
from rsrefseg.scenes.canvas import Canvas, Frame
from rsrefseg.scenes.courts import lay_courts
from rsrefseg.scenes.ground import Ground
from rsrefseg.scenes.roads import draw_road, draw_traffic, straight
from rsrefseg.scenes.shapes import rectangle
from rsrefseg.scenes.structures import draw_building, draw_pool
from rsrefseg.scenes.texture import jittered, scaled
from rsrefseg.scenes.vehicles import draw_vehicle


def lay_suburb(canvas: Canvas, ground: Ground) -> None:
    """Lay out houses with gardens along streets.

    Args:
        canvas: Empty ground.
        ground: What the land looks like.
    """
    rng = canvas.rng
    canvas.cover_all(ground.grass, canvas.noise.rough)
    extent = canvas.extent
    angle = float(rng.uniform(0, 6.3))
    middle = canvas.at(extent / 2, extent / 2, angle)
    block = float(rng.uniform(62, 84))
    width = float(rng.uniform(6.5, 9))
    first = rng.uniform(-0.5, 0.5) * block
    rows = np.arange(first - 4 * block, first + 4 * block, block)
    rows = rows[np.abs(rows) < extent * 0.75]
    paths = [middle.place([(-extent, y), (extent, y)]) for y in rows]
    if rng.uniform() < 0.7:
        x = rng.uniform(-0.3, 0.3) * extent
        paths.append(middle.place([(x, -extent), (x, extent)]))
    for path in paths:
        draw_road(canvas, path, width, ground)
    lay_courts(canvas, angle, ground, int(rng.integers(0, 3)))
    for y in rows:
        for side in (-1, 1):
            lay_plots(middle.at(0, y + side * (width / 2 + 15)), extent, side, ground)
    for path in paths:
        draw_traffic(canvas, path, width, 2, int(rng.integers(0, 5)))
    scatter(canvas, int(rng.integers(20, 240) * (extent / 200) ** 2), 3.6)
    edge_trees(canvas, 40)


def lay_plots(frame: Frame, extent: float, side: int, ground: Ground) -> None:
    """Build a row of houses with gardens along the frame's x axis.

    Args:
        frame: The middle of the row.
        extent: How far the row reaches, in metres.
        side: On which side of its street the row lies, 1 or -1.
        ground: What the land looks like.
    """
    rng = frame.rng
    canvas = frame.canvas
    x = -extent * 0.75
    while x < extent * 0.75:
        lot = float(rng.uniform(18, 30))
        x += lot
        house = frame.at(x, rng.normal(0, 1.2), float(rng.choice((0, math.pi / 2), p=(0.75, 0.25))))
        if not (-12 < house.x < extent + 12 and -12 < house.y < extent + 12):
            continue
        length, width = float(rng.uniform(10, 16)), float(rng.uniform(8, 11))
        if canvas.categories.count("building") > 30:
            return
        if rng.uniform() < 0.08 or not canvas.take(house.place(rectangle(length + 1, length + 1))):
            continue
        drive = rectangle(4, 12, x + length * 0.3, -side * 9.5)
        frame.fill(drive, scaled(ground.concrete_colour, rng.uniform(0.75, 0.95)))
        if rng.uniform() < 0.4:
            draw_vehicle(frame.at(x + length * 0.3, -side * 9.5, math.pi / 2 * side))
        draw_building(house, length, width, float(rng.uniform(3.5, 7)), bool(rng.uniform() < 0.92))
        if rng.uniform() < 0.22:
            pool = frame.at(x + rng.uniform(-3, 3), side * rng.uniform(12, 16), rng.uniform(0, 3))
            if canvas.take(pool.place(rectangle(10, 6))):
                draw_pool(pool, float(rng.uniform(7, 11)), float(rng.uniform(3.5, 5.5)))
        elif rng.uniform() < 0.3:
            shed = frame.at(x + rng.uniform(-4, 4), side * 14)
            shed.shadow(rectangle(4, 3), 2)
            shed.fill(rectangle(4, 3), jittered(rng, (150, 140, 128), 20))


def lay_district(canvas: Canvas, ground: Ground, angle: float, at: float) -> None:
    """Lay a street with houses near one edge, as the neighbourhood of something else.

    Args:
        canvas: The ground.
        ground: What the land looks like.
        angle: The direction of the street in radians.
        at: How far from the middle it runs, in metres.
    """
    rng = canvas.rng
    street = canvas.at(canvas.extent / 2, canvas.extent / 2, angle).at(0, at)
    path = straight(canvas, street.x, street.y, angle)
    draw_road(canvas, path, 7.5, ground)
    for side in (-1, 1):
        if rng.uniform() < 0.8:
            lay_plots(street.at(0, side * 19), canvas.extent, side, ground)
    draw_traffic(canvas, path, 7.5, 2, int(rng.integers(0, 5)))
