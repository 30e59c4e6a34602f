"""Airplanes of several planforms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rsrefseg.scenes.canvas import Frame
from rsrefseg.scenes.shapes import ellipse
from rsrefseg.scenes.texture import Colour, jittered, mix, scaled


@dataclass(frozen=True)
class _Planform:
    """Proportions of an airplane one metre long, nose towards +x."""

    body: float
    span: float
    root: tuple[float, float]
    tip: tuple[float, float]
    tail_span: float
    tail_sweep: float
    engines: tuple[float, ...]
    rear_engines: bool = False
    propellers: bool = False


_AIRLINER = _Planform(0.115, 0.98, (0.16, -0.08), (-0.10, -0.165), 0.37, 0.09, (0.30,))
_JUMBO = _Planform(0.105, 0.93, (0.18, -0.09), (-0.13, -0.185), 0.34, 0.10, (0.24, 0.42))
_REGIONAL = _Planform(0.095, 0.86, (0.06, -0.12), (-0.12, -0.19), 0.30, 0.07, (), True)
_PROPELLER = _Planform(0.11, 1.12, (0.12, -0.05), (0.07, -0.02), 0.38, 0.02, (0.27,), False, True)
_LIGHT = _Planform(0.13, 1.30, (0.20, -0.02), (0.15, 0.02), 0.42, 0.02, ())
_MILITARY = _Planform(0.13, 0.70, (0.12, -0.30), (-0.22, -0.33), 0.42, 0.10, ())
_FLEET = (_AIRLINER, _JUMBO, _REGIONAL, _PROPELLER, _LIGHT, _MILITARY)

_LIVERIES: tuple[Colour, ...] = (
    (196, 40, 40),
    (30, 60, 140),
    (20, 110, 70),
    (220, 140, 30),
    (40, 40, 50),
    (90, 150, 210),
)


def livery(rng: np.random.Generator) -> Colour:
    """Choose what an airplane is painted in.

    Args:
        rng: Where chance comes from.

    Returns:
        Mostly white, sometimes grey, seldom a colour.
    """
    chance = rng.uniform()
    if chance < 0.72:
        return jittered(rng, (236, 237, 240), 8)
    if chance < 0.93:
        level = float(rng.uniform(120, 200))
        return (level, level, level + 4)
    return jittered(rng, _LIVERIES[rng.integers(len(_LIVERIES))], 10)


def planform(rng: np.random.Generator) -> int:
    """Choose a kind of airplane.

    Args:
        rng: Where chance comes from.

    Returns:
        An index to give to `draw_airplane`.
    """
    return int(rng.choice(len(_FLEET), p=(0.46, 0.15, 0.12, 0.11, 0.08, 0.08)))


def draw_airplane(frame: Frame, length: float, kind: int, paint: Colour | None = None) -> int:
    """Park an airplane with its nose towards the frame's +x.

    Args:
        frame: Its middle.
        length: Metres from nose to tail.
        kind: From `planform`.
        paint: Colour of the fuselage, by chance if None.

    Returns:
        Its owner number.
    """
    rng = frame.rng
    shape = _FLEET[kind]
    paint = livery(rng) if paint is None else paint
    accent = _LIVERIES[rng.integers(len(_LIVERIES))]
    owner = frame.canvas.thing("airplane")
    parts = _parts(shape, length)
    for part in parts.values():
        frame.shadow(part, length * 0.03)
    shadow = frame.canvas.sun
    behind = frame.canvas.at(frame.x + shadow[0] * length * 0.09, frame.y + shadow[1] * length * 0.09, frame.angle)
    for part in parts.values():
        behind.shadow(part, 0.1)
    wing = mix(scaled(paint, rng.uniform(0.82, 0.98)), (170, 172, 176), 0.3)
    # The side that faces the sun is brighter; that is what makes the tube look round.
    lit = frame.shadeward()
    for name in ("left wing", "right wing", "left tail", "right tail"):
        frame.fill(parts[name], wing, owner)
        lead = parts[name]
        frame.line(lead[:2], scaled(wing, 1.12), length * 0.008)
        frame.line(lead[2:4], scaled(wing, 0.78), length * 0.008)
    for name, part in parts.items():
        if name.startswith("engine"):
            frame.fill(part, scaled(wing, rng.uniform(0.65, 1.02)), owner)
    frame.fill(parts["body"], paint, owner)
    side = -1.0 if lit[1] < 0 else 1.0
    body = parts["body"] * (1.0, 0.45) + (0.0, side * shape.body * length * 0.24)
    frame.fill(body, scaled(paint, 0.8))
    nose = parts["body"][:5]
    if length * frame.canvas.scale > 60:
        frame.fill(nose * (0.995, 0.6) - (length * 0.012, 0), scaled(paint, 0.93))
        frame.line([(0.445 * length, -0.022 * length), (0.445 * length, 0.022 * length)], (60, 66, 74), length * 0.012)
    fin = accent if rng.uniform() < 0.5 else scaled(paint, 0.88)
    frame.line([(-0.36 * length, 0), (-0.48 * length, 0)], fin, length * 0.022)
    if shape.propellers and length * frame.canvas.scale > 40:
        for y in (*shape.engines, *(-e for e in shape.engines)):
            x, reach = (shape.root[0] + 0.06) * length, 0.06 * length
            at = y * shape.span / 1.0 * length
            frame.line([(x, at - reach), (x, at + reach)], (70, 70, 74), length * 0.006)
    return owner


def _parts(shape: _Planform, length: float) -> dict[str, np.ndarray]:
    half = shape.body / 2
    body = np.array([
        (0.5, 0.0), (0.485, half * 0.45), (0.45, half * 0.8), (0.40, half), (-0.22, half), (-0.36, half * 0.7),
        (-0.5, half * 0.18), (-0.5, -half * 0.18), (-0.36, -half * 0.7), (-0.22, -half), (0.40, -half),
        (0.45, -half * 0.8), (0.485, -half * 0.45),
    ])  # fmt: skip
    reach = shape.span / 2
    wing = np.array([
        (shape.root[0], half * 0.8), (shape.tip[0] + 0.012, reach), (shape.tip[1], reach),
        (shape.root[1] + (shape.tip[1] - shape.root[1]) * 0.15, reach * 0.38), (shape.root[1], half * 0.8),
    ])  # fmt: skip
    tail_reach = shape.tail_span / 2
    tail = np.array([
        (-0.375, half * 0.3), (-0.39 - shape.tail_sweep, tail_reach), (-0.445 - shape.tail_sweep, tail_reach),
        (-0.47, half * 0.2),
    ])  # fmt: skip
    mirror = np.array([1.0, -1.0])
    parts = {
        "body": body,
        "left wing": wing,
        "right wing": wing * mirror,
        "left tail": tail,
        "right tail": tail * mirror,
    }
    for at in shape.engines:
        share = at / 0.49
        front = shape.root[0] + (shape.tip[0] - shape.root[0]) * share
        for sign in (-1, 1):
            parts[f"engine {sign * at}"] = ellipse(0.12, 0.055, front + 0.015, sign * at * shape.span, 12)
    if shape.rear_engines:
        for sign in (-1, 1):
            parts[f"engine {sign}"] = ellipse(0.14, 0.045, -0.27, sign * (half + 0.022), 12)
    return {name: part * length for name, part in parts.items()}
