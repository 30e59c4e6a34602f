"""Roads, bridges and their traffic."""

from __future__ import annotations

import math

import numpy as np

from rsrefseg.scenes.canvas import Canvas
from rsrefseg.scenes.ground import Ground
from rsrefseg.scenes.shapes import rectangle
from rsrefseg.scenes.texture import Colour, jittered, mix, ramp, scaled
from rsrefseg.scenes.vehicles import draw_vehicle


def ribbon(path: np.ndarray, width: float) -> np.ndarray:
    """Give the outline of a band along a path.

    Args:
        path: (n, 2) points.
        width: Metres.

    Returns:
        (2n, 2) corners.
    """
    return np.concatenate([offset(path, width / 2), offset(path, -width / 2)[::-1]])


def offset(path: np.ndarray, distance: float) -> np.ndarray:
    """Move a path sideways.

    Args:
        path: (n, 2) points.
        distance: Metres to its right.

    Returns:
        (n, 2) points.
    """
    along = np.gradient(path, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    moved: np.ndarray = path + np.stack([-along[:, 1], along[:, 0]], axis=-1) * distance
    return moved


def straight(canvas: Canvas, x: float, y: float, angle: float) -> np.ndarray:
    """Give a path across the whole canvas.

    Args:
        canvas: The ground.
        x: A point it passes.
        y: A point it passes.
        angle: Its direction in radians.

    Returns:
        (2, 2) points outside the canvas.
    """
    reach = canvas.extent * 1.5
    step = np.array((math.cos(angle), math.sin(angle))) * reach
    return np.array([(x, y) - step, (x, y) + step])


def winding(canvas: Canvas, x: float, y: float, angle: float, bend: float) -> np.ndarray:
    """Give a smoothly bending path across the whole canvas.

    Args:
        canvas: The ground.
        x: A point near its middle.
        y: A point near its middle.
        angle: Its main direction in radians.
        bend: How far it swings, as a share of the canvas.

    Returns:
        (n, 2) points; its ends lie outside the canvas.
    """
    rng = canvas.rng
    along = np.linspace(-1.1, 1.1, 60)
    swing = np.zeros_like(along)
    for order in (1.0, 1.9, 3.1):
        swing += rng.normal(0, 1 / order) * np.sin(order * along * 2.2 + rng.uniform(0, 6.3))
    local = np.stack([along * canvas.extent, (swing - swing[30]) * bend * canvas.extent], axis=-1)
    return canvas.at(x, y, angle).place(local)


def draw_road(
    canvas: Canvas,
    path: np.ndarray,
    width: float,
    ground: Ground,
    lanes: int = 2,
    dirt: bool = False,
    kerb: bool = True,
) -> int:
    """Lay a road.

    Args:
        canvas: The ground.
        path: Its middle line.
        width: Metres.
        ground: What asphalt looks like here.
        lanes: How many lanes the markings show.
        dirt: Whether it is unpaved.
        kerb: Whether pavements run along it.

    Returns:
        Its owner number.
    """
    rng = canvas.rng
    owner = canvas.thing("road")
    if dirt:
        canvas.cover(ribbon(path, width), ground.soil, canvas.noise.rough, owner)
        return owner
    if kerb:
        canvas.fill(ribbon(path, width + rng.uniform(2, 5)), scaled(ground.concrete_colour, 0.84), 0)
    canvas.cover(ribbon(path, width), ground.asphalt, canvas.noise.fine, owner)
    canvas.take(ribbon(path, width + 1), must_be_free=False)
    draw_lane_marks(canvas, path, width, ground, lanes)
    return owner


def draw_lane_marks(canvas: Canvas, path: np.ndarray, width: float, ground: Ground, lanes: int) -> None:
    """Paint lane marks.

    Args:
        canvas: The ground.
        path: The middle line of the road.
        width: Metres.
        ground: What asphalt looks like here.
        lanes: How many lanes.
    """
    white = mix(ground.asphalt_colour, (238, 238, 232), canvas.rng.uniform(0.3, 0.8))
    yellow = mix(ground.asphalt_colour, (214, 176, 74), 0.6)
    if canvas.scale < 1.0 or width < 5:
        return
    for i in range(1, lanes):
        lane = offset(path, width * (i / lanes - 0.5))
        if lanes % 2 == 0 and i == lanes // 2:
            canvas.line(lane, yellow if canvas.rng.uniform() < 0.6 else white, 0.15)
        else:
            for start, stop in _dashes(lane, 3.0, 9.0, canvas.extent):
                canvas.line([start, stop], white, 0.15)
    if lanes > 2:
        for side in (-0.47, 0.47):
            canvas.line(offset(path, width * side), white, 0.15)


def _dashes(
    path: np.ndarray, dash: float, pitch: float, extent: float
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    lengths = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    pitch = max(pitch, lengths[-1] / 240)
    starts = np.arange(0, lengths[-1] - dash, pitch)
    ends = starts + max(dash, pitch * 0.33)
    first = np.stack([np.interp(starts, lengths, path[:, i]) for i in range(2)], axis=-1)
    last = np.stack([np.interp(ends, lengths, path[:, i]) for i in range(2)], axis=-1)
    seen = ((first > 0) & (first < extent)).all(1)
    return [((a[0], a[1]), (b[0], b[1])) for a, b in zip(first[seen].tolist(), last[seen].tolist(), strict=True)]


def draw_traffic(canvas: Canvas, path: np.ndarray, width: float, lanes: int, count: int) -> None:
    """Set vehicles on a road.

    Args:
        canvas: The ground.
        path: The middle line of the road.
        width: Metres.
        lanes: How many lanes.
        count: How many vehicles at most.
    """
    rng = canvas.rng
    lengths = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    used: list[tuple[float, int]] = []
    for _ in range(count * 3):
        if count == 0:
            return
        lane = int(rng.integers(lanes))
        at = float(rng.uniform(0, lengths[-1]))
        x, y = (float(np.interp(at, lengths, path[:, i])) for i in range(2))
        inside = 0 < x < canvas.extent and 0 < y < canvas.extent
        if not inside or any(lane == other and abs(at - place) < 16 for place, other in used):
            continue
        ahead = [float(np.interp(at + 1, lengths, path[:, i])) for i in range(2)]
        angle = math.atan2(ahead[1] - y, ahead[0] - x)
        side = width * ((lane + 0.5) / lanes - 0.5)
        spot = canvas.at(x, y, angle).at(0, side, 0.0 if side >= 0 else math.pi)
        kind = str(rng.choice(("car", "van", "truck", "bus"), p=(0.74, 0.12, 0.1, 0.04)))
        draw_vehicle(spot, kind)
        used.append((at, lane))
        count -= 1


def draw_bridge(
    canvas: Canvas, x: float, y: float, angle: float, span: float, width: float, ground: Ground, lanes: int
) -> int:
    """Carry a road over water.

    Args:
        canvas: The ground.
        x: Its middle.
        y: Its middle.
        angle: The direction of the road in radians.
        span: Metres from bank to bank.
        width: Metres.
        ground: What asphalt looks like here.
        lanes: How many lanes.

    Returns:
        Its owner number.
    """
    rng = canvas.rng
    frame = canvas.at(x, y, angle)
    owner = canvas.thing("bridge")
    deck = rectangle(span, width + 1.6)
    height = float(rng.uniform(3, 12))
    away = (canvas.sun[0] * height, canvas.sun[1] * height)
    canvas.at(x + away[0], y + away[1], angle).shadow(rectangle(span * 0.94, width + 1.6), 0.4)
    if rng.uniform() < 0.5:
        for at in np.arange(-span / 2 + 12, span / 2 - 8, max(18.0, span / 8)).tolist():
            frame.fill(rectangle(3.0, width + 4.5, at), (150, 146, 138))
    rail = jittered(rng, (206, 202, 194), 14)
    road = scaled(ground.asphalt_colour, rng.uniform(0.95, 1.3)) if rng.uniform() < 0.6 else scaled(rail, 0.9)
    frame.fill(deck, rail, owner)
    frame.cover(rectangle(span, width), ramp(scaled(road, 0.94), road, scaled(road, 1.06)), canvas.noise.fine)
    path = frame.place([(-span / 2, 0.0), (span / 2, 0.0)])
    draw_lane_marks(canvas, path, width, ground, lanes)
    style = rng.uniform()
    if style < 0.15:
        steel: Colour = jittered(rng, (170, 180, 176), 14)
        for at in np.arange(-span / 2, span / 2, 6.0).tolist():
            frame.line([(at, -width / 2), (at + 6, width / 2)], steel, 0.5)
            frame.line([(at, width / 2), (at + 6, -width / 2)], steel, 0.5)
    elif style < 0.35:
        for at in np.arange(-span / 2, span / 2, 14.0).tolist():
            frame.line([(at, -width / 2), (at, width / 2)], scaled(road, 0.8), 0.4)
    return owner
