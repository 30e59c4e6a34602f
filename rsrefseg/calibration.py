"""What a score is worth: from the model's own confidence to the chance that a mask is right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

_NEAREST = 1e-4
"""How near to 0 and 1 a confidence is believed."""

FEWEST = 10
"""Answers of either kind, right and wrong, below which nothing is fitted."""


def _check(*values: float) -> None:
    for value in values:
        if not isinstance(value, float) or not math.isfinite(value):
            raise ValueError(f"a calibration is of numbers, not {value!r}")


@dataclass(frozen=True)
class SecondLook:
    """What it says of an answer that the same question put otherwise gets another one, in log odds."""

    slope: float
    """Taken off for a disagreement of one."""
    bias: float
    """Added for having been looked at twice."""

    def __post_init__(self) -> None:
        _check(self.slope, self.bias)


@dataclass(frozen=True)
class Calibration:
    """A sigmoid over the confidence's logit.

    Source:
        Platt, Probabilistic outputs for support vector machines, 1999.
    """

    slope: float
    bias: float
    second_look: SecondLook | None = field(default=None, repr=False)
    """None where a second look changes nothing."""

    def __post_init__(self) -> None:
        _check(self.slope, self.bias)

    @classmethod
    def from_dict(cls, described: dict[str, Any]) -> Calibration:
        """Read what `as_dict` wrote.

        Args:
            described: Names and numbers.

        Returns:
            The calibration.
        """
        second = described.get("second_look")
        return cls(**{**described, "second_look": SecondLook(**second) if second else None})

    def as_dict(self) -> dict[str, Any]:
        """Flatten.

        Returns:
            What JSON has words for; without the second look where there is none.
        """
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def name(self) -> str:
        """All that it does, in one word for checksums."""
        return repr(self) if self.second_look is None else f"{self!r} {self.second_look!r}"

    def score(self, confidence: float) -> float:
        """Turn a confidence into a chance.

        Args:
            confidence: In [0, 1].

        Returns:
            In [0, 1].

        >>> UNCALIBRATED.score(0.25)
        0.25
        """
        if (self.slope, self.bias) == (1.0, 0.0):
            return confidence
        return float(_chance(self.slope * _logit(np.array(confidence)) + self.bias))

    def score_again(self, score: float, disagreement: float) -> float:
        """Think again of an answer that was given a second look.

        Args:
            score: What `score` said of it.
            disagreement: How far it differs from answers to the same question put otherwise, in [0, 1].

        Returns:
            In [0, 1].
        """
        if self.second_look is None:
            return score
        second = self.second_look
        return float(_chance(_logit(np.array(score)) + second.bias - second.slope * disagreement))

    @classmethod
    def fit(cls, confidences: Sequence[float], right: Sequence[bool]) -> Calibration:
        """Find the sigmoid that answers of known truth ask for, by Newton's method.

        Fewer than `FEWEST` answers of either kind are too few to tell, a `ValueError`.

        Args:
            confidences: In [0, 1].
            right: Whether each mask was right.

        Returns:
            The calibration; its slope is never below nought, so that it keeps the order of confidences.
        """
        columns = np.stack([_logit(np.asarray(confidences, float)), np.ones(len(confidences))], axis=1)  # (n, 2)
        slope, bias = _fit(columns, np.zeros(len(columns)), np.asarray(right, float), np.array([1.0, 0.0]))
        return cls(slope=max(0.0, slope), bias=bias)

    def fit_second_look(
        self, scores: Sequence[float], disagreements: Sequence[float], right: Sequence[bool]
    ) -> Calibration:
        """Find out what second looks are worth, beside what is known already; a `ValueError` as by `fit`.

        Args:
            scores: What `score` said of each answer.
            disagreements: In [0, 1].
            right: Whether each mask was right.

        Returns:
            The same calibration with second looks; disagreement never raises a score.
        """
        columns = np.stack([-np.asarray(disagreements, float), np.ones(len(scores))], axis=1)  # (n, 2)
        known = _logit(np.asarray(scores, float))
        slope, bias = _fit(columns, known, np.asarray(right, float), np.zeros(2))
        return replace(self, second_look=SecondLook(slope, bias) if slope > 0 else None)


UNCALIBRATED = Calibration(slope=1.0, bias=0.0)
"""Takes confidence at its word."""


def _logit(confidence: np.ndarray) -> np.ndarray:
    inside = np.clip(confidence, _NEAREST, 1 - _NEAREST)
    odds: np.ndarray = np.log(inside / (1 - inside))
    return odds


def _chance(odds: np.ndarray) -> np.ndarray:
    chance: np.ndarray = 1 / (1 + np.exp(-odds))
    return chance


def _fit(columns: np.ndarray, known: np.ndarray, truths: np.ndarray, start: np.ndarray) -> tuple[float, float]:
    if min(truths.sum(), (1 - truths).sum()) < FEWEST:
        raise ValueError(
            f"{len(truths)} answers, {int(truths.sum())} of them right: at least ten right and ten wrong are needed"
        )
    weights = start
    for _ in range(50):
        chance = _chance(known + columns @ weights)
        # A little pull towards the start: confidences that part right from wrong completely have no finite fit.
        gradient = columns.T @ (chance - truths) + 1e-2 * (weights - start)
        hessian = (columns * (chance * (1 - chance))[:, None]).T @ columns + 1e-2 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        weights = weights - np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    return float(weights[0]), float(weights[1])
