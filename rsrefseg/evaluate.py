"""Score a predictor on labelled images, with expressions that the grammar writes for them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rsrefseg.datasets.labelled import LabelledImage
from rsrefseg.expressions import Grammar
from rsrefseg.metrics import Overlap, Scores
from rsrefseg.predictor import Predictor


@dataclass(frozen=True)
class Evaluation:
    """Scores over a set, and by kind of expression."""

    overall: Scores
    by_kind: dict[str, Scores]
    images_per_s: float

    def rounded(self) -> dict[str, object]:
        """Shorten for a log line.

        Returns:
            mIoU, oIoU, P@0.5 and the mIoU of each kind, in percent with one digit.
        """
        return {
            "n": self.overall.n,
            "mIoU": round(self.overall.mIoU, 1),
            "oIoU": round(self.overall.oIoU, 1),
            "P@0.5": round(self.overall.precision["P@0.5"], 1),
            "by_kind": {kind: round(scores.mIoU, 1) for kind, scores in self.by_kind.items()},
        }


def evaluate(predictor: Predictor, images: Iterable[LabelledImage], per_image: int = 3, seed: int = 1) -> Evaluation:
    """Ask about every image and compare with the truth at the image's own size.

    Args:
        predictor: Asked.
        images: With known objects.
        per_image: Most expressions about one.
        seed: Of the choice of expressions, the same for every model.

    Returns:
        The scores.
    """
    overlaps: dict[str, list[Overlap]] = defaultdict(list)
    began, count = time.perf_counter(), 0
    for number, labelled in enumerate(images):
        things = labelled.things()
        referrals = Grammar(things, np.random.default_rng((seed, number)), labelled.vocabulary).referrals(per_image)
        found = predictor.segment(labelled.image, [referral.expression for referral in referrals])
        for referral, segment in zip(referrals, found, strict=True):
            truth = np.zeros(labelled.ids.shape, bool)
            for index in referral.indices:
                truth |= things[index].mask
            overlaps[referral.kind].append(Overlap.of(segment.mask, truth))
        count += 1
    return Evaluation(
        overall=Scores.over(pair for pairs in overlaps.values() for pair in pairs),
        by_kind={kind: Scores.over(pairs) for kind, pairs in sorted(overlaps.items())},
        images_per_s=count / (time.perf_counter() - began),
    )
