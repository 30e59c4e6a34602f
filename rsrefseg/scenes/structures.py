"""Buildings, storage tanks and swimming pools."""

from __future__ import annotations

import math

import cv2
import numpy as np

from rsrefseg.scenes.canvas import Frame
from rsrefseg.scenes.shapes import arc, blob, ellipse, rectangle
from rsrefseg.scenes.texture import Colour, jittered, mix, ramp, scaled

_FLAT_ROOFS: tuple[Colour, ...] = (
    (222, 222, 218), (188, 188, 184), (150, 148, 144), (112, 110, 108), (168, 150, 128), (128, 106, 88), (70, 70, 74),
    (120, 140, 160), (92, 124, 108),
)  # fmt: skip
_FLAT_CHANCES = (0.22, 0.2, 0.16, 0.12, 0.09, 0.07, 0.05, 0.05, 0.04)
_TILES: tuple[Colour, ...] = (
    (150, 86, 64), (124, 74, 58), (112, 104, 98), (82, 80, 80), (140, 126, 108), (104, 86, 72), (176, 170, 160),
    (64, 90, 130), (170, 62, 50),
)  # fmt: skip
_TILE_CHANCES = (0.2, 0.12, 0.2, 0.12, 0.1, 0.12, 0.06, 0.04, 0.04)


def draw_building(frame: Frame, length: float, width: float, height: float, pitched: bool) -> int:
    """Put up a building.

    Args:
        frame: Its middle.
        length: Metres along x.
        width: Metres across.
        height: Metres.
        pitched: Whether it has a ridge (a house) or a flat roof.

    Returns:
        Its owner number.
    """
    rng = frame.rng
    owner = frame.canvas.thing("building")
    if pitched:
        paint = jittered(rng, _TILES[rng.choice(len(_TILES), p=_TILE_CHANCES)], 10)
        wings = [(0.0, 0.0, length, width)]
        if rng.uniform() < 0.5:
            side = float(rng.choice((-1, 1)))
            wings.append((rng.uniform(-0.2, 0.2) * length, side * width * 0.42, width * 0.75, length * 0.5))
        for x, y, long, wide in wings:
            frame.shadow(rectangle(long, wide, x, y), height)
        for i, (x, y, long, wide) in enumerate(reversed(wings)):
            turned = 0.0 if i == len(wings) - 1 else math.pi / 2
            _pitched_roof(frame.at(x, y, turned), long, wide, paint, owner, turned != 0.0)
        return owner
    paint = jittered(rng, _FLAT_ROOFS[rng.choice(len(_FLAT_ROOFS), p=_FLAT_CHANCES)], 10)
    blocks = _blocks(rng, length, width)
    for block in blocks:
        frame.shadow(block, height)
    lean = (frame.canvas.lean[0] * height, frame.canvas.lean[1] * height)
    for block in blocks:
        placed = frame.place(block)
        for i in range(len(placed)):
            edge = np.array([placed[i - 1], placed[i], placed[i] + lean, placed[i - 1] + lean])
            frame.canvas.fill(edge, scaled(paint, 0.42 + 0.2 * (i % 2)), owner)
    top = frame.canvas.at(frame.x + lean[0], frame.y + lean[1], frame.angle)
    table = ramp(scaled(paint, 0.9), paint, scaled(paint, 1.06))
    for block in blocks:
        top.cover(block, table, frame.canvas.noise.fine, owner)
        top.line(block, scaled(paint, rng.choice((0.72, 1.18))), 0.5, closed=True)
    for block in blocks[1:]:
        top.cover(block * 0.98 + block.mean(0) * 0.02, table, frame.canvas.noise.fine)
    _roof_clutter(top, blocks[0], paint)
    return owner


def _blocks(rng: np.random.Generator, length: float, width: float) -> list[np.ndarray]:
    chance = rng.uniform()
    if chance < 0.5:
        return [rectangle(length, width)]
    arm = width * rng.uniform(0.35, 0.5)
    base = rectangle(length, arm, 0, arm / 2 - width / 2)
    side = float(rng.choice((-1, 1)))
    if chance < 0.75:
        return [base, rectangle(arm, width, side * (length - arm) / 2)]
    if chance < 0.9:
        return [base, rectangle(arm, width, (length - arm) / 2), rectangle(arm, width, -(length - arm) / 2)]
    return [base, rectangle(arm, width)]


def _roof_clutter(frame: Frame, block: np.ndarray, paint: Colour) -> None:
    rng = frame.rng
    low, high = block.min(0), block.max(0)
    size = high - low
    if min(size) * frame.canvas.scale < 8:
        return
    for _ in range(int(rng.integers(0, 9))):
        spot = low + size * rng.uniform(0.12, 0.88, 2)
        unit = rectangle(rng.uniform(1.2, 4.5), rng.uniform(1.2, 3.5), *spot)
        frame.shadow(unit, 1.5)
        frame.fill(unit, scaled(paint, rng.uniform(0.6, 1.25)))
    if rng.uniform() < 0.3:
        step = max(3.0, float(size[0]) / 14)
        for x in np.arange(low[0] + step, high[0], step):
            frame.line([(x, low[1]), (x, high[1])], scaled(paint, 0.88), 0.3)


def _pitched_roof(frame: Frame, length: float, width: float, paint: Colour, owner: int, gable: bool) -> None:
    rng = frame.rng
    hip = 0.0 if gable or rng.uniform() < 0.4 else width * rng.uniform(0.3, 0.5)
    hip = min(hip, length * 0.45)
    a, b, c, d = rectangle(length, width)
    left, right = np.array((-length / 2 + hip, 0.0)), np.array((length / 2 - hip, 0.0))
    sun = frame.shadeward()
    faces = (
        ((a, b, right, left), (0, -1)),
        ((c, d, left, right), (0, 1)),
        ((b, c, right), (1, 0)),
        ((d, a, left), (-1, 0)),
    )
    fine = frame.canvas.noise.fine
    for corners, normal in faces:
        if hip == 0.0 and normal[1] == 0:
            continue
        # The vector points away from the sun, so a face that looks against it is lit.
        light = 1.0 - 0.28 * float(sun[0] * normal[0] + sun[1] * normal[1])
        face = scaled(paint, light)
        frame.cover(np.array(corners), ramp(scaled(face, 0.88), face, scaled(face, 1.08)), fine, owner)
    if width * frame.canvas.scale > 14:
        frame.line([tuple(left), tuple(right)], scaled(paint, 1.15), 0.3)


def draw_tank(frame: Frame, diameter: float, paint: Colour | None = None) -> int:
    """Put up a storage tank.

    Args:
        frame: Its middle.
        diameter: Metres.
        paint: Colour of its roof, by chance if None.

    Returns:
        Its owner number.
    """
    rng = frame.rng
    canvas = frame.canvas
    owner = canvas.thing("storage tank")
    paint = tank_paint(rng) if paint is None else paint
    height = min(diameter * rng.uniform(0.3, 0.6), 18.0)
    base = ellipse(diameter, diameter)
    frame.shadow(base, height)
    lean = (canvas.lean[0] * height, canvas.lean[1] * height)
    wall = np.concatenate([frame.place(base), frame.place(base) + lean]).astype(np.float32)
    canvas.fill(cv2.convexHull(wall)[:, 0], scaled(paint, 0.7), owner)
    top = canvas.at(frame.x + lean[0], frame.y + lean[1], rng.uniform(0, 6.28))
    top.fill(base, scaled(paint, 0.86), owner)
    kind = rng.integers(5)
    roof = mix(paint, (150, 148, 144), rng.uniform(0.1, 0.6)) if kind == 1 else paint
    top.cover(base * 0.95, ramp(scaled(roof, 0.94), roof, scaled(roof, 1.05)), canvas.noise.rough)
    if kind == 1:
        _floating_roof(top, diameter, roof)
    elif kind == 2:
        for turn in np.linspace(0, 2 * math.pi, int(rng.integers(10, 25)), endpoint=False):
            top.line(
                [(0, 0), (math.cos(turn) * diameter * 0.47, math.sin(turn) * diameter * 0.47)], scaled(paint, 0.9), 0.15
            )
    elif kind == 3:
        top.line(ellipse(diameter * 0.6, diameter * 0.6), scaled(paint, 0.88), diameter * 0.012, closed=True)
        top.line([(0, 0), (diameter * 0.47, 0)], scaled(paint, 0.8), diameter * 0.02)
    sun = np.asarray(canvas.sun) / max(math.hypot(*canvas.sun), 1e-6)
    heading = math.atan2(sun[1], sun[0])
    dark = np.concatenate([
        arc(diameter * 0.48, heading - 1.4, heading + 1.4),
        arc(diameter * 0.42, heading + 1.2, heading - 1.2),
    ])
    canvas.tint(dark + (top.x, top.y), scaled(paint, 0.6), 0.35)
    if rng.uniform() < 0.7:
        top.fill(ellipse(diameter * 0.07, diameter * 0.07, 0, 0, 10), scaled(paint, 0.72))
    stairs = arc(diameter * 0.5, 0.0, rng.uniform(0.5, 1.3))
    top.line(stairs, scaled(paint, 0.62), diameter * 0.015)
    return owner


def tank_paint(rng: np.random.Generator) -> Colour:
    """Choose what tanks are painted in.

    Args:
        rng: Where chance comes from.

    Returns:
        Mostly white.
    """
    paints: tuple[Colour, ...] = (
        (238, 238, 234), (206, 208, 206), (160, 160, 156), (150, 108, 80), (120, 74, 56), (190, 176, 150),
        (96, 120, 130), (90, 130, 96), (70, 72, 74),
    )  # fmt: skip
    return jittered(rng, paints[rng.choice(9, p=(0.48, 0.14, 0.11, 0.06, 0.05, 0.06, 0.04, 0.03, 0.03))], 7)


def _floating_roof(frame: Frame, diameter: float, paint: Colour) -> None:
    frame.line(ellipse(diameter * 0.9, diameter * 0.9), scaled(paint, 0.7), diameter * 0.025, closed=True)
    sun = np.asarray(frame.canvas.sun) / max(math.hypot(*frame.canvas.sun), 1e-6)
    heading = math.atan2(-sun[1], -sun[0])
    outer = arc(diameter * 0.45, heading - 1.5, heading + 1.5)
    inner = arc(diameter * 0.40, heading + 1.3, heading - 1.3) + sun * diameter * frame.rng.uniform(0.02, 0.12)
    frame.canvas.tint(np.concatenate([outer, inner]) + (frame.x, frame.y), (30, 30, 34), 0.6)


def draw_pool(frame: Frame, length: float, width: float) -> int:
    """Dig a swimming pool with a paved edge.

    Args:
        frame: Its middle.
        length: Metres.
        width: Metres.

    Returns:
        Its owner number.
    """
    rng = frame.rng
    owner = frame.canvas.thing("swimming pool")
    shape = rng.uniform()
    if shape < 0.5:
        outline = rectangle(length, width)
    elif shape < 0.8:
        outline = blob(rng, length, width, 0.22, 24)
    else:
        outline = ellipse(length, width, 0, 0, 24)
    deck = jittered(rng, (206, 198, 182), 12)
    frame.fill(rectangle(length + rng.uniform(3, 7), width + rng.uniform(3, 7)), deck)
    water = jittered(rng, ((84, 186, 208), (66, 160, 204), (110, 204, 214), (60, 140, 170))[rng.integers(4)], 8)
    frame.fill(outline * 1.06, (228, 226, 220))
    frame.cover(outline, ramp(scaled(water, 0.86), water, scaled(water, 1.12)), frame.canvas.noise.rough, owner)
    if shape < 0.5 and length > 20:
        for lane in np.linspace(-0.4, 0.4, 7):
            frame.line([(-length * 0.48, lane * width), (length * 0.48, lane * width)], scaled(water, 0.75), 0.25)
    return owner
