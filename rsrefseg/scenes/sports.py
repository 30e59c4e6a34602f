"""Schools and parks with their sports grounds."""

from __future__ import annotations

import math

from rsrefseg.scenes.canopy import grove, scatter
from rsrefseg.scenes.canvas import Canvas
from rsrefseg.scenes.clutter import lay_patches, lay_paths
from rsrefseg.scenes.courts import car_park, lay_courts
from rsrefseg.scenes.ground import Ground
from rsrefseg.scenes.grounds import draw_diamond, draw_stand, draw_track
from rsrefseg.scenes.roads import draw_road, draw_traffic, straight, winding
from rsrefseg.scenes.shapes import blob
from rsrefseg.scenes.structures import draw_building
from rsrefseg.scenes.suburbs import lay_district
from rsrefseg.scenes.waters import draw_lake


def lay_sports(canvas: Canvas, ground: Ground) -> None:
    """Lay out a school or park with its sports grounds.

    Args:
        canvas: Empty ground.
        ground: What the land looks like.
    """
    rng = canvas.rng
    canvas.cover_all(ground.grass, canvas.noise.rough)
    extent = canvas.extent
    angle = float(rng.uniform(0, 6.3))
    lay_patches(canvas, ground, angle)
    lay_paths(canvas, ground, int(rng.integers(0, 4)))
    roomy = extent / 300
    if rng.uniform() < 0.25 + 0.35 * roomy:
        for side in (-1, 1):
            if rng.uniform() < 0.65:
                lay_district(canvas, ground, angle, side * rng.uniform(0.33, 0.5) * extent)
    elif rng.uniform() < 0.75:
        edge = canvas.at(extent / 2, extent / 2, angle).at(0, rng.uniform(-0.5, 0.5) * extent)
        bend = rng.uniform() < 0.3
        path = winding(canvas, edge.x, edge.y, angle, 0.08) if bend else straight(canvas, edge.x, edge.y, angle)
        draw_road(canvas, path, 8.0, ground)
        draw_traffic(canvas, path, 8.0, 2, int(rng.integers(0, 6)))
    if rng.uniform() < 0.55:
        size = float(rng.uniform(0.75, 1.1))
        spot = canvas.find(180 * size, 98 * size, angle + float(rng.choice((0, math.pi / 2))), edge=0.45)
        if spot is not None:
            draw_track(spot, size, ground.lawn)
            if rng.uniform() < 0.5:
                draw_stand(spot.at(0, 54 * size), 60 * size, 9)
    for _ in range(int(rng.choice((0, 1, 2, 3, 4), p=(0.22, 0.26, 0.26, 0.15, 0.11)))):
        size = float(rng.uniform(0.55, 1.1))
        turn = None if rng.uniform() < 0.5 else angle + float(rng.integers(4)) * math.pi / 2
        spot = canvas.find(66 * size, 60 * size, turn, edge=0.5)
        if spot is not None:
            draw_diamond(spot.at(-22 * size, 0), size, ground.lawn)
    lay_courts(canvas, angle, ground, int(rng.integers(0, int(4 + 2 * roomy))))
    if rng.uniform() < 0.5:
        car_park(canvas, angle, ground, 34)
    for _ in range(int(rng.integers(0, int(4 + 4 * roomy)))):
        size = float(rng.uniform(14, 60))
        spot = canvas.find(size + 4, size * 0.6 + 4, angle)
        if spot is not None:
            draw_building(spot, size, size * 0.55, float(rng.uniform(4, 12)), bool(rng.uniform() < 0.3))
    if rng.uniform() < 0.15:
        spot = canvas.find(60, 40, edge=0.5)
        if spot is not None:
            draw_lake(spot, 50.0, 34.0, ground)
    scatter(canvas, int(rng.integers(5, 80) * min(5.0, roomy**2 * 1.6)), 4.0)
    for _ in range(int(rng.integers(0, 5))):
        place = canvas.anywhere(angle)
        wood = blob(rng, rng.uniform(0.2, 0.6) * extent, rng.uniform(0.06, 0.3) * extent)
        grove(canvas, place.place(wood), 4.2)
