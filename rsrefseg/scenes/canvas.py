"""The canvas: metres in, pixels and a map of who owns them out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike

from rsrefseg.scenes.shapes import rectangle
from rsrefseg.scenes.texture import Colour, Noise

Points = ArrayLike
"""(n, 2) metres, as an array or a list of pairs."""

REFERENCE_SIDE = 512
"""Scenes are composed for this many pixels; other sizes show the same ground finer or coarser."""

Window = tuple[slice, slice]

_SHIFT = 4
_CELLS = 128


class Canvas:
    """A square of ground, painted from the bottom up at twice the final resolution."""

    def __init__(self, rng: np.random.Generator, size: int, metres_per_pixel: float) -> None:
        """Lay out empty ground.

        Args:
            rng: Where chance comes from.
            size: Width and height of the final image.
            metres_per_pixel: Ground sampling distance of an image of 512 pixels.
        """
        self.rng = rng
        self.side = 2 * size
        self.metres_per_pixel = metres_per_pixel
        self.extent = REFERENCE_SIDE * metres_per_pixel
        self.scale = self.side / self.extent
        self.pixels = np.zeros((self.side, self.side, 3), np.uint8)
        self.owners = np.zeros((self.side, self.side), np.int16)
        self.categories: list[str] = []
        self.trees: list[tuple[float, float, float]] = []
        self.noise = Noise(rng, self.side)
        heading = rng.uniform(0, 2 * math.pi)
        reach = rng.uniform(0.35, 1.3)
        self.sun = (math.cos(heading) * reach, math.sin(heading) * reach)
        lean, tilt = rng.uniform(0, 2 * math.pi), abs(rng.normal(0.0, 0.09))
        self.lean = (math.cos(lean) * tilt, math.sin(lean) * tilt)
        self.shade = rng.uniform(0.35, 0.6)
        self._taken = np.zeros((_CELLS, _CELLS), np.uint8)

    def at(self, x: float, y: float, angle: float = 0.0) -> Frame:
        """Give a local frame of reference.

        Args:
            x: Metres from the left edge.
            y: Metres from the top edge.
            angle: Where its own x axis points, in radians.

        Returns:
            The frame.
        """
        return Frame(self, x, y, angle)

    def anywhere(self, angle: float | None = None, low: float = 0.0, high: float = 1.0) -> Frame:
        """Give a frame at a random place.

        Args:
            angle: Where its x axis points, or None for any direction.
            low: Nearest to the left and top edges, as a share of the canvas.
            high: Farthest from them.

        Returns:
            The frame.
        """
        x, y = (self.rng.uniform(low, high, 2) * self.extent).tolist()
        return self.at(x, y, float(self.rng.uniform(0, 2 * math.pi)) if angle is None else angle)

    def thing(self, category: str) -> int:
        """Announce an object that an expression may name.

        Args:
            category: Its class in plain words.

        Returns:
            The owner number to paint with.
        """
        self.categories.append(category)
        return len(self.categories)

    def fixed(self, points: Points) -> np.ndarray:
        """Turn metres into the fixed-point pixels of the drawing functions.

        Args:
            points: (n, 2) metres on the ground.

        Returns:
            (n, 2) int32, sixteenths of a canvas pixel.
        """
        pixels = np.asarray(points, np.float64) * self.scale - 0.5
        return np.rint(pixels * (1 << _SHIFT)).astype(np.int32)

    def fill(self, points: Points, colour: Colour, owner: int | None = None) -> None:
        """Fill a polygon with one colour.

        Args:
            points: Its corners in metres.
            colour: RGB.
            owner: Whose pixels these become, 0 for nobody's, None to leave that as it is.
        """
        fixed = [self.fixed(points)]
        cv2.fillPoly(self.pixels, fixed, colour, cv2.LINE_8, _SHIFT)
        if owner is not None:
            cv2.fillPoly(self.owners, fixed, (owner,), cv2.LINE_8, _SHIFT)

    def claim(self, points: Points, owner: int) -> None:
        """Give a polygon to an owner and leave its colour as it is.

        Args:
            points: Its corners in metres.
            owner: Whose pixels these become.
        """
        cv2.fillPoly(self.owners, [self.fixed(points)], (owner,), cv2.LINE_8, _SHIFT)

    def cover(self, points: Points, table: np.ndarray, field: np.ndarray, owner: int | None = None) -> None:
        """Fill a polygon with textured ground.

        Args:
            points: Its corners in metres.
            table: A colour ramp, from `texture.ramp`.
            field: One of the canvas's noise fields, or one like them.
            owner: Whose pixels these become, 0 for nobody's, None to leave that as it is.
        """
        window = self._window(points)
        if window is None:
            return
        mask = self._mask(window, [points])
        cv2.copyTo(cv2.applyColorMap(field[window], table), mask, self.pixels[window])
        if owner is not None:
            self.owners[window][mask > 0] = owner

    def cover_all(self, table: np.ndarray, field: np.ndarray) -> None:
        """Fill the whole canvas with textured ground.

        Args:
            table: A colour ramp.
            field: A noise field.
        """
        cv2.applyColorMap(field, table, self.pixels)

    def tint(self, points: Points, colour: Colour, strength: float) -> None:
        """Stain a polygon without hiding what lies under it.

        Args:
            points: Its corners in metres.
            colour: RGB of the stain.
            strength: 0 leaves the ground alone, 1 hides it.
        """
        window = self._window(points)
        if window is None:
            return
        below = self.pixels[window]
        stained = below.copy()
        cv2.fillPoly(stained, [self.fixed(points) - _origin(window)], colour, cv2.LINE_8, _SHIFT)
        below[:] = cv2.addWeighted(below, 1.0 - strength, stained, strength, 0.0)

    def line(self, points: Points, colour: Colour, width: float, closed: bool = False) -> None:
        """Draw a line that never covers less than a canvas pixel.

        Args:
            points: Its corners in metres.
            colour: RGB.
            width: Metres.
            closed: Whether the last corner joins the first.
        """
        thickness = max(1, round(width * self.scale))
        cv2.polylines(self.pixels, [self.fixed(points)], closed, colour, thickness, cv2.LINE_AA, _SHIFT)

    def shadow(self, points: Points, height: float) -> None:
        """Darken the ground behind something that stands up.

        Args:
            points: Corners of its footprint in metres.
            height: Metres above the ground; no shadow grows longer than that of 18.
        """
        corners = np.asarray(points, np.float64)
        height = min(height, 18.0)
        away = np.asarray(self.sun) * height
        window = self._window(np.concatenate([corners, corners + away]))
        if window is None:
            return
        mask = self._mask(window, [corners, corners + away])
        if height * math.hypot(*self.sun) * self.scale > 2:
            origin = _origin(window)
            here, there = self.fixed(corners) - origin, self.fixed(corners + away) - origin
            sides = np.stack([here, np.roll(here, -1, 0), np.roll(there, -1, 0), there], axis=1)
            for side in sides:
                cv2.fillConvexPoly(mask, side, (255,), cv2.LINE_8, _SHIFT)
        below = self.pixels[window]
        cv2.copyTo(cv2.convertScaleAbs(below, alpha=self.shade, beta=4.0), mask, below)

    def _window(self, points: Points) -> Window | None:
        fixed = self.fixed(points)
        low = np.maximum((fixed.min(0) >> _SHIFT) - 1, 0).tolist()
        high = np.minimum((fixed.max(0) >> _SHIFT) + 3, self.side).tolist()
        if low[0] >= high[0] or low[1] >= high[1]:
            return None
        return slice(low[1], high[1]), slice(low[0], high[0])

    def _mask(self, window: Window, outlines: Sequence[Points]) -> np.ndarray:
        rows, columns = window
        mask = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        for outline in outlines:
            cv2.fillPoly(mask, [self.fixed(outline) - _origin(window)], (255,), cv2.LINE_8, _SHIFT)
        return mask

    def take(self, points: Points, must_be_free: bool = True) -> bool:
        """Reserve ground, so that objects do not pile up.

        Args:
            points: Corners in metres.
            must_be_free: Whether to refuse ground that is partly taken.

        Returns:
            Whether it is now reserved.
        """
        place = np.zeros_like(self._taken)
        cells = np.asarray(points, np.float64) * (_CELLS / self.extent) - 0.5
        cv2.fillPoly(place, [np.rint(cells * 16).astype(np.int32)], (255,), cv2.LINE_8, 4)
        if must_be_free and cv2.countNonZero(cv2.bitwise_and(place, self._taken)):
            return False
        cv2.bitwise_or(self._taken, place, self._taken)
        return True

    def reserve_only(self, outlines: Sequence[Points]) -> np.ndarray:
        """Forget all reservations but these.

        Args:
            outlines: Polygons in metres that stay reserved.

        Returns:
            What was reserved before, for `restore`.
        """
        before = self._taken.copy()
        self._taken[:] = 0
        for outline in outlines:
            self.take(outline, must_be_free=False)
        return before

    def restore(self, before: np.ndarray) -> None:
        """Go back to earlier reservations.

        Args:
            before: From `reserve_only`.
        """
        self._taken = before

    def is_taken(self, x: float, y: float) -> bool:
        """Look up one point of the ground.

        Args:
            x: Metres from the left edge.
            y: Metres from the top edge.

        Returns:
            Whether it is reserved, or outside.
        """
        column, row = int(x * _CELLS / self.extent), int(y * _CELLS / self.extent)
        return not (0 <= column < _CELLS and 0 <= row < _CELLS) or bool(self._taken[row, column])

    def find(
        self, length: float, width: float, angle: float | None = None, edge: float = 0.0, tries: int = 24
    ) -> Frame | None:
        """Find and reserve a free rectangle.

        Args:
            length: Metres along its own x axis.
            width: Metres across.
            angle: Where its x axis points, or None for any direction.
            edge: How far its centre stays from the border, as a share of its half diagonal.
            tries: How often to look before giving up.

        Returns:
            The frame in its middle, or None if no place was found.
        """
        margin = edge * math.hypot(length, width) / 2
        if 2 * margin >= self.extent:
            return None
        for _ in range(tries):
            heading = self.rng.uniform(0, 2 * math.pi) if angle is None else angle
            x, y = self.rng.uniform(margin, self.extent - margin, 2)
            frame = self.at(float(x), float(y), float(heading))
            if self.take(frame.place(rectangle(length, width))):
                return frame
        return None


def _origin(window: Window) -> np.ndarray:
    return np.array((window[1].start, window[0].start), np.int32) << _SHIFT


class Frame:
    """A place on the canvas with its own origin and direction."""

    def __init__(self, canvas: Canvas, x: float, y: float, angle: float) -> None:
        """Stand somewhere.

        Args:
            canvas: The ground.
            x: Metres from its left edge.
            y: Metres from its top edge.
            angle: Where the frame's x axis points, in radians.
        """
        self.canvas = canvas
        self.rng = canvas.rng
        self.x, self.y, self.angle = x, y, angle
        cosine, sine = math.cos(angle), math.sin(angle)
        self._turn = np.array([[cosine, sine], [-sine, cosine]])

    def place(self, points: Points) -> np.ndarray:
        """Turn local points into points of the canvas.

        Args:
            points: (n, 2) metres in this frame.

        Returns:
            (n, 2) metres on the canvas.
        """
        placed: np.ndarray = np.asarray(points, np.float64) @ self._turn + (self.x, self.y)
        return placed

    def shadeward(self) -> tuple[float, float]:
        """Tell where shadows fall, as this frame sees it.

        Returns:
            A vector of length 1 that points away from the sun.
        """
        x, y = (self._turn @ np.asarray(self.canvas.sun) / max(math.hypot(*self.canvas.sun), 1e-6)).tolist()
        return x, y

    def at(self, x: float, y: float, angle: float = 0.0) -> Frame:
        """Give a frame inside this one.

        Args:
            x: Metres along this frame's x axis.
            y: Metres along its y axis.
            angle: Turned by this much more.

        Returns:
            The inner frame.
        """
        origin = self.place([(x, y)])[0]
        return Frame(self.canvas, float(origin[0]), float(origin[1]), self.angle + angle)

    def fill(self, points: Points, colour: Colour, owner: int | None = None) -> None:
        """Fill a polygon given in this frame; see `Canvas.fill`.

        Args:
            points: Its corners.
            colour: RGB.
            owner: Whose pixels these become.
        """
        self.canvas.fill(self.place(points), colour, owner)

    def cover(self, points: Points, table: np.ndarray, field: np.ndarray, owner: int | None = None) -> None:
        """Texture a polygon given in this frame; see `Canvas.cover`.

        Args:
            points: Its corners.
            table: A colour ramp.
            field: A noise field.
            owner: Whose pixels these become.
        """
        self.canvas.cover(self.place(points), table, field, owner)

    def line(self, points: Points, colour: Colour, width: float, closed: bool = False) -> None:
        """Draw a line given in this frame; see `Canvas.line`.

        Args:
            points: Its corners.
            colour: RGB.
            width: Metres.
            closed: Whether the last corner joins the first.
        """
        self.canvas.line(self.place(points), colour, width, closed)

    def shadow(self, points: Points, height: float) -> None:
        """Cast the shadow of a polygon given in this frame; see `Canvas.shadow`.

        Args:
            points: Corners of the footprint.
            height: Metres above the ground.
        """
        self.canvas.shadow(self.place(points), height)
