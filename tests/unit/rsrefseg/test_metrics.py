import numpy as np
import pytest

from rsrefseg.metrics import Overlap, Scores


def test_mean_and_overall_iou_weigh_large_regions_differently():
    scores = Scores.over([Overlap(1, 2), Overlap(90, 100)])
    assert scores.mIoU == pytest.approx(70.0)
    assert scores.oIoU == pytest.approx(100 * 91 / 102)


def test_precision_is_strictly_above_its_threshold():
    scores = Scores.over([Overlap(1, 2), Overlap(3, 4)])
    assert scores.precision["P@0.5"] == 50.0


def test_nothing_claimed_where_nothing_is_counts_as_right_and_is_counted():
    scores = Scores.over([Overlap(0, 0), Overlap(0, 10)])
    assert (scores.mIoU, scores.empty) == (50.0, 1)


def test_overlap_counts_pixels():
    mask = np.array([[True, True], [False, False]])
    assert Overlap.of(mask, mask.T) == Overlap(1, 3)


def test_masks_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="differ"):
        Overlap.of(np.zeros((2, 2), bool), np.zeros((2, 3), bool))


def test_a_set_without_pairs_has_no_score():
    with pytest.raises(ValueError, match="no pairs"):
        Scores.over([])
