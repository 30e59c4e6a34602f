"""What the grammar's expressions want of an object, in the traits by which objects are compared."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rsrefseg.comparison import CORNERS, Wishes
from rsrefseg.scenes.palette import COLOURS

_TRAITS = ("x", "y", "size", "away", *CORNERS)

_COMPARED: dict[str, dict[str | tuple[float, float], float]] = {
    "left": {"x": -30.0},
    "right": {"x": 30.0},
    "top": {"y": -30.0},
    "bottom": {"y": 30.0},
    "top left": {CORNERS[0]: -20.0},
    "top right": {CORNERS[1]: -20.0},
    "bottom left": {CORNERS[2]: -20.0},
    "bottom right": {CORNERS[3]: -20.0},
    "centre": {CORNERS[4]: -20.0},
    "largest": {"size": 6.0},
    "smallest": {"size": -6.0},
    "nearest": {"away": -20.0},
}
"""Logits for each unit of a trait; twice as much where the grammar's margin is half as wide."""

_SIDES = {
    "all on the left": (-6.0, 0.0),
    "all on the right": (6.0, 0.0),
    "all at the top": (0.0, -6.0),
    "all at the bottom": (0.0, 6.0),
}

_PAINT = 1.5
"""Logits lost for each unit of the logarithm of a colour's chance."""

_STRICT, _LENIENT = 0.55, -4.0
"""Before softplus: all of what an object falls short by counts, or next to nothing."""


def wishes_of(meanings: Sequence[tuple[str, ...]]) -> Wishes:
    """Say what each meaning wants.

    Args:
        meanings: As `expressions.Referral.meaning` has them.

    Returns:
        Of m expressions.
    """
    wanted = torch.zeros(len(meanings), len(_TRAITS))
    strictness = torch.full((len(meanings),), _LENIENT)
    outright = torch.zeros(len(meanings), 3 + len(COLOURS))
    for row, (_, *rest) in enumerate(meanings):
        distinction = rest[0] if rest else None
        for trait, much in _COMPARED.get(distinction or "", {}).items():
            wanted[row, _TRAITS.index(trait)] = much
            strictness[row] = _STRICT
        if distinction in _SIDES:
            outright[row, :2] = torch.tensor(_SIDES[distinction])
        if distinction in COLOURS:
            outright[row, 2 + COLOURS.index(distinction)] = _PAINT
    return Wishes(wanted, strictness, outright)
