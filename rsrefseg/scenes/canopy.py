"""Trees, painted all at once over everything else."""

from __future__ import annotations

import math

import cv2
import numpy as np

from rsrefseg.scenes.canvas import Canvas
from rsrefseg.scenes.texture import Colour


def scatter(canvas: Canvas, count: int, radius: float, keep_off: bool = True) -> None:
    """Plant single trees at random.

    Args:
        canvas: The ground; it remembers its trees.
        count: How many to try.
        radius: About their size in metres.
        keep_off: Whether to avoid reserved ground.
    """
    rng = canvas.rng
    # Trees keep company: most stand near another one, in gardens, rows and clumps.
    clumps = rng.uniform(0, canvas.extent, (max(1, count // int(rng.integers(2, 9))), 2))
    spread = rng.uniform(1.5, 7.0, (count, 1)) * radius
    near = clumps[rng.integers(len(clumps), size=count)] + rng.normal(0, 1, (count, 2)) * spread
    alone = rng.uniform(0, 1, (count, 1)) < 0.25
    places = np.where(alone, rng.uniform(0, canvas.extent, (count, 2)), near).tolist()
    sizes = (radius * np.exp(rng.normal(-0.1, 0.35, count))).tolist()
    for (x, y), size in zip(places, sizes, strict=True):
        if not (keep_off and canvas.is_taken(x, y)):
            canvas.trees.append((x, y, size))


def grove(canvas: Canvas, outline: np.ndarray, radius: float, density: float = 1.0) -> None:
    """Plant a wood.

    Args:
        canvas: The ground; it remembers its trees.
        outline: Where the wood is, in metres.
        radius: About the size of a tree in metres.
        density: 1 closes the canopy.
    """
    rng = canvas.rng
    low = np.maximum(outline.min(0), -radius)
    high = np.minimum(outline.max(0), canvas.extent + radius)
    pitch = max(radius * 1.5 / math.sqrt(density), canvas.extent / 110)
    if (high <= low).any():
        return
    columns, rows = np.meshgrid(np.arange(low[0], high[0], pitch), np.arange(low[1], high[1], pitch))
    points = np.stack([columns.ravel(), rows.ravel()], axis=-1)
    points += rng.uniform(-0.62, 0.62, points.shape) * pitch
    contour = outline.astype(np.float32)
    sizes = np.maximum(radius, pitch * 0.66) * rng.uniform(0.6, 1.45, len(points))
    for (x, y), size in zip(points.tolist(), sizes.tolist(), strict=True):
        if cv2.pointPolygonTest(contour, (x, y), False) >= 0 and not canvas.is_taken(x, y):
            canvas.trees.append((x, y, size))


def draw_trees(canvas: Canvas, image: np.ndarray, owners: np.ndarray, colour: Colour) -> np.ndarray:
    """Paint the canvas's trees with their shadows.

    Args:
        canvas: The ground that remembers the trees.
        image: (h, w, 3) uint8 at final size.
        owners: (h, w) owner numbers, cleared under the crowns.
        colour: About what leaves look like.

    Returns:
        The image with trees.
    """
    if not canvas.trees:
        return image
    rng = canvas.rng
    side = image.shape[0]
    scale = side / canvas.extent
    trees = np.asarray(canvas.trees, np.float64) * scale
    inside = ((trees[:, :2] >= 0) & (trees[:, :2] < side)).all(1)
    trees = trees[inside]
    if not len(trees):
        return image
    distance, nearest = _nearest_tree(trees, side)
    radii = np.maximum(trees[:, 2], 1.0).astype(np.float32)[nearest]
    shades = rng.normal(1.0, 0.11, len(trees)).astype(np.float32)
    leaf = cv2.resize(canvas.noise.fine, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 128.0 - 1.0
    rough = cv2.resize(canvas.noise.rough, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 128.0 - 1.0
    height = 1.0 - distance / radii + 0.24 * leaf + 0.16 * rough
    alpha = np.clip(height * 5.0, 0.0, 1.0)
    reach = float(np.median(trees[:, 2])) * 0.9
    cast = _moved(alpha, canvas.sun[0] * reach, canvas.sun[1] * reach)
    left = cv2.convertScaleAbs(cast, alpha=-255.0 * (1.0 - canvas.shade), beta=255.0)
    image = cv2.multiply(image, cv2.merge((left, left, left)), scale=1 / 255)
    step = min(2.0, max(0.8, reach * 0.25)) / max(math.hypot(*canvas.sun), 1e-6)
    dome = np.clip(height, -0.3, 1.2)
    slope = _moved(dome, -canvas.sun[0] * step, -canvas.sun[1] * step) - dome
    light = (0.68 + 0.34 * np.clip(height, 0, 1) - 0.9 * slope + 0.22 * leaf) * shades[nearest]
    levels = np.arange(256, dtype=np.float32)[:, None, None] / 128.0
    # Lit leaves turn a little yellower, shaded ones bluer.
    warmth = 1.0 + (levels - 1.0) * np.array((0.10, 0.04, -0.12), np.float32)
    table = np.clip(levels * warmth * np.asarray(colour, np.float32), 0, 255).astype(np.uint8)
    crown = cv2.applyColorMap(np.clip(light * 128.0, 28, 243).astype(np.uint8), table)
    owners[alpha > 0.5] = 0
    return cv2.blendLinear(image, crown, 1.0 - alpha, alpha)


def _nearest_tree(trees: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    # Large trees push the border towards small neighbours: they start as discs, not as points.
    seeds = np.full((side, side), 255, np.uint8)
    numbers = np.zeros((side, side), np.int32)
    cores = np.rint(0.7 * (trees[:, 2] - trees[:, 2].min())).astype(int)
    centres = trees[:, :2].astype(int)
    seeds[centres[:, 1], centres[:, 0]] = 0
    numbers[centres[:, 1], centres[:, 0]] = np.arange(len(trees))
    for i in np.argsort(cores, kind="stable").tolist():
        if cores[i] > 0:
            place = (int(centres[i, 0]), int(centres[i, 1]))
            cv2.circle(seeds, place, int(cores[i]), (0,), -1)
            cv2.circle(numbers, place, int(cores[i]), (i,), -1)
    _, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
    planted = seeds == 0
    tree_of = np.zeros(int(labels.max()) + 1, np.int32)
    tree_of[labels[planted]] = numbers[planted]
    nearest = tree_of[labels]
    steps = np.arange(side, dtype=np.float32)
    x, y = trees[:, 0].astype(np.float32)[nearest], trees[:, 1].astype(np.float32)[nearest]
    return cv2.magnitude(x - steps[None, :], y - steps[:, None]), nearest


def _moved(field: np.ndarray, x: float, y: float) -> np.ndarray:
    matrix = np.array([[1, 0, x], [0, 1, y]], np.float32)
    return cv2.warpAffine(field, matrix, field.shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def edge_trees(canvas: Canvas, most: int) -> None:
    """Plant a few trees that may overhang anything.

    Args:
        canvas: The ground.
        most: How many at most.
    """
    rng = canvas.rng
    places = rng.uniform(0, canvas.extent, (most, 2)).tolist()
    for x, y in places:
        if rng.uniform() < 0.25:
            canvas.trees.append((x, y, float(rng.uniform(2, 3.4))))
