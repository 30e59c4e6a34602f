"""How right masks are: the metrics of the field, each once.

Source:
    KyanChen/RSRefSeg rsris/evaluation/metrics/iou_metrics.py @ 9c6d2a7: foreground only, original size, strict >.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Overlap:
    """Agreement of one mask with its truth, counted in pixels so that sums are exact."""

    intersection: int
    union: int

    @classmethod
    def of(cls, mask: np.ndarray, gt_mask: np.ndarray) -> Overlap:
        """Count.

        Args:
            mask: (h, w) bool, predicted.
            gt_mask: (h, w) bool, drawn by people.

        Returns:
            Pixels that both and that either claims.

        Raises:
            ValueError: If the shapes differ.
        """
        if mask.shape != gt_mask.shape:
            raise ValueError(f"mask {mask.shape} and gt_mask {gt_mask.shape} differ")
        return cls(int(np.count_nonzero(mask & gt_mask)), int(np.count_nonzero(mask | gt_mask)))

    @property
    def iou(self) -> float:
        """Divide; nothing claimed where nothing is there counts as 1, as in generalised referring segmentation."""
        return self.intersection / self.union if self.union else 1.0


@dataclass(frozen=True)
class Scores:
    """A set's metrics, in percent."""

    n: int
    empty: int
    """Pairs in which neither side claims a pixel; each counts as IoU 1."""
    oIoU: float  # noqa: N815 - the field's spelling
    mIoU: float  # noqa: N815
    precision: dict[str, float]
    """P@0.5 to P@0.9: share of pairs whose IoU is above the threshold."""

    @classmethod
    def over(cls, overlaps: Iterable[Overlap]) -> Scores:
        """Sum up a set.

        Args:
            overlaps: One for each image-expression pair.

        Returns:
            Its metrics.

        Raises:
            ValueError: If there are no pairs.

        >>> Scores.over([Overlap(1, 2), Overlap(3, 3)]).mIoU
        75.0
        """
        pairs = list(overlaps)
        if not pairs:
            raise ValueError("no pairs, so no metric has a value")
        ious = np.array([pair.iou for pair in pairs])
        union = sum(pair.union for pair in pairs)
        return cls(
            n=len(pairs),
            empty=sum(pair.union == 0 for pair in pairs),
            oIoU=100 * sum(pair.intersection for pair in pairs) / union if union else 100.0,
            mIoU=100 * float(ious.mean()),
            precision={f"P@{t}": 100 * float((ious > t).mean()) for t in THRESHOLDS},
        )

    def as_dict(self) -> dict[str, float]:
        """Flatten.

        Returns:
            n, oIoU, mIoU and P@0.5 to P@0.9 by name.
        """
        return {"n": self.n, "empty": self.empty, "oIoU": self.oIoU, "mIoU": self.mIoU, **self.precision}


def bootstrap_ci95(
    groups: Iterable[Sequence[Overlap]], resamples: int = 2000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Say how far a set's metrics would move had other images been drawn: percentiles 2.5 and 97.5.

    Whole images are drawn again, not pairs, since expressions about one image succeed and fail together.

    Args:
        groups: The pairs of each image.
        resamples: How often to draw a set anew.
        seed: The same gives the same interval.

    Returns:
        Lower and upper end of oIoU, mIoU and P@0.5, in percent.

    Raises:
        ValueError: If there are no pairs.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    sums = np.array(
        [
            [
                sum(pair.intersection for pair in pairs),
                sum(pair.union for pair in pairs),
                sum(pair.iou for pair in pairs),
                sum(pair.iou > 0.5 for pair in pairs),
                len(pairs),
            ]
            for pairs in groups
            if pairs
        ],
        dtype=float,
    )
    if not len(sums):
        raise ValueError("no pairs, so no metric has a value")
    rng = np.random.default_rng(seed)
    drawn = np.array([sums[rng.integers(len(sums), size=len(sums))].sum(axis=0) for _ in range(resamples)])
    intersection, union, iou, right, n = drawn.T
    overall = np.divide(intersection, union, out=np.ones_like(union), where=union > 0)
    ends = {
        name: np.percentile(100 * values, (2.5, 97.5))
        for name, values in (("oIoU", overall), ("mIoU", iou / n), ("P@0.5", right / n))
    }
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def calibration_error(claimed: Sequence[float], real: Sequence[float] | np.ndarray, bins: int = 10) -> float:
    """Compare what was claimed with what came true: the expected calibration error.

    Args:
        claimed: Confidences in [0, 1].
        real: What came true of each, in [0, 1].
        bins: Of equal width.

    Returns:
        Mean distance between claim and truth over the bins, each weighted by how many fall into it, in [0, 1].

    Raises:
        ValueError: If there is nothing to compare.

    Source:
        Naeini et al., AAAI 2015, with the expectation of a bin in place of its accuracy.

    >>> calibration_error([0.9, 0.9], [1.0, 0.0])
    0.4
    """
    if not len(claimed):
        raise ValueError("no claims, so no error has a value")
    claims, truths = np.asarray(claimed, float), np.asarray(real, float)
    place = np.minimum((claims * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    gap = np.bincount(place, claims - truths, minlength=bins)
    return round(float(np.abs(gap).sum() / counts.sum()), 12)


def auroc(scores: Sequence[float], right: Sequence[bool] | np.ndarray) -> float | None:
    """Say how likely a right answer scores above a wrong one, ties counting half.

    Args:
        scores: Any numbers.
        right: Whether each answer is right.

    Returns:
        In [0, 1]; None where all are right, or all wrong.

    >>> auroc([0.1, 0.4, 0.35, 0.8], [False, False, True, True])
    0.75
    """
    values, truths = np.asarray(scores, float), np.asarray(right, bool)
    above, below = values[truths], values[~truths]
    if not len(above) or not len(below):
        return None
    wins = (above[:, None] > below).mean() + (above[:, None] == below).mean() / 2
    return float(wins)
