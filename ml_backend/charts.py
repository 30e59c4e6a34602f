"""Small charts for the status page: numbers to places of an SVG; no JavaScript, and no library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

WIDTH, HEIGHT = 380, 190
"""Of a chart, in its own units."""

LEFT, RIGHT, TOP, BOTTOM = 52, 18, 14, 44
"""Margins, with room for what stands beside the axes."""

LINES = 4
"""Most marks on the vertical axis, and about as many as there are."""

Kind = Literal["champion", "passed", "refused"]


@dataclass(frozen=True)
class Dot:
    """A number that is shown."""

    x: float
    y: float
    kind: Kind
    says: str
    """What a pointer that rests on it is told."""
    joined: bool = True
    """Whether the line goes through it."""


@dataclass(frozen=True)
class Place:
    """Where a dot is drawn."""

    x: float
    y: float
    dot: Dot


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    """Along the axis, in the chart's units."""
    label: str


@dataclass(frozen=True)
class Chart:
    """Everything that the template draws."""

    summary: str
    """The same in a sentence, for those who do not see it."""
    x_label: str
    y_label: str
    places: tuple[Place, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]

    @property
    def line(self) -> str:
        """The joined dots as SVG has them."""
        return " ".join(f"{place.x:.1f},{place.y:.1f}" for place in self.places if place.dot.joined)


def lay_out(
    dots: Sequence[Dot], x_ticks: Sequence[tuple[float, str]], summary: str, x_label: str, y_label: str
) -> Chart:
    """Place dots on a chart.

    Args:
        dots: At least one.
        x_ticks: Numbers on the horizontal axis with their labels, ascending; it goes at least from first to last.
        summary: The chart in a sentence.
        x_label: What the horizontal axis is.
        y_label: What the vertical axis is.

    Returns:
        The chart; its vertical axis begins and ends at round numbers around the dots.
    """
    xs = [dot.x for dot in dots] + [at for at, _ in x_ticks]
    left, right = min(xs), max(xs)
    marks = _round_numbers(min(dot.y for dot in dots), max(dot.y for dot in dots))
    low, high = marks[0], marks[-1]

    def across(x: float) -> float:
        share = (x - left) / (right - left) if right > left else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    return Chart(
        summary,
        x_label,
        y_label,
        tuple(Place(across(dot.x), up(dot.y), dot) for dot in dots),
        tuple(Tick(across(at), label) for at, label in x_ticks),
        tuple(Tick(up(mark), f"{mark:g}") for mark in marks),
    )


def _round_numbers(low: float, high: float) -> list[float]:
    # From one at or below the lowest to one at or above the highest, in steps of 1, 2 or 5 times a power of ten.
    rough = max(high - low, 1.0) / LINES
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough)
    first = math.floor(low / step)
    last = max(math.ceil(high / step), first + 1)
    return [round(number * step, 6) for number in range(first, last + 1)]
