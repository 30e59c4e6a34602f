"""Outlines of plain shapes, as arrays of points in metres."""

from __future__ import annotations

import math

import numpy as np


def rectangle(length: float, width: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """Give the corners of a rectangle.

    Args:
        length: Along x.
        width: Along y.
        x: Its middle.
        y: Its middle.

    Returns:
        (4, 2) corners.
    """
    dx, dy = length / 2, width / 2
    return np.array([(x - dx, y - dy), (x + dx, y - dy), (x + dx, y + dy), (x - dx, y + dy)])


def ellipse(length: float, width: float, x: float = 0.0, y: float = 0.0, corners: int = 32) -> np.ndarray:
    """Give the outline of an ellipse.

    Args:
        length: Full size along x.
        width: Full size along y.
        x: Its middle.
        y: Its middle.
        corners: How many points.

    Returns:
        (corners, 2) points.
    """
    turn = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    return np.stack([x + np.cos(turn) * (length / 2), y + np.sin(turn) * (width / 2)], axis=-1)


def arc(radius: float, start: float, stop: float, x: float = 0.0, y: float = 0.0, corners: int = 16) -> np.ndarray:
    """Give part of a circle.

    Args:
        radius: Metres.
        start: First angle in radians.
        stop: Last angle in radians.
        x: Middle of the circle.
        y: Middle of the circle.
        corners: How many points.

    Returns:
        (corners, 2) points.
    """
    turn = np.linspace(start, stop, corners)
    return np.stack([x + np.cos(turn) * radius, y + np.sin(turn) * radius], axis=-1)


def blob(rng: np.random.Generator, length: float, width: float, rough: float = 0.2, corners: int = 40) -> np.ndarray:
    """Give a smooth irregular outline, for lakes and stains.

    Args:
        rng: Where chance comes from.
        length: About its size along x.
        width: About its size along y.
        rough: How far it strays from an ellipse.
        corners: How many points.

    Returns:
        (corners, 2) points.
    """
    turn = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    radius: np.ndarray = np.ones(corners)
    for order in range(2, 7):
        radius = radius + rough * rng.normal(0, 1.0 / order) * np.cos(order * turn + rng.uniform(0, 6.3))
    radius = np.maximum(radius, 0.3)
    return np.stack([np.cos(turn) * radius * (length / 2), np.sin(turn) * radius * (width / 2)], axis=-1)
