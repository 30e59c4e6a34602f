"""City blocks, and streets from close by."""

from __future__ import annotations

import math

import numpy as np

from rsrefseg.scenes.canopy import edge_trees, scatter
from rsrefseg.scenes.canvas import Canvas
from rsrefseg.scenes.courts import car_park, lay_courts
from rsrefseg.scenes.ground import Ground
from rsrefseg.scenes.roads import draw_road, draw_traffic, straight
from rsrefseg.scenes.shapes import rectangle
from rsrefseg.scenes.structures import draw_building, draw_pool
from rsrefseg.scenes.texture import scaled
from rsrefseg.scenes.vehicles import draw_parking, draw_vehicle, parking_size


def lay_city(canvas: Canvas, ground: Ground) -> None:
    """Lay out city blocks between streets.

    Args:
        canvas: Empty ground.
        ground: What the land looks like.
    """
    rng = canvas.rng
    canvas.cover_all(ground.concrete if rng.uniform() < 0.6 else ground.asphalt, canvas.noise.rough)
    extent = canvas.extent
    angle = float(rng.uniform(0, 6.3))
    middle = canvas.at(extent / 2, extent / 2, angle)
    block = float(rng.uniform(70, 130))
    for _ in range(int(rng.integers(4, 14))):
        plot = canvas.anywhere(angle + float(rng.choice((0, math.pi / 2))))
        table = (ground.lawn, ground.asphalt, ground.concrete, ground.soil)[
            int(rng.choice(4, p=(0.35, 0.35, 0.2, 0.1)))
        ]
        plot.cover(rectangle(float(rng.uniform(20, 90)), float(rng.uniform(15, 60))), table, canvas.noise.rough)
    paths = []
    for turn in (0.0, math.pi / 2):
        for at in np.arange(-2, 3) * block * rng.uniform(0.8, 1.2) + rng.uniform(-0.4, 0.4) * block:
            street = middle.at(0, 0, turn).at(0, at)
            if abs(at) < extent * 0.6:
                path = straight(canvas, street.x, street.y, street.angle)
                lanes = int(rng.choice((2, 4), p=(0.6, 0.4)))
                width = 3.6 * lanes + 2
                draw_road(canvas, path, width, ground, lanes)
                paths.append((path, width, lanes))
    lay_courts(canvas, angle, ground, int(rng.integers(0, 4)))
    if rng.uniform() < 0.4:
        car_park(canvas, angle, ground, 30)
    for _ in range(110):
        if canvas.categories.count("building") > 34:
            break
        size = float(np.exp(rng.uniform(math.log(10), math.log(60))))
        shape = size * float(rng.uniform(0.4, 0.9))
        spot = canvas.find(size + 1, shape + 1, angle + float(rng.choice((0, math.pi / 2))), tries=3)
        if spot is not None:
            draw_building(spot, size, shape, float(rng.choice((6, 9, 14, 22))), bool(rng.uniform() < 0.12))
    for path, width, lanes in paths:
        draw_traffic(canvas, path, width, lanes, int(rng.integers(0, 7)))
    if rng.uniform() < 0.4:
        spot = canvas.find(30, 18, angle)
        if spot is not None:
            draw_pool(spot, 25.0, 12.0)
    scatter(canvas, int(rng.integers(10, 70)), 3.2)


def lay_street(canvas: Canvas, ground: Ground) -> None:
    """Lay out a street or parking lot from close by.

    Args:
        canvas: Empty ground.
        ground: What the land looks like.
    """
    rng = canvas.rng
    extent = canvas.extent
    canvas.cover_all(ground.lawn, canvas.noise.rough)
    angle = float(rng.uniform(0, 6.3))
    middle = canvas.at(extent / 2, extent / 2, angle)
    lot = rng.uniform() < 0.4
    if lot:
        bays, rows = int(rng.integers(5, 13)), int(rng.integers(1, 4))
        length, width = parking_size(bays, rows)
        frame = canvas.anywhere(angle, 0.3, 0.7)
        frame.cover(rectangle(length + 8, width + 8), ground.asphalt, canvas.noise.fine)
        canvas.take(frame.place(rectangle(length + 8, width + 8)), False)
        draw_parking(frame, bays, rows, float(rng.uniform(0.2, 0.9)))
    at = rng.uniform(0.25, 0.45) * extent * float(rng.choice((-1, 1))) if lot else rng.uniform(-0.25, 0.25) * extent
    spot = middle.at(0, at, rng.normal(0, 0.05))
    lanes = int(rng.choice((2, 3, 4), p=(0.7, 0.15, 0.15)))
    width = 3.4 * lanes + float(rng.uniform(0, 5))
    path = straight(canvas, spot.x, spot.y, spot.angle)
    draw_road(canvas, path, width, ground, lanes)
    side_road = None
    if rng.uniform() < 0.35 and not lot:
        side = middle.at(rng.uniform(-0.3, 0.3) * extent, 0, math.pi / 2)
        side_road = straight(canvas, side.x, side.y, side.angle)
        draw_road(canvas, side_road, 7.0, ground)
        draw_traffic(canvas, side_road, 7.0, 2, int(rng.integers(0, 3)))
    draw_traffic(canvas, path, width, lanes, int(rng.integers(1, 7)))
    for _ in range(int(rng.integers(0, 6))):
        size = float(rng.uniform(8, 20))
        found = canvas.find(size + 1, size * 0.7 + 1, angle, tries=10)
        if found is not None:
            draw_building(found, size, size * 0.7, float(rng.uniform(4, 9)), bool(rng.uniform() < 0.75))
    for _ in range(int(rng.integers(0, 4))):
        found = canvas.find(6.5, 4, angle + float(rng.choice((0, math.pi / 2))), tries=6)
        if found is not None:
            found.fill(rectangle(7.5, 3.6), scaled(ground.concrete_colour, 0.9))
            draw_vehicle(found)
    if rng.uniform() < 0.3:
        found = canvas.find(11, 7)
        if found is not None:
            draw_pool(found, 8.5, 4.5)
    scatter(canvas, int(rng.integers(4, 34)), 2.6)
    if rng.uniform() < 0.5:
        edge_trees(canvas, 12)
