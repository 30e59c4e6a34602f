"""Whether a model listens: questions whose right answers hang on single words, and what its confidence is worth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from rsrefseg.datasets.labelled import LabelledImage
from rsrefseg.datasets.referring import misspelt
from rsrefseg.expressions import Grammar, Referral, Thing, plural
from rsrefseg.metrics import Overlap, auroc, calibration_error
from rsrefseg.pointing import Pointing
from rsrefseg.predictor import Predictor, Segment

OPPOSITES = (("left", "right"), ("top", "bottom"), ("top left", "bottom right"), ("top right", "bottom left"))

FIGURES = {
    "n": "expressions",
    "mIoU": "mIoU, %",
    "deaf_mIoU": "mIoU of one answer for all expressions about an image, %",
    "chosen": "answers that show what is meant and no other of its kind, %",
    "absent": "expressions about absent classes",
    "absent_left_empty": "of these answered with an empty mask, %",
    "opposites": "pairs of opposites",
    "opposites_told_apart": "of these told apart, %",
    "paraphrase_iou": "IoU between answers to paraphrases, %",
    "upper_case_loss": "points of mIoU lost by upper case",
    "misspelt_loss": "points of mIoU lost by a slip of the finger",
    "places": "objects pointed at",
    "boxed_mIoU": "mIoU of a box around one without words, %",
    "hit_mIoU": "mIoU of a point on one without words, %",
    "narrowed_mIoU": "mIoU of its class in a box around it, %",
    "predicted_iou_error": "calibration error of the predicted IoU",
    "score_error": "calibration error of the score",
    "score_auroc": "AUROC of the score, right masks against wrong ones",
}
"""Each figure of `Probes` in words."""

HIT_PIXELS = 100
"""Smaller objects are not pointed at: nobody hits them without zooming in."""

COVERED = 0.3
"""Share of an object that a mask has to cover to show it."""

_BOX_SLACK = 3
"""How far a box goes round its object, in pixels."""

_WORDINGS = 6
"""How often the grammar is asked to say the same again."""


@dataclass(frozen=True)
class Probes:
    """What was found, in percent unless said otherwise; None where the images gave no occasion to ask."""

    n: int
    """Expressions that name something."""
    mIoU: float  # noqa: N815 - the field's spelling
    """Mean IoU of the answers to them."""
    deaf_mIoU: float  # noqa: N815
    """The same if the answer to an image's first expression served them all: the reach of who ignores words."""
    chosen: float
    """How many answers show all that is meant, and no other of its kind: whether a low IoU is a wrong choice, or the
    right one badly drawn. An object is shown where `COVERED` of it is."""
    absent: int
    """Expressions about classes that are not there."""
    absent_left_empty: float | None
    """How many of these were answered with an empty mask."""
    opposites: int
    """Pairs such as "the left ship", "the right ship"."""
    opposites_told_apart: float | None
    """How many were answered so that each mask agrees more with its own truth than with the other's."""
    paraphrase_iou: float | None
    """Mean IoU between the answers to two wordings of one meaning."""
    upper_case_loss: float
    """Points of mIoU that upper case costs."""
    misspelt_loss: float
    """Points of mIoU that one slip of the finger costs."""
    places: int
    """Objects of at least `HIT_PIXELS` pixels that were pointed at."""
    boxed_mIoU: float | None  # noqa: N815
    """Mean IoU of what a box around each finds where nothing is said."""
    hit_mIoU: float | None  # noqa: N815
    """The same of a point on each."""
    narrowed_mIoU: float | None  # noqa: N815
    """Mean IoU of "all ships" in a box around one against the ships in that box."""
    predicted_iou_error: float
    """Expected calibration error of the predicted IoU against the real one, in [0, 1]."""
    score_error: float
    """Expected calibration error of the score against IoU > 0.5, in [0, 1]."""
    score_auroc: float | None
    """How well the score parts masks with IoU > 0.5 from the rest, in [0, 1]."""

    def as_dict(self) -> dict[str, float | None]:
        """Flatten.

        Returns:
            Every figure by name.
        """
        return asdict(self)


def probe(predictor: Predictor, images: Iterable[LabelledImage], per_image: int = 4, seed: int = 1) -> Probes:
    """Ask in several ways about images with known objects.

    Args:
        predictor: Asked.
        images: With known objects.
        per_image: Most meanings about one image.
        seed: Of every choice, the same for every model.

    Returns:
        The figures.

    Raises:
        ValueError: If nothing can be said about any image.
    """
    plain: list[float] = []
    deaf: list[float] = []
    chosen: list[bool] = []
    upper: list[float] = []
    slipped: list[float] = []
    paraphrased: list[float] = []
    told_apart: list[bool] = []
    left_empty: list[bool] = []
    answers: list[Segment] = []
    places: list[tuple[float, float, float]] = []
    for number, labelled in enumerate(images):
        things = labelled.things()
        rng = np.random.default_rng((seed, number))
        grammar = Grammar(things, rng, labelled.vocabulary)
        asked = grammar.referrals(per_image, absent_share=0.0) if things else []
        asked = [referral for referral in asked if referral.indices]
        wordings = _wordings(labelled, seed, number)
        ask = partial(predictor.segment, predictor.encode(labelled.image))
        truths = [_truth(labelled, referral) for referral in asked]
        found = ask([referral.expression for referral in asked])
        answers += found
        plain += [Overlap.of(one.mask, truth).iou for one, truth in zip(found, truths, strict=True)]
        chosen += [_chosen(things, referral, one.mask) for referral, one in zip(asked, found, strict=True)]
        deaf += [Overlap.of(found[0].mask, truth).iou for truth in truths]
        for changed, ious in ((str.upper, upper), (lambda words, rng=rng: misspelt(words, rng), slipped)):
            others = ask([changed(referral.expression) for referral in asked])
            ious += [Overlap.of(one.mask, truth).iou for one, truth in zip(others, truths, strict=True)]
        for referral, one in zip(asked, found, strict=True):
            rest = sorted(wordings[referral.meaning, referral.indices] - {referral.expression})
            if rest:
                [other] = ask([rest[int(rng.integers(len(rest)))]])
                paraphrased.append(Overlap.of(one.mask, other.mask).iou)
        told_apart += [_told_apart(labelled, pair, ask([one.expression for one in pair])) for pair in _pairs(grammar)]
        places += [_pointed_at(ask, things, index) for index in _large_enough(things, (seed, number))]
        absent = grammar.absent()
        if absent.meaning[0] in labelled.vocabulary:
            [one] = ask([absent.expression])
            left_empty.append(not one.mask.any())
    if not plain:
        raise ValueError("nothing can be said about any of the images")
    right = np.array(plain) > 0.5
    return Probes(
        n=len(plain),
        mIoU=_percent(plain),
        deaf_mIoU=_percent(deaf),
        chosen=_percent(chosen),
        absent=len(left_empty),
        absent_left_empty=_percent(left_empty) if left_empty else None,
        opposites=len(told_apart),
        opposites_told_apart=_percent(told_apart) if told_apart else None,
        paraphrase_iou=_percent(paraphrased) if paraphrased else None,
        upper_case_loss=_percent(plain) - _percent(upper),
        misspelt_loss=_percent(plain) - _percent(slipped),
        places=len(places),
        boxed_mIoU=_percent([boxed for boxed, _, _ in places]) if places else None,
        hit_mIoU=_percent([hit for _, hit, _ in places]) if places else None,
        narrowed_mIoU=_percent([narrowed for _, _, narrowed in places]) if places else None,
        predicted_iou_error=calibration_error([one.predicted_iou for one in answers], plain),
        score_error=calibration_error([one.score for one in answers], right),
        score_auroc=auroc([one.score for one in answers], right),
    )


def _percent(values: Sequence[float]) -> float:
    return 100 * float(np.mean(values))


def _truth(labelled: LabelledImage, referral: Referral) -> np.ndarray:
    return np.isin(labelled.ids, [index + 1 for index in referral.indices])


def _chosen(things: Sequence[Thing], referral: Referral, mask: np.ndarray) -> bool:
    kind = things[referral.indices[0]].category
    return all(
        (np.count_nonzero(mask & thing.mask) > COVERED * np.count_nonzero(thing.mask)) == (index in referral.indices)
        for index, thing in enumerate(things)
        if thing.category == kind
    )


def _wordings(labelled: LabelledImage, seed: int, number: int) -> dict[tuple[object, ...], set[str]]:
    said: dict[tuple[object, ...], set[str]] = defaultdict(set)
    for again in range(_WORDINGS):
        grammar = Grammar(labelled.things(), np.random.default_rng((seed, number, again)), labelled.vocabulary)
        for referral in grammar.all():
            said[referral.meaning, referral.indices].add(referral.expression)
    return said


def _pairs(grammar: Grammar) -> list[tuple[Referral, Referral]]:
    # At most two of an image, so that a crowded one does not outvote the rest.
    placed = {referral.meaning: referral for referral in grammar.all() if referral.kind == "position"}
    pairs = [
        (placed[category, one], placed[category, other])
        for category in sorted({meaning[0] for meaning in placed})
        for one, other in OPPOSITES
        if (category, one) in placed and (category, other) in placed
    ]
    return [pair for pair in pairs if pair[0].indices != pair[1].indices][:2]


def _large_enough(things: Sequence[Thing], seed: tuple[int, ...]) -> list[int]:
    # At most two of an image, for the same reason.
    large = [index for index, thing in enumerate(things) if np.count_nonzero(thing.mask) >= HIT_PIXELS]
    return [int(index) for index in np.random.default_rng(seed).permutation(large)[:2]]


def _pointed_at(
    ask: Callable[..., Sequence[Segment]], things: Sequence[Thing], index: int
) -> tuple[float, float, float]:
    mask, category = things[index].mask, things[index].category
    h, w = mask.shape
    rows, columns = np.nonzero(mask)
    top, bottom = max(0, rows.min() - _BOX_SLACK), min(h, rows.max() + 1 + _BOX_SLACK)
    left, right = max(0, columns.min() - _BOX_SLACK), min(w, columns.max() + 1 + _BOX_SLACK)
    box = Pointing(box_xyxy=(left / w, top / h, right / w, bottom / h))
    middle = int(np.argmin(np.hypot(rows - rows.mean(), columns - columns.mean())))
    hit = Pointing(inside=((float(columns[middle] + 0.5) / w, float(rows[middle] + 0.5) / h),))
    alike = np.zeros_like(mask)
    alike[top:bottom, left:right] = np.any([thing.mask for thing in things if thing.category == category], axis=0)[
        top:bottom, left:right
    ]
    boxed, pointed, narrowed = ask(["", "", f"all {plural(category)}"], [box, hit, box])
    return (
        Overlap.of(boxed.mask, mask).iou,
        Overlap.of(pointed.mask, mask).iou,
        Overlap.of(narrowed.mask, alike).iou,
    )


def _told_apart(labelled: LabelledImage, pair: tuple[Referral, Referral], found: Sequence[Segment]) -> bool:
    truths = [_truth(labelled, referral) for referral in pair]
    overlap = [[Overlap.of(one.mask, truth).iou for truth in truths] for one in found]
    return overlap[0][0] > overlap[0][1] and overlap[1][1] > overlap[1][0]
