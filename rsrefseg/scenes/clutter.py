"""What lies on the ground without being a thing: paths, patches, hedges."""

from __future__ import annotations

import math

import numpy as np

from rsrefseg.scenes.canvas import Canvas
from rsrefseg.scenes.ground import Ground
from rsrefseg.scenes.roads import ribbon, winding
from rsrefseg.scenes.shapes import blob, rectangle
from rsrefseg.scenes.texture import mix, scaled


def lay_patches(canvas: Canvas, ground: Ground, angle: float) -> None:
    """Break open grass into lawns, mown strips and bare soil.

    Args:
        canvas: The ground.
        ground: What the land looks like.
        angle: The direction the neighbourhood follows, in radians.
    """
    rng = canvas.rng
    extent = canvas.extent
    for _ in range(int(rng.integers(0, 6))):
        spot = canvas.anywhere(angle + float(rng.choice((0, math.pi / 2))))
        length, width = rng.uniform(0.1, 0.6, 2) * extent
        chance = rng.uniform()
        outline = rectangle(length, width) if chance < 0.55 else blob(rng, length, width, 0.3, 30)
        if chance < 0.35:
            spot.cover(outline, ground.lawn, canvas.noise.rough)
        elif rng.uniform() < 0.6:
            canvas.tint(
                spot.place(outline), (40, 56, 34) if rng.uniform() < 0.5 else (176, 164, 120), rng.uniform(0.05, 0.3)
            )
        else:
            canvas.tint(spot.place(outline), (150, 128, 98), rng.uniform(0.2, 0.6))
    if rng.uniform() < 0.3:
        pitch = float(rng.uniform(4, 9))
        spot = canvas.at(extent / 2, extent / 2, angle)
        for y in np.arange(-extent * 0.7, extent * 0.7, 2 * pitch).tolist():
            canvas.tint(spot.place(rectangle(extent * 1.5, pitch, 0, y)), (150, 160, 112), 0.05)


def lay_paths(canvas: Canvas, ground: Ground, count: int) -> None:
    """Lay footpaths and worn tracks, before anything that stands on them.

    Args:
        canvas: The ground.
        ground: What the land looks like.
        count: How many.
    """
    rng = canvas.rng
    for _ in range(count):
        x, y = rng.uniform(0.1, 0.9, 2) * canvas.extent
        path = winding(canvas, x, y, float(rng.uniform(0, 6.3)), float(rng.uniform(0.0, 0.12)))
        soil = (168.0, 150.0, 120.0)
        colour = scaled(ground.concrete_colour, 0.85) if rng.uniform() < 0.6 else mix(soil, ground.concrete_colour, 0.3)
        canvas.tint(ribbon(path, float(rng.uniform(1.2, 3.0))), colour, float(rng.uniform(0.4, 0.9)))
