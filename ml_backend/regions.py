"""Masks <-> regions of Label Studio: one way of writing for each control, and no more of it than the editor bears."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from ml_backend import brush
from ml_backend.shapes import (
    Box,
    Part,
    box_around,
    clean,
    coarser,
    corners_of,
    filled,
    in_one_line,
    parts,
    rings_of,
    turned_box_around,
)
from workers.contract import PIXELS_LIMIT, Answer, Ask, Found, OutputType, Rules

LEVELS = 7
"""How often a mask may be drawn more coarsely, each time half as fine; what is too much then is left out."""

BYTES_AN_EDGE = 10
"""About how much JSON each change between inside and outside along a row costs as run lengths."""

DECIMALS = 4
"""Of percentages: a hundredth of a pixel in an image of 10,000."""

PNG = "data:image/png;base64,"

WHITE_THEN_BLACK = [255, 255, 255, 0, 0, 0]

Region = dict[str, Any]
Value = dict[str, Any]


def regions(answer: Answer) -> list[Region]:
    """Write an answer's masks as regions of the controls that their asks name.

    Where they are more than the job's rules allow, the smallest regions are left out; where they are more bytes or
    points, the largest are drawn more coarsely until they fit.

    Args:
        answer: The masks.

    Returns:
        What Label Studio calls a result: regions, each followed by its text where the config has a place for it.
    """
    rules = answer.job.rules or Rules()
    asked = zip(answer.job.asks, answer.found, strict=False)
    drawings = [Drawing(f"{answer.job.key[:12]}-{n}", ask, found, rules) for n, (ask, found) in enumerate(asked)]
    too_fine = drawings
    while too_fine:
        for drawing in too_fine:
            drawing.draw()
        _leave_out(drawings, lambda: sum(len(drawing.shapes) for drawing in drawings) > rules.regions_limit)
        too_fine = _too_fine(drawings)
        for drawing in too_fine:
            drawing.level += 1
    _leave_out(drawings, lambda: sum(drawing.cost for drawing in drawings) > 1)
    return [region for drawing in drawings for shape in drawing.shapes for region in shape.regions]


def mask_of(region: Region) -> np.ndarray:
    """Read what a region of one of the controls covers: the way back from what `regions` writes, and people change.

    Brush and bitmask come back as they were, polygons and boxes as the pixels whose middle they enclose.

    Args:
        region: As Label Studio keeps it, from whoever wrote it.

    Returns:
        (h, w) bool.

    Raises:
        ValueError: If it is not such a region; the sentence holds nothing of its content.
    """
    value, kind = region.get("value"), region.get("type")
    if not isinstance(value, dict) or not isinstance(kind, str) or kind not in _READ:
        raise ValueError("a region is of no control that masks go to")
    height, width = region.get("original_height"), region.get("original_width")
    if type(height) is not int or type(width) is not int or min(height, width) < 1 or height * width > PIXELS_LIMIT:
        raise ValueError("a region does not say a possible size of its image")
    if region.get("image_rotation"):
        raise ValueError("a region was drawn on an image that was turned in the editor")
    return _READ[kind](value, (height, width))


@dataclass(frozen=True)
class Shape:
    """One region, with what goes along."""

    pixels: int
    regions: tuple[Region, ...]
    """The geometry first: the editor takes a text for one about the whole image where it knows no such region yet."""
    cost: float
    """Its share of what a prediction may take."""


@dataclass
class Drawing:
    """The regions of one expression.

    Args:
        name: What their ids begin with; the same for the same job, so that a delivery that happens twice is recognised.
        ask: Where the mask goes.
        found: The mask.
        rules: How it is cleaned.
    """

    name: str
    ask: Ask
    found: Found
    rules: Rules
    level: int = 0
    """How coarsely it is drawn."""
    shapes: list[Shape] = field(default_factory=list)
    """The largest first."""

    @property
    def cost(self) -> float:
        """Its share of what a prediction may take."""
        return sum(shape.cost for shape in self.shapes)

    def draw(self) -> None:
        """Write the mask anew, at its level or, if that is clearly too fine, at a coarser one."""
        while (values := self._values(mask := self._mask())) is None:
            self.level += 1
        self.shapes = [self._shape(n, pixels, value, mask.shape) for n, (pixels, value) in enumerate(values)]

    def _mask(self) -> np.ndarray:
        mask = self.found.mask.to_mask()
        return clean(coarser(mask, self.level), self._rules_here()) if mask.any() else mask

    def _rules_here(self) -> Rules:
        # Twice as coarse is a quarter of the pixels.
        rules, level = self.rules, self.level
        return rules.model_copy(
            update={
                "speck_pixels": rules.speck_pixels << 2 * level,
                "pinhole_pixels": rules.pinhole_pixels << 2 * level,
                "tolerance_px": rules.tolerance_px * 2**level,
            }
        )

    def _values(self, mask: np.ndarray) -> list[tuple[int, Value]] | None:
        # None where writing it all down would be in vain.
        output, rules = self.ask.output, self._rules_here()
        pixels = int(np.count_nonzero(mask))
        if not pixels:
            return []
        if output.type != "rectanglelabels" and self.level < LEVELS:
            edges = int(np.count_nonzero(mask[:, 1:] != mask[:, :-1]))
            if edges * BYTES_AN_EDGE > 4 * rules.bytes_limit:
                return None
        if output.type in PAINTED:
            paint = PAINTED[output.type]
            if not output.instances:
                return [(pixels, paint(mask))]
            size_hw = (mask.shape[0], mask.shape[1])
            return [(part.pixels, paint(part.alone(size_hw))) for part in parts(mask, rules.regions_limit)]
        several = parts(mask, rules.regions_limit)
        together = [[part] for part in several] if output.instances else [several]
        if output.type == "rectanglelabels":
            return [(some[0].pixels, _box(some, mask, turned=output.rotated)) for some in together]
        rings = [[ring for part in some for ring in _rings(part, rules)] for some in together]
        if self.level < LEVELS and sum(len(ring) for some in rings for ring in some) > rules.points_limit:
            return None
        return [(some[0].pixels, _polygon(lines, mask)) for some, lines in zip(together, rings, strict=True)]

    def _shape(self, n: int, pixels: int, value: Value, size_hw: tuple[int, ...]) -> Shape:
        output = self.ask.output
        expression = [self.found.expression] if self.found.expression else []
        common = {
            "id": f"{self.name}-{n}" if output.instances else self.name,
            "to_name": output.to_name,
            "original_width": size_hw[1],
            "original_height": size_hw[0],
            "image_rotation": 0,
            "origin": "prediction",
            "score": self.found.score,
            **({"meta": {"text": expression}} if expression else {}),
        }
        value = {**value, output.type: [self.found.label]}
        written: list[Region] = [{**common, "from_name": output.from_name, "type": output.type, "value": value}]
        if output.words_name and expression:
            text = {"text": expression}
            written.append({**common, "from_name": output.words_name, "type": "textarea", "value": text})
        cost = len(json.dumps(written)) / self.rules.bytes_limit
        return Shape(pixels, tuple(written), max(cost, len(value.get("points", ())) / self.rules.points_limit))


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Divide the pixels of both masks by those of either.

    Args:
        one: (h, w) bool.
        other: The same shape.

    Returns:
        In [0, 1]; 1 where both are empty.
    """
    union = np.count_nonzero(one | other)
    return float(np.count_nonzero(one & other) / union) if union else 1.0


def _leave_out(drawings: list[Drawing], too_much: Callable[[], bool]) -> None:
    # The smallest first, but never the last of an expression.
    if not too_much():
        return
    spare = [(shape.pixels, n) for n, drawing in enumerate(drawings) for shape in drawing.shapes[1:]]
    for _, n in sorted(spare):
        drawings[n].shapes.pop()
        if not too_much():
            return


def _too_fine(drawings: list[Drawing]) -> list[Drawing]:
    # Those that take more than their part of what there is: what small ones leave is shared by the large.
    if sum(drawing.cost for drawing in drawings) <= 1:
        return []
    left = 1.0
    by_cost = sorted(drawings, key=lambda drawing: drawing.cost)
    for n, drawing in enumerate(by_cost):
        if drawing.cost > left / (len(by_cost) - n):
            return [large for large in by_cost[n:] if large.level < LEVELS]
        left -= drawing.cost
    return []


def _brush(mask: np.ndarray) -> Value:
    return {"format": "rle", "rle": brush.encode(mask)}


def _bitmask(mask: np.ndarray) -> Value:
    # One bit a pixel: nothing where the mask is not, black where it is.
    image = Image.fromarray(mask.view(np.uint8), "P")
    image.putpalette(WHITE_THEN_BLACK)
    file = io.BytesIO()
    image.save(file, "PNG", bits=1, transparency=b"\0\xff")
    return {"imageDataURL": PNG + base64.b64encode(file.getvalue()).decode()}


PAINTED: dict[OutputType, Callable[[np.ndarray], Value]] = {"bitmasklabels": _bitmask, "brushlabels": _brush}
"""Controls whose regions are pixels, and how these are written."""


def _rings(part: Part, rules: Rules) -> list[np.ndarray]:
    return rings_of(part, rules.tolerance_px, rules.polygon_hole_pixels)


def _polygon(rings: list[np.ndarray], mask: np.ndarray) -> Value:
    shares = np.clip(in_one_line(rings) / (mask.shape[1], mask.shape[0]), 0, 1)
    return {"points": np.round(100 * shares, DECIMALS).tolist(), "closed": True}


def _box(several: list[Part], mask: np.ndarray, *, turned: bool) -> Value:
    height, width = mask.shape
    box = turned_box_around(several, (height, width)) if turned else box_around(several)
    return {
        "x": round(100 * box.x / width, DECIMALS),
        "y": round(100 * box.y / height, DECIMALS),
        "width": round(100 * box.width / width, DECIMALS),
        "height": round(100 * box.height / height, DECIMALS),
        "rotation": round(box.degrees, DECIMALS),
    }


def _from_brush(value: Value, size_hw: tuple[int, int]) -> np.ndarray:
    rle = value.get("rle")
    if not isinstance(rle, list):
        raise ValueError("a brush region has no run lengths")
    try:
        return brush.decode(rle, size_hw)
    except ValueError as exc:
        raise ValueError("a brush region has run lengths that cannot be read") from exc


def _from_bitmask(value: Value, size_hw: tuple[int, int]) -> np.ndarray:
    url = value.get("imageDataURL")
    if not isinstance(url, str) or not url.startswith(PNG):
        raise ValueError("a bitmask region has no PNG")
    try:
        with Image.open(io.BytesIO(base64.b64decode(url[len(PNG) :], validate=True)), formats=["PNG"]) as image:
            if image.size != size_hw[::-1]:
                raise ValueError("it is of another size than its image")
            alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise ValueError("a bitmask region has a PNG that cannot be read") from exc
    opaque: np.ndarray = alpha >= brush.OPAQUE
    return opaque


def _from_polygon(value: Value, size_hw: tuple[int, int]) -> np.ndarray:
    try:
        points = np.array(value.get("points"), float)
    except (ValueError, TypeError) as exc:
        raise ValueError("a polygon has points that are none") from exc
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
        raise ValueError("a polygon has points that are none")
    return filled(points / 100 * size_hw[::-1], size_hw)


def _from_box(value: Value, size_hw: tuple[int, int]) -> np.ndarray:
    try:
        sides = np.array([value.get(name) for name in ("x", "y", "width", "height")], float)
        degrees = float(value.get("rotation") or 0)
    except (ValueError, TypeError) as exc:
        raise ValueError("a box has sides that are none") from exc
    if not np.isfinite([*sides, degrees]).all():
        raise ValueError("a box has sides that are none")
    height, width = size_hw
    x, y, across, down = (float(side) for side in sides / 100 * (width, height, width, height))
    return filled(corners_of(Box(x, y, across, down, degrees)), size_hw)


_READ: Mapping[str, Callable[[Value, tuple[int, int]], np.ndarray]] = {
    "bitmasklabels": _from_bitmask,
    "brushlabels": _from_brush,
    "polygonlabels": _from_polygon,
    "rectanglelabels": _from_box,
}
"""How a region of each control is read."""
