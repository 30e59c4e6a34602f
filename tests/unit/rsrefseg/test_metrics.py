import numpy as np
import pytest

from rsrefseg.metrics import Overlap, Scores, bootstrap_ci95


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


def test_the_interval_holds_the_score_and_narrows_with_more_images():
    rng = np.random.default_rng(0)
    many = [[Overlap(int(value), 100)] for value in rng.integers(0, 101, 400)]
    few, whole = bootstrap_ci95(many[:25]), bootstrap_ci95(many)
    scores = Scores.over(pair for [pair] in many)
    for name, value in (("oIoU", scores.oIoU), ("mIoU", scores.mIoU), ("P@0.5", scores.precision["P@0.5"])):
        low, high = whole[name]
        assert low < value < high
        assert high - low < 0.5 * (few[name][1] - few[name][0])
    assert whole["mIoU"][1] - whole["mIoU"][0] == pytest.approx(2 * 1.96 * 29.15 / 20, rel=0.1)


def test_expressions_about_one_image_do_not_count_as_independent():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 101, 50)
    apart = bootstrap_ci95([[Overlap(int(value), 100)] for value in values])
    together = bootstrap_ci95([[Overlap(int(value), 100)] * 10 for value in values])
    for name, ends in apart.items():
        assert together[name] == pytest.approx(ends)


def test_the_interval_is_the_same_every_time():
    pairs = [[Overlap(1, 2)], [Overlap(0, 0)], [Overlap(3, 4)]]
    assert bootstrap_ci95(pairs) == bootstrap_ci95(pairs)
