"""How far the mean over some tasks' annotations may be from that over all such tasks."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

RESAMPLES = 2_000
"""How often tasks are drawn anew."""

FEWEST = 5
"""Tasks below which no interval is given."""


def interval(by_task: Sequence[Sequence[float]]) -> tuple[float, float] | tuple[None, None]:
    """Bootstrap a mean over all values, by tasks: several annotations of one are good and bad together.

    The percentiles lie further out than 2.5 and 97.5 where tasks are few, as in the gate (`rsrefseg/gate.py`).

    Args:
        by_task: The values of each task, at least one.

    Returns:
        Both ends of the 95 % interval; None where the tasks are too few.

    Source:
        Hesterberg, What teachers should know about the bootstrap, The American Statistician 69, 2015, section 5.3.2.
    """
    n = len(by_task)
    if n < FEWEST:
        return None, None
    sums, counts = np.array([(sum(values), len(values)) for values in by_task], float).T
    times = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)  # (draws, tasks)
    tail = 100 * beyond(n)
    low, high = np.percentile((times @ sums) / (times @ counts), (tail, 100 - tail))
    return float(low), float(high)


def beyond(n: int) -> float:
    """Say which share of the draws lies beyond each end of a 95 % interval.

    Args:
        n: Of how many tasks; at least 2.

    Returns:
        Less than 0.025, which it is for many.

    Source:
        Student's quantile: Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, 26.7.5.
    """
    z, v = -NormalDist().inv_cdf(0.025), n - 1
    t = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    return NormalDist().cdf(-t * (n / v) ** 0.5)
