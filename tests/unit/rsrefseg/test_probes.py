from dataclasses import dataclass, field
from difflib import get_close_matches

import numpy as np
import pytest

from rsrefseg.datasets import LabelledImage
from rsrefseg.expressions import Grammar, plural
from rsrefseg.metrics import auroc, calibration_error
from rsrefseg.pointing import Pointing
from rsrefseg.predictor import Segment
from rsrefseg.probes import probe


@dataclass
class Oracle:
    """Knows what every expression means, listens as well as it is told to, and is as sure as it is told to be."""

    labelled: LabelledImage
    deaf: bool = False
    spells: bool = True
    score: float = 1.0
    meanings: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for seed in range(300):
            for referral in Grammar(
                self.labelled.things(), np.random.default_rng(seed), self.labelled.vocabulary
            ).all():
                self.meanings[referral.expression] = np.isin(self.labelled.ids, [i + 1 for i in referral.indices])

        for number, thing in enumerate(self.labelled.things(), start=1):
            alone = f"all {plural(thing.category)}"  # the grammar would not say it of one
            self.meanings.setdefault(alone, self.labelled.ids == number)

    def encode(self, image: np.ndarray) -> np.ndarray:
        return image

    def segment(
        self, _embedding: np.ndarray, expressions: list[str], pointings: list[Pointing] | None = None
    ) -> list[Segment]:
        nothing = np.zeros(self.labelled.ids.shape, bool)
        everything = self.labelled.ids > 0
        masks = [everything if self.deaf else self.meanings.get(self.read(words), nothing) for words in expressions]
        if pointings:
            masks = [
                pointing.narrow(mask if words else self.labelled.ids == self.number_at(pointing))
                for words, mask, pointing in zip(expressions, masks, pointings, strict=True)
            ]
        return [Segment(words, mask, self.score, self.score) for words, mask in zip(expressions, masks, strict=True)]

    def number_at(self, pointing: Pointing) -> int:
        left, top, right, bottom = pointing.box_xyxy or 2 * pointing.inside[0]
        return int(self.labelled.ids[int(50 * (top + bottom)), int(50 * (left + right))])

    def read(self, words: str) -> str:
        if not self.spells:
            return words
        return next(iter(get_close_matches(words.lower(), self.meanings, 1, cutoff=0.8)), words)


@pytest.fixture
def labelled(things):
    return LabelledImage.of(np.zeros((100, 100, 3), np.uint8), things, ("ship", "bridge", "harbor"))


def test_who_understands_everything_passes_every_probe(labelled):
    found = probe(Oracle(labelled), [labelled])
    assert (
        found.mIoU
        == found.chosen
        == found.absent_left_empty
        == found.opposites_told_apart
        == found.paraphrase_iou
        == 100
    )
    assert found.deaf_mIoU < 75
    assert (found.places, found.boxed_mIoU, found.hit_mIoU, found.narrowed_mIoU) == (2, 100, 100, 100)
    assert found.upper_case_loss == 0
    assert found.predicted_iou_error == found.score_error == 0
    assert found.score_auroc is None


def test_who_ignores_the_words_is_found_out(labelled):
    found = probe(Oracle(labelled, deaf=True), [labelled])
    assert found.mIoU == found.deaf_mIoU < 75
    assert found.chosen < 50
    assert found.absent_left_empty == found.opposites_told_apart == 0
    assert found.paraphrase_iou == 100


def test_who_reads_letter_by_letter_loses_by_upper_case_and_slips(labelled):
    found = probe(Oracle(labelled, spells=False), [labelled])
    assert found.mIoU == 100
    assert found.upper_case_loss == 100
    assert found.misspelt_loss > 0


def test_half_sure_and_always_right_is_half_wrong(labelled):
    assert probe(Oracle(labelled, score=0.5), [labelled]).score_error == pytest.approx(0.5)


def test_an_image_of_which_nothing_can_be_said_is_refused():
    empty = LabelledImage.of(np.zeros((8, 8, 3), np.uint8), (), ("ship",))
    with pytest.raises(ValueError, match="nothing can be said"):
        probe(Oracle(empty), [empty])


def test_calibration_error_weighs_each_bin_by_what_falls_into_it():
    assert calibration_error([0.95] * 9 + [0.15], [1.0] * 9 + [0.15]) == pytest.approx(0.9 * 0.05)


def test_auroc_counts_ties_half():
    assert auroc([0.5, 0.5], [True, False]) == 0.5
    assert auroc([1, 2, 3], [True, True, True]) is None
