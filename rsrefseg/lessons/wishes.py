"""What the grammar's expressions want of an object, in the traits by which objects are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from rsrefseg.comparison import CLEAR, CORNERS, Wishes
from rsrefseg.expressions import Grammar
from rsrefseg.scenes.palette import COLOURS

_TRAITS = ("x", "y", "size", "away", *CORNERS)

_PER_SIDE, _PER_SIZE = CLEAR / Grammar.MARGIN, 2 * CLEAR / math.log(Grammar.LARGER)
"""Worth of an image's side, and of a unit of size: half the logarithm of the area."""

_COMPARED: dict[str, dict[str | tuple[float, float], float]] = {
    "left": {"x": -_PER_SIDE},
    "right": {"x": _PER_SIDE},
    "top": {"y": -_PER_SIDE},
    "bottom": {"y": _PER_SIDE},
    "top left": {CORNERS[0]: -_PER_SIDE / 2},
    "top right": {CORNERS[1]: -_PER_SIDE / 2},
    "bottom left": {CORNERS[2]: -_PER_SIDE / 2},
    "bottom right": {CORNERS[3]: -_PER_SIDE / 2},
    "centre": {CORNERS[4]: -_PER_SIDE / 2},
    "largest": {"size": _PER_SIZE},
    "smallest": {"size": -_PER_SIZE},
    "nearest": {"away": -_PER_SIDE / 2},
}
"""Worth for each unit of a trait, so that what the grammar just dares to name is `CLEAR` ahead of the next; its
margin for corners, the centre and what is nearest is twice as wide."""

_SIDES = {
    "all on the left": (-10.0, 0.0),
    "all on the right": (10.0, 0.0),
    "all at the top": (0.0, -10.0),
    "all at the bottom": (0.0, 10.0),
}

_PAINT = 1.5
"""Logits lost for each unit of the logarithm of a colour's chance."""

_STRICT, _LENIENT = 4.0, -4.0
"""Before the sigmoid: nearly all of what an object falls short by counts, or next to nothing."""


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
