"""What the grammar's expressions want of an object, in the traits by which objects are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from rsrefseg.comparison import CLEAR, CORNERS, Wishes
from rsrefseg.expressions import Grammar
from rsrefseg.scenes.palette import COLOURS

_TRAITS = ("x", "y", "size", "away", *CORNERS)

_MARGIN = CLEAR / Grammar.MARGIN

_COMPARED: dict[str, dict[str | tuple[float, float], float]] = {
    "left": {"x": -_MARGIN},
    "right": {"x": _MARGIN},
    "top": {"y": -_MARGIN},
    "bottom": {"y": _MARGIN},
    "top left": {CORNERS[0]: -_MARGIN / 2},
    "top right": {CORNERS[1]: -_MARGIN / 2},
    "bottom left": {CORNERS[2]: -_MARGIN / 2},
    "bottom right": {CORNERS[3]: -_MARGIN / 2},
    "centre": {CORNERS[4]: -_MARGIN / 2},
    "largest": {"size": 2 * CLEAR / math.log(Grammar.LARGER)},
    "smallest": {"size": -2 * CLEAR / math.log(Grammar.LARGER)},
    "nearest": {"away": -_MARGIN / 2},
}
"""Worth for each unit of a trait, so that what the grammar just dares to name is `CLEAR` ahead of the next."""

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
