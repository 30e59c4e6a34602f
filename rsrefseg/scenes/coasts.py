"""Open sea, coasts and ports."""

from __future__ import annotations

import math

import numpy as np

from rsrefseg.scenes.canopy import grove, scatter
from rsrefseg.scenes.canvas import Canvas, Frame
from rsrefseg.scenes.ground import Ground
from rsrefseg.scenes.roads import draw_road
from rsrefseg.scenes.shapes import rectangle
from rsrefseg.scenes.structures import draw_building, draw_tank, tank_paint
from rsrefseg.scenes.texture import jittered, scaled
from rsrefseg.scenes.vehicles import draw_vehicle
from rsrefseg.scenes.vessels import draw_harbor, draw_ship, draw_wake
from rsrefseg.scenes.waters import flood


def lay_open_sea(canvas: Canvas, ground: Ground) -> None:
    """Lay out sea with a few ships and perhaps a coast.

    Args:
        canvas: Empty ground.
        ground: What the land looks like.
    """
    rng = canvas.rng
    flood(canvas, ground)
    if rng.uniform() < 0.45:
        _coast(canvas, ground)
    longest = float(np.exp(rng.uniform(math.log(40), math.log(260))))
    _ships(canvas, int(rng.integers(1, 10)), max(longest, 40 * canvas.metres_per_pixel), None)


def _ships(canvas: Canvas, count: int, longest: float, angle: float | None) -> None:
    rng = canvas.rng
    for _ in range(count):
        length = longest * float(rng.uniform(0.35, 1.0))
        turn = None if angle is None or rng.uniform() < 0.3 else angle + rng.normal(0, 0.1)
        spot = canvas.find(length * 1.2, length * 0.4, turn)
        if spot is None:
            continue
        behind = spot.place([(-length * share, 0.0) for share in (0.8, 1.3, 1.8, 2.3)]).tolist()
        if rng.uniform() < 0.45 and not any(0 < x < canvas.extent and canvas.is_taken(x, y) for x, y in behind):
            draw_wake(spot, length)
        draw_ship(spot, length)


def _coast(canvas: Canvas, ground: Ground) -> None:
    rng = canvas.rng
    extent = canvas.extent
    frame = canvas.at(extent / 2, extent / 2, float(rng.uniform(0, 6.3)))
    along = np.linspace(-1.2, 1.2, 50)
    wiggle = sum(rng.normal(0, 0.06 / k) * np.sin(k * along * 2.5 + rng.uniform(0, 6.3)) for k in range(1, 6))
    shore = np.stack([along, rng.uniform(0.12, 0.4) + wiggle], axis=-1) * extent
    far = [(1.2 * extent, 2 * extent), (-1.2 * extent, 2 * extent)]
    land = np.concatenate([shore, far])
    frame.canvas.cover(
        frame.place(np.concatenate([shore - (0, extent * 0.025), far])), ground.shallow, canvas.noise.smooth
    )
    canvas.cover(frame.place(land), ground.soil, canvas.noise.rough)
    inland = np.concatenate([shore + (0, extent * rng.uniform(0.01, 0.04)), far])
    canvas.cover(frame.place(inland), ground.grass, canvas.noise.rough)
    canvas.take(frame.place(land), must_be_free=False)
    if rng.uniform() < 0.5:
        deep = np.concatenate([shore + (0, extent * 0.08), far])
        # Trees may stand on the land, which is reserved against ships.
        _wood(canvas, frame.place(deep))
    if rng.uniform() < 0.5:
        path = frame.place(shore + (0, extent * 0.06))
        draw_road(canvas, path, 9.0, ground)
    for _ in range(int(rng.integers(0, 14))):
        x, y = rng.uniform(-0.5, 0.5) * extent, rng.uniform(0.3, 0.7) * extent
        size = max(float(rng.uniform(10, 30)), 8 * canvas.metres_per_pixel)
        if y > np.interp(x, shore[:, 0], shore[:, 1]) + extent * 0.1:
            draw_building(frame.at(x, y, rng.normal(0, 0.2)), size, size * 0.6, 8.0, bool(rng.uniform() < 0.5))


def _wood(canvas: Canvas, outline: np.ndarray) -> None:
    before = canvas.reserve_only([])
    grove(canvas, outline, max(4.5, 3.5 * canvas.metres_per_pixel), 0.8)
    canvas.restore(before)


def lay_port(canvas: Canvas, ground: Ground) -> None:
    """Lay out a waterfront with piers, or a quay with ships.

    Args:
        canvas: Empty ground.
        ground: What the land looks like.
    """
    rng = canvas.rng
    flood(canvas, ground)
    extent = canvas.extent
    frame = canvas.at(extent / 2, extent / 2, float(rng.uniform(0, 6.3)))
    shore = float(rng.uniform(0.08, 0.34)) * extent
    quay = np.array([(-2 * extent, shore), (2 * extent, shore), (2 * extent, 2 * extent), (-2 * extent, 2 * extent)])
    canvas.shadow(frame.place(quay), 2.5)
    table = ground.concrete if rng.uniform() < 0.6 else ground.asphalt
    frame.cover(quay, table, canvas.noise.rough)
    frame.line(quay[:2], scaled(ground.concrete_colour, 1.1), 1.4)
    if rng.uniform() < 0.5:
        frame.cover(quay + (0, extent * rng.uniform(0.06, 0.2)), ground.grass, canvas.noise.rough)
    canvas.take(frame.place(quay), must_be_free=False)
    if rng.uniform() < 0.62:
        _marina(frame, shore)
    else:
        _berths(frame, shore)
    _quay_side(frame, shore, ground)
    longest = float(rng.uniform(12, 60)) if rng.uniform() < 0.6 else float(rng.uniform(60, 140))
    _ships(canvas, int(rng.integers(0, 6)), max(longest, 24 * canvas.metres_per_pixel), frame.angle)


def _marina(frame: Frame, shore: float) -> None:
    rng = frame.rng
    canvas = frame.canvas
    slip = max(float(rng.uniform(8, 20)), 11 * canvas.metres_per_pixel)
    pitch = slip * rng.uniform(0.34, 0.5)
    gap = slip * rng.uniform(3.0, 4.2)
    length = min(float(rng.uniform(0.25, 0.7)) * canvas.extent, canvas.extent * 0.75)
    lean = float(rng.normal(0, 0.12)) if rng.uniform() < 0.4 else 0.0
    count = int(rng.integers(1, 8))
    start = -count / 2 + rng.uniform(-0.8, 0.8)
    plank = jittered(rng, (180, 172, 158), 10)
    along = rng.uniform() < 0.3
    if along:
        trunk = [(0.0, shore), (0.0, shore - length * 1.05)]
        frame.line(trunk, plank, 2.4)
        for i in range(count):
            y = shore - (i + 0.8) * gap
            if y > shore - length:
                for side in (-1, 1):
                    if rng.uniform() < 0.85:
                        reach = float(rng.uniform(0.25, 0.42)) * canvas.extent
                        pier = frame.at(side * 2.0, y, 0.0 if side > 0 else math.pi)
                        _moor(pier, reach, slip, pitch)
        return
    for i in range(count):
        reach = length * rng.uniform(0.75, 1.05)
        pier = frame.at((start + i + 0.5) * gap, shore, -math.pi / 2 + lean)
        _moor(pier, reach, slip, pitch)


def _moor(pier: Frame, length: float, slip: float, pitch: float) -> None:
    place = rectangle(length, slip * 2.2, length / 2 + slip * 0.3)
    pier.canvas.take(pier.place(place), must_be_free=False)
    draw_harbor(pier, length, slip, pitch)


def _berths(frame: Frame, shore: float) -> None:
    rng = frame.rng
    canvas = frame.canvas
    if rng.uniform() < 0.5:
        width, reach = float(rng.uniform(12, 40)), float(rng.uniform(0.25, 0.5)) * canvas.extent
        x = rng.uniform(-0.3, 0.3) * canvas.extent
        jetty = rectangle(width, reach, x, shore - reach / 2)
        frame.shadow(jetty, 3)
        frame.fill(jetty, jittered(rng, (176, 172, 164), 12))
        canvas.take(frame.place(jetty), must_be_free=False)
        length = reach * rng.uniform(0.5, 0.9)
        for side in (-1, 1):
            if rng.uniform() < 0.8:
                spot = frame.at(
                    x + side * (width / 2 + length * 0.1), shore - reach * 0.5, math.pi / 2 * float(rng.choice((-1, 1)))
                )
                if canvas.take(spot.place(rectangle(length, length * 0.17))):
                    draw_ship(spot, length)
    at = -0.6 * canvas.extent
    while at < 0.6 * canvas.extent:
        length = float(rng.uniform(0.12, 0.4)) * canvas.extent
        spot = frame.at(at + length / 2, shore - length * 0.11 - 2.5, 0.0 if rng.uniform() < 0.5 else math.pi)
        if rng.uniform() < 0.6 and canvas.take(spot.place(rectangle(length, length * 0.17))):
            draw_ship(spot, length)
        at += length * rng.uniform(1.05, 1.5)


def _quay_side(frame: Frame, shore: float, ground: Ground) -> None:
    rng = frame.rng
    canvas = frame.canvas
    extent = canvas.extent
    water = np.array([
        (-2 * extent, shore - 2),
        (2 * extent, shore - 2),
        (2 * extent, -2 * extent),
        (-2 * extent, -2 * extent),
    ])
    afloat = canvas.reserve_only([frame.place(water)])
    if rng.uniform() < 0.6:
        y = shore + extent * rng.uniform(0.04, 0.12)
        draw_road(canvas, frame.place([(-extent, y), (extent, y)]), float(rng.uniform(7, 14)), ground, kerb=False)
    paint = tank_paint(rng)
    tanks = rng.uniform() < 0.3
    for _ in range(int(rng.integers(2, 18))):
        size = float(rng.uniform(12, 50))
        spot = canvas.find(size + 2, size * 0.8 + 2, frame.angle, tries=6)
        if spot is None:
            continue
        if tanks and rng.uniform() < 0.6:
            draw_tank(spot, size * 0.76, paint)
        else:
            draw_building(
                spot, size, size * rng.uniform(0.4, 0.8), float(rng.uniform(4, 12)), bool(rng.uniform() < 0.35)
            )
    for _ in range(int(rng.integers(0, 14))):
        x, y = rng.uniform(-0.5, 0.5) * extent, shore + rng.uniform(4, 12)
        spot = frame.at(x, y, float(rng.choice((0, math.pi / 2))))
        if canvas.take(spot.place(rectangle(5, 3))):
            draw_vehicle(spot)
    scatter(canvas, int(rng.integers(0, 50)), 3.5)
    canvas.restore(afloat)
