"""Seas, rivers and lakes, and the crops beside them."""

from __future__ import annotations

import math

import cv2
import numpy as np

from rsrefseg.scenes.canvas import Canvas, Frame
from rsrefseg.scenes.ground import Ground
from rsrefseg.scenes.roads import ribbon
from rsrefseg.scenes.shapes import blob, ellipse
from rsrefseg.scenes.texture import Colour, jittered, ramp, scaled


def waves(canvas: Canvas, strength: float) -> np.ndarray:
    """Make a noise field with ripples that run one way.

    Args:
        canvas: The ground; its noise gives the slow changes.
        strength: 0 for a calm surface, 1 for a rough one.

    Returns:
        (side, side) uint8.
    """
    rng = canvas.rng
    long, short = (128, 512) if rng.uniform() < 0.5 else (512, 200)
    cells = rng.integers(0, 256, (short, long), np.uint8)
    small = cv2.resize(cells, (512, 512), interpolation=cv2.INTER_LINEAR)
    turn = cv2.getRotationMatrix2D((256, 256), float(rng.uniform(-40, 40)), 1.45)
    small = cv2.warpAffine(small, turn, (512, 512), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    ripples = cv2.resize(small, (canvas.side, canvas.side), interpolation=cv2.INTER_LINEAR)
    return cv2.addWeighted(canvas.noise.smooth, 1 - 0.5 * strength, ripples, 0.5 * strength, 0.0)


def flood(canvas: Canvas, ground: Ground) -> None:
    """Cover everything with sea.

    Args:
        canvas: The ground.
        ground: What water looks like here.
    """
    canvas.cover_all(ground.water, waves(canvas, float(canvas.rng.uniform(0.2, 1.0))))


def draw_lake(frame: Frame, length: float, width: float, ground: Ground) -> int:
    """Fill a lake.

    Args:
        frame: Its middle.
        length: Metres.
        width: Metres.
        ground: What water looks like here.

    Returns:
        Its owner number.
    """
    rng = frame.rng
    owner = frame.canvas.thing("lake")
    outline = blob(rng, length, width, rng.uniform(0.1, 0.35), 60)
    if rng.uniform() < 0.7:
        frame.cover(outline * (1 + rng.uniform(0.03, 0.09)), ground.soil, frame.canvas.noise.rough)
    frame.cover(outline, ground.water, frame.canvas.noise.smooth, owner)
    frame.canvas.take(frame.place(outline), must_be_free=False)
    return owner


def draw_river(canvas: Canvas, path: np.ndarray, width: float, ground: Ground) -> int:
    """Let a river run along a path.

    Args:
        canvas: The ground.
        path: Its middle line.
        width: Metres.
        ground: What water and banks look like here.

    Returns:
        Its owner number.
    """
    rng = canvas.rng
    owner = canvas.thing("river")
    bank = rng.uniform()
    ragged = path + rng.normal(0, width * 0.02, path.shape)
    if bank < 0.6:
        canvas.cover(ribbon(ragged, width * rng.uniform(1.05, 1.2)), ground.soil, canvas.noise.rough, 0)
    elif bank < 0.8:
        canvas.fill(ribbon(path, width + 4), scaled(ground.concrete_colour, 0.9), 0)
    outline = ribbon(path, width)
    canvas.cover(outline, ground.water, waves(canvas, 0.4), owner)
    canvas.take(outline, must_be_free=False)
    return owner


def draw_crop(canvas: Canvas, outline: np.ndarray, angle: float) -> int:
    """Plant a crop field.

    Args:
        canvas: The ground.
        outline: Its corners on the canvas.
        angle: The direction of its rows in radians.

    Returns:
        Its owner number.
    """
    rng = canvas.rng
    owner = canvas.thing("field")
    crops: tuple[Colour, ...] = (
        (72, 104, 52), (96, 124, 64), (132, 142, 84), (178, 158, 104), (150, 122, 90), (120, 96, 74), (58, 84, 48),
        (196, 180, 132), (110, 134, 90), (164, 150, 70),
    )  # fmt: skip
    crop = jittered(rng, crops[rng.integers(len(crops))], 9)
    table = ramp(scaled(crop, 0.82), crop, scaled(crop, 1.14))
    low, high = outline.min(0), outline.max(0)
    pitch = max(rng.uniform(1.5, 9.0), 3.0 / canvas.scale)
    field = _rows(canvas, low, high, angle, pitch, float(rng.uniform(0.1, 0.6)))
    canvas.cover(outline, table, field, owner)
    if rng.uniform() < 0.35:
        for at in np.arange(0.1, 1.0, 0.13):
            middle = low + (high - low) * at
            along = np.array((math.cos(angle), math.sin(angle))) * canvas.extent
            track = np.array([middle - along, middle + along])
            clipped = _clip(track, outline)
            if clipped is not None:
                canvas.line(clipped, scaled(crop, 0.85), 0.6)
    return owner


def _rows(canvas: Canvas, low: np.ndarray, high: np.ndarray, angle: float, pitch: float, strength: float) -> np.ndarray:
    x0, y0 = np.clip((low * canvas.scale).astype(int) - 2, 0, canvas.side)
    x1, y1 = np.clip((high * canvas.scale).astype(int) + 4, 0, canvas.side)
    field = (canvas.noise.rough if canvas.rng.uniform() < 0.5 else canvas.noise.fine).copy()
    if x1 <= x0 or y1 <= y0:
        return field
    turn = 2 * math.pi / (pitch * canvas.scale)
    columns = np.arange(x0, x1, dtype=np.float32) * np.float32(-math.sin(angle) * turn)
    lines = np.arange(y0, y1, dtype=np.float32) * np.float32(math.cos(angle) * turn)
    stripes = cv2.convertScaleAbs(128 + 100 * np.sin(columns[None, :] + lines[:, None]))
    window = field[y0:y1, x0:x1]
    field[y0:y1, x0:x1] = cv2.addWeighted(window, 1 - strength, stripes, strength, 0.0)
    return field


def _clip(track: np.ndarray, outline: np.ndarray) -> np.ndarray | None:
    start, step = track[0], track[1] - track[0]
    enter, leave = 0.0, 1.0
    for i in range(len(outline)):
        a, b = outline[i - 1], outline[i]
        edge = b - a
        normal = np.array((-edge[1], edge[0]))
        depth, slope = float(normal @ (start - a)), float(normal @ step)
        if abs(slope) < 1e-9:
            if depth < 0:
                return None
            continue
        cross = -depth / slope
        if slope > 0:
            enter = max(enter, cross)
        else:
            leave = min(leave, cross)
    return None if enter >= leave else np.array([start + step * enter, start + step * leave])


def draw_pivot(frame: Frame, diameter: float) -> int:
    """Plant a round, pivot-watered field.

    Args:
        frame: Its middle.
        diameter: Metres.

    Returns:
        Its owner number.
    """
    owner = draw_crop(frame.canvas, frame.place(ellipse(diameter, diameter, 0, 0, 60)), frame.angle)
    frame.line([(0, 0), (diameter / 2, 0)], (190, 190, 180), 0.6)
    return owner
