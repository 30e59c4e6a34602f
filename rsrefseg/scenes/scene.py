"""One drawn scene: an image, and every object in it that has a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from rsrefseg.expressions import Thing
from rsrefseg.scenes.airports import lay_airport
from rsrefseg.scenes.canopy import draw_trees
from rsrefseg.scenes.canvas import REFERENCE_SIDE, Canvas
from rsrefseg.scenes.coasts import lay_open_sea, lay_port
from rsrefseg.scenes.countryside import lay_farmland, lay_mixed, lay_river
from rsrefseg.scenes.ground import Ground
from rsrefseg.scenes.palette import classify, colour_word
from rsrefseg.scenes.photometry import develop, thermal
from rsrefseg.scenes.refineries import lay_refinery
from rsrefseg.scenes.sports import lay_sports
from rsrefseg.scenes.suburbs import lay_suburb
from rsrefseg.scenes.towns import lay_city, lay_street

Camera = Literal["daylight", "thermal"]


@dataclass(frozen=True)
class Scene:
    """An overhead image whose every object is known."""

    image: np.ndarray
    """(size, size, 3) uint8 RGB."""
    things: tuple[Thing, ...]
    """All objects that have a name; masks hold visible pixels and are disjoint."""


@dataclass(frozen=True)
class _Layout:
    """One kind of place."""

    lay: Callable[[Canvas, Ground], None]
    weight: float
    finest: float
    coarsest: float
    infrared: float = 0.03


_LAYOUTS = {
    "airport": _Layout(lay_airport, 0.11, 0.3, 1.1),
    "open sea": _Layout(lay_open_sea, 0.06, 0.7, 2.4),
    "port": _Layout(lay_port, 0.11, 0.3, 1.0),
    "refinery": _Layout(lay_refinery, 0.10, 0.4, 1.3),
    "suburb": _Layout(lay_suburb, 0.06, 0.2, 0.36, 0.1),
    "sports complex": _Layout(lay_sports, 0.20, 0.3, 1.0),
    "farmland": _Layout(lay_farmland, 0.05, 0.6, 2.0),
    "river": _Layout(lay_river, 0.09, 0.4, 1.2),
    "city": _Layout(lay_city, 0.06, 0.28, 0.6),
    "street": _Layout(lay_street, 0.08, 0.08, 0.2, 0.5),
    "mixed": _Layout(lay_mixed, 0.10, 0.3, 1.0),
}
_SMALLEST = 60
_LEAF = (64.0, 92.0, 46.0)
_MANY_COLOURED = ("harbor", "ground track field", "baseball diamond")


def draw_scene(seed: int, size: int = REFERENCE_SIDE, camera: Camera = "daylight") -> Scene:
    """Draw the scene of a seed.

    Args:
        seed: The same seed gives the same bytes.
        size: Width and height in pixels; the ground shown does not depend on it.
        camera: What looks at it; the shipped weights have seen daylight alone.

    Returns:
        The scene.
    """
    rng = np.random.default_rng(seed)
    layout = _LAYOUTS[layout_of(rng)]
    spread = np.log(layout.coarsest / layout.finest)
    canvas = Canvas(rng, size, float(layout.finest * np.exp(rng.uniform() * spread)))
    ground = Ground.of(rng)
    infrared = bool(rng.uniform() < layout.infrared)
    layout.lay(canvas, ground)
    image = cv2.resize(canvas.pixels, (size, size), interpolation=cv2.INTER_AREA)
    owners = _halved(canvas.owners)
    image = draw_trees(canvas, image, owners, _LEAF if infrared else ground.tree)
    image = develop(rng, image, infrared)
    if camera == "thermal":
        image = thermal(rng, image)
    coloured = camera == "daylight" and not infrared
    return Scene(image, _things(canvas, image, owners, named_colours=coloured))


def layout_of(rng: np.random.Generator) -> str:
    """Choose a kind of place.

    Args:
        rng: Where chance comes from.

    Returns:
        Its name.
    """
    weights = np.array([layout.weight for layout in _LAYOUTS.values()])
    return str(list(_LAYOUTS)[int(rng.choice(len(weights), p=weights / weights.sum()))])


def _halved(owners: np.ndarray) -> np.ndarray:
    a, b, c, d = owners[::2, ::2], owners[::2, 1::2], owners[1::2, ::2], owners[1::2, 1::2]
    # Whoever holds two of the four small pixels; a draw goes to the number drawn last, which lies on top.
    return np.where((a == b) | (a == c) | (a == d), a, np.where((b == c) | (b == d), b, np.maximum(c, d)))


def _things(canvas: Canvas, image: np.ndarray, owners: np.ndarray, named_colours: bool) -> tuple[Thing, ...]:
    counts = np.bincount(owners.ravel(), minlength=len(canvas.categories) + 1)
    smallest = _SMALLEST * (image.shape[0] / REFERENCE_SIDE) ** 2
    classes = classify(image)
    classes, pixels = classes.ravel(), image.reshape(-1, 3)
    order = np.argsort(owners.ravel(), kind="stable")
    ends = np.cumsum(counts)
    things = []
    for number, category in enumerate(canvas.categories, start=1):
        if counts[number] < smallest:
            continue
        own = order[ends[number] - counts[number] : ends[number]]
        mask = np.zeros(owners.shape, bool)
        mask.reshape(-1)[own] = True
        colour = None
        if named_colours and category not in _MANY_COLOURED:
            colour = colour_word(pixels[own], classes[own])
        things.append(Thing(category, mask, colour))
    return tuple(things)
