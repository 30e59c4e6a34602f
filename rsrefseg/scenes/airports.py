"""Airports: aprons, piers, runways and their airplanes."""

from __future__ import annotations

import math

import numpy as np

from rsrefseg.scenes.aircraft import draw_airplane, livery, planform
from rsrefseg.scenes.canopy import grove, scatter
from rsrefseg.scenes.canvas import Canvas, Frame
from rsrefseg.scenes.ground import Ground
from rsrefseg.scenes.shapes import blob, rectangle
from rsrefseg.scenes.structures import draw_building, draw_tank
from rsrefseg.scenes.texture import jittered, mix, ramp, scaled
from rsrefseg.scenes.vehicles import draw_vehicle


def lay_airport(canvas: Canvas, ground: Ground) -> None:
    """Lay out part of an airport.

    Args:
        canvas: Empty ground.
        ground: What the land looks like.
    """
    rng = canvas.rng
    canvas.cover_all(ground.grass, canvas.noise.rough)
    angle = float(rng.uniform(0, 2 * math.pi))
    middle = canvas.at(canvas.extent * rng.uniform(0.35, 0.65), canvas.extent * rng.uniform(0.35, 0.65), angle)
    kind = rng.uniform()
    wide = canvas.extent * (2.2 if kind < 0.45 else rng.uniform(0.6, 0.95))
    lay_apron(middle, wide, wide if kind < 0.45 else wide * rng.uniform(0.6, 0.95), ground)
    if kind >= 0.45 and rng.uniform() < 0.7:
        _runway(middle.at(0, wide * 0.62), ground)
    if rng.uniform() < 0.5:
        _gates(middle, ground, wide)
    else:
        _stands(middle, wide)
    for _ in range(int(rng.integers(0, 5))):
        size = float(rng.uniform(18, 60))
        spot = canvas.find(size * 1.3, size, angle)
        if spot is not None:
            draw_building(spot, size * 1.2, size * 0.8, float(rng.uniform(6, 14)), False)
    if rng.uniform() < 0.2:
        for _ in range(int(rng.integers(1, 4))):
            spot = canvas.find(22, 22)
            if spot is not None:
                draw_tank(spot, float(rng.uniform(12, 20)))
    _service(canvas, angle)
    if kind >= 0.45:
        canvas.take(middle.place(rectangle(wide, wide)), must_be_free=False)
        scatter(canvas, int(rng.integers(0, 40)), 4.0)
        if rng.uniform() < 0.4:
            corner = canvas.anywhere(0.0)
            grove(canvas, corner.place(blob(rng, canvas.extent * 0.5, canvas.extent * 0.3)), 4.0)


def lay_apron(frame: Frame, length: float, width: float, ground: Ground) -> None:
    """Pave an apron of concrete slabs.

    Args:
        frame: Its middle.
        length: Metres along x.
        width: Metres.
        ground: What concrete looks like here.
    """
    rng = frame.rng
    canvas = frame.canvas
    table = ground.concrete if rng.uniform() < 0.75 else ground.asphalt
    colour = ground.concrete_colour if table is ground.concrete else ground.asphalt_colour
    frame.cover(rectangle(length, width), table, canvas.noise.rough)
    seam = scaled(colour, rng.uniform(0.86, 0.97))
    pitch = max(float(rng.choice((7.5, 15.0, 25.0))), 5.0 / canvas.scale)
    if rng.uniform() < 0.75:
        for at in np.arange(-width / 2, width / 2, pitch).tolist():
            frame.line([(-length / 2, at), (length / 2, at)], seam, 0.1)
        for at in np.arange(-length / 2, length / 2, pitch).tolist():
            frame.line([(at, -width / 2), (at, width / 2)], seam, 0.1)
    for _ in range(int(rng.integers(0, 9))):
        x, y = rng.uniform(-0.5, 0.5, 2) * canvas.extent
        slab = rectangle(pitch * rng.integers(1, 5), pitch * rng.integers(1, 4), x, y)
        canvas.tint(frame.place(slab), scaled(colour, rng.choice((0.7, 1.25))), rng.uniform(0.1, 0.4))
    for _ in range(int(rng.integers(3, 16))):
        x, y = rng.uniform(-0.5, 0.5, 2) * canvas.extent
        stain = blob(rng, rng.uniform(3, 16), rng.uniform(1, 4), 0.3, 20) + (x, y)
        canvas.tint(frame.place(stain), scaled(colour, 0.6), rng.uniform(0.06, 0.22))
    paint = mix(colour, (220, 180, 70) if rng.uniform() < 0.6 else (236, 236, 230), rng.uniform(0.3, 0.7))
    for at in rng.uniform(-0.45, 0.45, int(rng.integers(1, 4))):
        frame.line([(-length / 2, at * width), (length / 2, at * width)], paint, 0.4)


def _runway(frame: Frame, ground: Ground) -> None:
    rng = frame.rng
    canvas = frame.canvas
    length, width = canvas.extent * 3, float(rng.uniform(35, 58))
    frame.cover(
        rectangle(length, width + 14),
        ramp(scaled(ground.asphalt_colour, 1.05), ground.asphalt_colour),
        canvas.noise.rough,
    )
    frame.cover(rectangle(length, width), ground.asphalt, canvas.noise.fine)
    canvas.take(frame.place(rectangle(length, width)), must_be_free=False)
    white = mix(ground.asphalt_colour, (240, 240, 236), rng.uniform(0.5, 0.95))
    for x in np.arange(-canvas.extent, canvas.extent, 50.0).tolist():
        frame.fill(rectangle(30, 0.9, x), white)
    for side in (-1, 1):
        frame.line([(-length / 2, side * width * 0.46), (length / 2, side * width * 0.46)], white, 0.7)
        rubber = rectangle(length, width * 0.1, 0, side * width * 0.1)
        canvas.tint(frame.place(rubber), (40, 40, 42), rng.uniform(0.05, 0.3))
    if rng.uniform() < 0.4:
        x = rng.uniform(-0.3, 0.3) * canvas.extent
        for y in np.linspace(-0.38, 0.38, 8).tolist():
            frame.fill(rectangle(30, width * 0.05, x, y * width), white)
    taxi = frame.at(rng.uniform(-0.3, 0.3) * canvas.extent, -canvas.extent * 0.3, math.pi / 2 + rng.uniform(-0.5, 0.5))
    taxi.cover(rectangle(canvas.extent * 0.6, 23), ground.asphalt, canvas.noise.fine)
    taxi.line([(-canvas.extent * 0.3, 0), (canvas.extent * 0.3, 0)], (206, 170, 70), 0.4)


def _gates(frame: Frame, ground: Ground, wide: float) -> None:
    rng = frame.rng
    canvas = frame.canvas
    length = min(canvas.extent * rng.uniform(0.6, 1.3), wide * 0.97)
    width = float(rng.uniform(18, 42))
    body = frame.place(rectangle(length, width))
    canvas.take(body, must_be_free=False)
    planes = float(rng.uniform(26, 62))
    kind = planform(rng)
    pitch = planes * rng.uniform(1.12, 1.5)
    roof = jittered(rng, (206, 206, 204), 16)
    count = int(length / pitch)
    paint = livery(rng)
    for side in (-1, 1):
        for i in range(count):
            if rng.uniform() < 0.28:
                continue
            x = (i + 0.5 - count / 2) * pitch
            size = planes * rng.uniform(0.82, 1.12)
            spot = frame.at(x, side * (width / 2 + size * 0.5 + rng.uniform(5, 12)), -side * math.pi / 2)
            if canvas.take(spot.place(rectangle(size, size * 0.9))):
                stand = mix(ground.concrete_colour, (220, 180, 70), 0.4)
                frame.line([(x, side * width / 2), (x, side * (width / 2 + size * 1.4))], stand, 0.4)
                draw_airplane(
                    spot, size, kind if rng.uniform() < 0.7 else planform(rng), paint if rng.uniform() < 0.7 else None
                )
            bridge = np.array([
                (x - 8, side * width / 2),
                (x - 3.5, side * (width / 2 + 8)),
                (x - 4.5, side * (width / 2 + 16)),
            ])
            frame.shadow(rectangle(3, 14, x - 6, side * (width / 2 + 7)), 4)
            frame.line(bridge, scaled(roof, 0.92), 2.6)
    draw_building(frame, length, width, float(rng.uniform(9, 16)), False)


def _stands(frame: Frame, wide: float) -> None:
    rng = frame.rng
    canvas = frame.canvas
    planes = float(np.exp(rng.uniform(math.log(11), math.log(64))))
    planes = max(planes, 22 * canvas.metres_per_pixel)
    rows, most = int(rng.integers(1, 4)), int(rng.integers(1, 22))
    heading = float(rng.choice((0.0, math.pi / 2, 0.7)))
    kind = planform(rng)
    pitch = planes * rng.uniform(1.15, 1.7)
    reach = min(wide, canvas.extent)
    columns = max(1, int(reach / pitch))
    paint = livery(rng)
    for row in range(rows):
        turn = heading + (math.pi if rng.uniform() < 0.4 else 0.0)
        for column in range(columns):
            if most == 0 or rng.uniform() < 0.35:
                continue
            x = (column + 0.5 - columns / 2) * pitch
            y = (row + 0.5 - rows / 2) * pitch * 1.35
            size = planes * rng.uniform(0.8, 1.2)
            spot = frame.at(x, y, turn + rng.normal(0, 0.05))
            inside = 0 < spot.x < canvas.extent and 0 < spot.y < canvas.extent
            if inside and canvas.take(spot.place(rectangle(size, size))):
                own = kind if rng.uniform() < 0.65 else planform(rng)
                draw_airplane(spot, size, own, paint if rng.uniform() < 0.6 else None)
                most -= 1
    for _ in range(int(rng.integers(0, 3)) if wide > canvas.extent else 0):
        size = planes * rng.uniform(0.6, 1.3)
        found = canvas.find(size, size)
        if found is not None:
            draw_airplane(found, size, planform(rng))


def _service(canvas: Canvas, angle: float) -> None:
    rng = canvas.rng
    for _ in range(int(rng.integers(4, 26))):
        spot = canvas.find(7, 5, angle + float(rng.choice((0, math.pi / 2))), tries=2)
        if spot is None:
            continue
        if rng.uniform() < 0.5:
            draw_vehicle(spot, str(rng.choice(("van", "truck"))))
        else:
            crate = rectangle(rng.uniform(1.5, 5), rng.uniform(1, 2.2))
            spot.shadow(crate, 1.5)
            spot.fill(crate, jittered(rng, (190, 190, 186), 30))
