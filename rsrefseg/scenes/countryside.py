"""Farmland, rivers with bridges, and places where a bit of everything stands."""

from __future__ import annotations

import math

import numpy as np

from rsrefseg.scenes.aircraft import draw_airplane, planform
from rsrefseg.scenes.canopy import grove, scatter
from rsrefseg.scenes.canvas import Canvas
from rsrefseg.scenes.clutter import lay_patches, lay_paths
from rsrefseg.scenes.ground import Ground
from rsrefseg.scenes.grounds import draw_basketball_courts, draw_diamond, draw_tennis_courts, draw_track
from rsrefseg.scenes.roads import draw_bridge, draw_road, draw_traffic, straight, winding
from rsrefseg.scenes.shapes import blob, rectangle
from rsrefseg.scenes.structures import draw_building, draw_pool, draw_tank, tank_paint
from rsrefseg.scenes.vehicles import draw_vehicle
from rsrefseg.scenes.vessels import draw_ship, draw_wake
from rsrefseg.scenes.waters import draw_crop, draw_lake, draw_pivot, draw_river


def lay_farmland(canvas: Canvas, ground: Ground) -> None:
    """Lay out crop fields with a farm and a lake.

    Args:
        canvas: Empty ground.
        ground: What the land looks like.
    """
    rng = canvas.rng
    canvas.cover_all(ground.grass, canvas.noise.rough)
    extent = canvas.extent
    angle = float(rng.uniform(0, 6.3))
    frame = canvas.at(extent / 2, extent / 2, angle)
    cuts = [
        np.sort(np.concatenate([[-0.75], rng.uniform(-0.6, 0.6, int(rng.integers(1, 4))), [0.75]])) * extent
        for _ in range(2)
    ]
    gap = max(2.5, 2 * canvas.metres_per_pixel)
    for x0, x1 in zip(cuts[0][:-1], cuts[0][1:], strict=True):
        for y0, y1 in zip(cuts[1][:-1], cuts[1][1:], strict=True):
            if min(x1 - x0, y1 - y0) < 6 * gap or rng.uniform() < 0.15:
                continue
            shake = rng.normal(0, 0.008, (4, 2)) * extent
            corners = rectangle(x1 - x0 - gap, y1 - y0 - gap, (x0 + x1) / 2, (y0 + y1) / 2) + shake
            draw_crop(canvas, frame.place(corners), angle + float(rng.choice((0, math.pi / 2))))
    if rng.uniform() < 0.2:
        size = float(rng.uniform(0.3, 0.6)) * extent
        draw_pivot(canvas.anywhere(None, 0.3, 0.7), size)
    if rng.uniform() < 0.8:
        at = frame.at(0, float(rng.choice(cuts[1][1:-1])))
        draw_road(
            canvas,
            straight(canvas, at.x, at.y, angle),
            max(6.0, 4 * canvas.metres_per_pixel),
            ground,
            dirt=bool(rng.uniform() < 0.4),
            kerb=False,
        )
    if rng.uniform() < 0.35:
        x, y = rng.uniform(0.2, 0.8, 2) * extent
        draw_river(
            canvas, winding(canvas, x, y, angle + 0.8, 0.15), max(12.0, extent * rng.uniform(0.03, 0.09)), ground
        )
    if rng.uniform() < 0.5:
        size = extent * float(rng.uniform(0.12, 0.4))
        spot = canvas.find(size, size * 0.7, edge=0.5)
        if spot is not None:
            draw_lake(spot, size, size * 0.65, ground)
    for _ in range(int(rng.integers(0, 3))):
        spot = canvas.find(60, 60, edge=0.6)
        if spot is None:
            continue
        for _ in range(int(rng.integers(1, 5))):
            x, y = rng.uniform(-28, 28, 2)
            size = max(float(rng.uniform(10, 34)), 9 * canvas.metres_per_pixel)
            draw_building(
                spot.at(x, y, float(rng.choice((0, math.pi / 2)))), size, size * 0.5, 5.0, bool(rng.uniform() < 0.8)
            )
    scatter(canvas, int(rng.integers(0, 60)), max(4.5, 3 * canvas.metres_per_pixel))
    if rng.uniform() < 0.5:
        place = canvas.anywhere(angle)
        grove(canvas, place.place(blob(rng, extent * 0.5, extent * 0.25)), max(4.5, 3 * canvas.metres_per_pixel))


def lay_river(canvas: Canvas, ground: Ground) -> None:
    """Lay out a river with bridges.

    Args:
        canvas: Empty ground.
        ground: What the land looks like.
    """
    rng = canvas.rng
    urban = rng.uniform() < 0.45
    canvas.cover_all(ground.concrete if urban and rng.uniform() < 0.4 else ground.grass, canvas.noise.rough)
    extent = canvas.extent
    angle = float(rng.uniform(0, 6.3))
    lay_patches(canvas, ground, angle)
    width = float(rng.uniform(0.1, 0.38)) * extent
    middle = canvas.anywhere(angle, 0.4, 0.6)
    path = winding(canvas, middle.x, middle.y, angle, float(rng.uniform(0, 0.16)))
    draw_river(canvas, path, width, ground)
    count = int(rng.choice((0, 1, 2, 3), p=(0.04, 0.46, 0.35, 0.15)))
    slots = np.linspace(18, 42, count + 2)[1:-1] + rng.uniform(-3, 3, count)
    for slot in slots:
        i = int(np.clip(slot, 1, len(path) - 2))
        at, along = path[i], path[i + 1] - path[i - 1]
        turn = math.atan2(along[1], along[0]) + math.pi / 2 + rng.normal(0, 0.2)
        lanes = int(rng.choice((2, 4, 6), p=(0.55, 0.35, 0.1)))
        road = 3.5 * lanes + float(rng.uniform(1, 4))
        road = max(road, 7 * canvas.metres_per_pixel)
        line = straight(canvas, float(at[0]), float(at[1]), turn)
        draw_road_around(canvas, line, road, ground, lanes, at, turn, width)
        draw_bridge(canvas, float(at[0]), float(at[1]), turn, width * rng.uniform(1.1, 1.25), road, ground, lanes)
        draw_traffic(canvas, line, road, lanes, int(rng.integers(0, 6)))
    _boats(canvas, path, width)
    _banks(canvas, ground, angle, urban)


def draw_road_around(
    canvas: Canvas,
    line: np.ndarray,
    road: float,
    ground: Ground,
    lanes: int,
    middle: np.ndarray,
    turn: float,
    width: float,
) -> None:
    """Lay the roads that lead to both ends of a bridge.

    Args:
        canvas: The ground.
        line: The road's middle line across everything.
        road: Width of the road in metres.
        ground: What asphalt looks like here.
        lanes: How many lanes.
        middle: The middle of the bridge.
        turn: The direction of the road in radians.
        width: Width of the river in metres.
    """
    step = np.array((math.cos(turn), math.sin(turn))) * width * 0.52
    for end, near in ((line[0], middle - step), (line[1], middle + step)):
        draw_road(canvas, np.array([end, near]), road, ground, lanes, kerb=bool(canvas.rng.uniform() < 0.5))


def _boats(canvas: Canvas, path: np.ndarray, width: float) -> None:
    rng = canvas.rng
    for _ in range(int(rng.integers(0, 5))):
        i = int(rng.integers(8, 52))
        along = path[i + 1] - path[i]
        turn = math.atan2(along[1], along[0]) + float(rng.choice((0.0, math.pi)))
        length = max(min(float(rng.uniform(8, 60)), width * 0.7), 18 * canvas.metres_per_pixel)
        spot = canvas.at(float(path[i, 0]), float(path[i, 1]), turn).at(0, rng.uniform(-0.25, 0.25) * width)
        around = spot.place([(x * length, y * length) for x in (-0.5, -0.25, 0, 0.25, 0.5) for y in (-0.15, 0.15)])
        rows, columns = np.clip(around[:, ::-1] * canvas.scale, 0, canvas.side - 1).astype(int).T
        below = set(canvas.owners[rows, columns].tolist())
        if length < width and 0 not in below and all(canvas.categories[owner - 1] == "river" for owner in below):
            if rng.uniform() < 0.5:
                draw_wake(spot, length)
            draw_ship(spot, length)


def _banks(canvas: Canvas, ground: Ground, angle: float, urban: bool) -> None:
    rng = canvas.rng
    for _ in range(int(rng.integers(14, 40)) if urban else int(rng.integers(0, 9))):
        size = max(float(rng.uniform(10, 45)), 9 * canvas.metres_per_pixel)
        spot = canvas.find(size + 2, size * 0.7 + 2, angle + float(rng.choice((0, math.pi / 2))), tries=4)
        if spot is not None:
            draw_building(spot, size, size * 0.65, float(rng.uniform(4, 20)), bool(rng.uniform() < 0.4))
    radius = max(4.0, 3 * canvas.metres_per_pixel)
    scatter(canvas, int(rng.integers(10, 220)), radius)
    for _ in range(int(rng.integers(0, 6))):
        place = canvas.anywhere(angle)
        grove(
            canvas,
            place.place(blob(rng, rng.uniform(0.2, 0.8) * canvas.extent, rng.uniform(0.1, 0.4) * canvas.extent)),
            radius,
        )


def lay_mixed(canvas: Canvas, ground: Ground) -> None:
    """Put objects of many classes side by side.

    Args:
        canvas: Empty ground.
        ground: What the land looks like.
    """
    rng = canvas.rng
    extent = canvas.extent
    base = (ground.grass, ground.soil, ground.concrete, ground.asphalt)[int(rng.choice(4, p=(0.5, 0.2, 0.18, 0.12)))]
    canvas.cover_all(base, canvas.noise.rough)
    angle = float(rng.uniform(0, 6.3))
    lay_patches(canvas, ground, angle)
    lay_paths(canvas, ground, int(rng.integers(0, 3)))
    if rng.uniform() < 0.5:
        x, y = rng.uniform(0.15, 0.85, 2) * extent
        path = straight(canvas, x, y, angle) if rng.uniform() < 0.6 else winding(canvas, x, y, angle, 0.1)
        draw_road(canvas, path, float(rng.uniform(7, 15)), ground)
        draw_traffic(canvas, path, 7, 2, int(rng.integers(0, 5)))
    for _ in range(int(rng.integers(3, 16))):
        _anything(canvas, ground, int(rng.integers(10)))
    scatter(canvas, int(rng.integers(0, 90)), 4.0)


def _anything(canvas: Canvas, ground: Ground, kind: int) -> None:
    rng = canvas.rng
    pixel = canvas.metres_per_pixel
    room = {
        0: max(float(rng.uniform(14, 60)), 22 * pixel), 1: float(rng.uniform(12, 46)), 2: 64.0, 3: 38.0, 4: 34.0,
        5: 185.0, 6: 14.0, 7: 60.0, 8: 16.0, 9: 80.0,
    }[kind]  # fmt: skip
    wide = {2: 60.0, 3: 19.0, 4: 20.0, 5: 100.0, 6: 7.0, 7: 50.0, 8: 10.0, 9: 60.0}.get(kind, room)
    spot = canvas.find(room, wide, edge=0.5)
    if spot is None:
        return
    if kind == 0:
        if rng.uniform() < 0.8:
            spot.cover(rectangle(room * 1.1, room * 1.1), ground.concrete, canvas.noise.rough)
        draw_airplane(spot, room * 0.94, planform(rng))
    elif kind == 1:
        draw_tank(spot, room * 0.8, tank_paint(rng))
    elif kind == 2:
        draw_diamond(spot.at(-21, 0), float(rng.uniform(0.7, 0.95)), ground.lawn)
    elif kind == 3:
        draw_tennis_courts(spot, 1)
    elif kind == 4:
        draw_basketball_courts(spot, 1)
    elif kind == 5:
        draw_track(spot, float(rng.uniform(0.8, 1.0)), ground.lawn)
    elif kind == 6:
        draw_vehicle(spot, str(rng.choice(("car", "van", "truck", "bus"))))
    elif kind == 7:
        draw_building(
            spot,
            float(rng.uniform(12, 56)),
            float(rng.uniform(10, 40)),
            float(rng.uniform(4, 20)),
            bool(rng.uniform() < 0.4),
        )
    elif kind == 8:
        draw_pool(spot, float(rng.uniform(8, 15)), float(rng.uniform(4.5, 9)))
    else:
        draw_lake(spot, 70.0, 52.0, ground)
        if rng.uniform() < 0.5:
            draw_ship(spot, max(float(rng.uniform(10, 24)), 20 * pixel))
