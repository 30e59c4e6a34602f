"""What a score is worth: from the model's own confidence to the chance that a mask is right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_NEAREST = 1e-4
"""How near to 0 and 1 a confidence is believed."""


@dataclass(frozen=True)
class Calibration:
    """A sigmoid over the confidence's logit.

    Source:
        Platt, Probabilistic outputs for support vector machines, 1999.
    """

    slope: float
    bias: float

    def __post_init__(self) -> None:
        for value in (self.slope, self.bias):
            if not isinstance(value, float) or not math.isfinite(value):
                raise ValueError(f"a calibration is two numbers, not {value!r}")

    def score(self, confidence: float) -> float:
        """Turn a confidence into a chance.

        Args:
            confidence: In [0, 1].

        Returns:
            In [0, 1].

        >>> UNCALIBRATED.score(0.25)
        0.25
        """
        if self == UNCALIBRATED:
            return confidence
        return float(1 / (1 + np.exp(-(self.slope * _logit(np.array(confidence)) + self.bias))))

    @classmethod
    def fit(cls, confidences: Sequence[float], right: Sequence[bool]) -> Calibration:
        """Find the sigmoid that answers of known truth ask for, by Newton's method.

        Args:
            confidences: In [0, 1].
            right: Whether each mask was right.

        Returns:
            The calibration; its slope is never below nought, so that it keeps the order of confidences.

        Raises:
            ValueError: If there are fewer than ten answers of either kind: too few to tell.
        """
        truths = np.asarray(right, float)
        if min(truths.sum(), (1 - truths).sum()) < 10:
            raise ValueError(
                f"{len(truths)} answers, {int(truths.sum())} of them right: at least ten right and ten wrong are needed"
            )
        columns = np.stack([_logit(np.asarray(confidences, float)), np.ones(len(truths))], axis=1)  # (n, 2)
        weights = np.array([1.0, 0.0])
        for _ in range(50):
            chance = 1 / (1 + np.exp(-columns @ weights))
            # A little pull towards the start: confidences that part right from wrong completely have no finite fit.
            gradient = columns.T @ (chance - truths) + 1e-2 * (weights - [1.0, 0.0])
            hessian = (columns * (chance * (1 - chance))[:, None]).T @ columns + 1e-2 * np.eye(2)
            step = np.linalg.solve(hessian, gradient)
            weights -= np.clip(step, -2, 2)
            if np.abs(step).max() < 1e-9:
                break
        return cls(slope=max(0.0, float(weights[0])), bias=float(weights[1]))


UNCALIBRATED = Calibration(slope=1.0, bias=0.0)
"""Takes confidence at its word."""


def _logit(confidence: np.ndarray) -> np.ndarray:
    inside = np.clip(confidence, _NEAREST, 1 - _NEAREST)
    odds: np.ndarray = np.log(inside / (1 - inside))
    return odds
