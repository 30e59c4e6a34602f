from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ml_backend.shapes import box_around, clean, coarser, in_one_line, parts, rings_of, turned_box_around
from workers.contract import Rules

AS_DRAWN = Rules(speck_pixels=0, speck_share=0, pinhole_pixels=0)
FINE = 16
"""Pixels to a pixel, when a line is filled to see what it encloses."""

masks = npst.arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24)))


def square(size: int, *holes: tuple[int, int, int]) -> np.ndarray:
    """A mask with a margin of 4 around it, and square holes: row, column, side."""
    mask = np.zeros((size + 8, size + 8), bool)
    mask[4:-4, 4:-4] = True
    for row, column, side in holes:
        mask[row : row + side, column : column + side] = False
    return mask


def filled(line: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """What a line encloses, by the rule that every second ring is open."""
    canvas = np.zeros((size_hw[0] * FINE, size_hw[1] * FINE), np.uint8)
    cv2.fillPoly(canvas, [np.round(line * FINE - 0.5).astype(np.int32)], 1)
    return cv2.resize(canvas * 255, size_hw[::-1], interpolation=cv2.INTER_AREA) >= 128


def redrawn(mask: np.ndarray, tolerance_px: float = 0, hole_pixels: int = 0) -> np.ndarray:
    found = parts(mask, 1000)
    return filled(in_one_line([r for part in found for r in rings_of(part, tolerance_px, hole_pixels)]), mask.shape)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.count_nonzero(one & other) / np.count_nonzero(one | other))


def test_specks_go_and_pinholes_are_filled() -> None:
    mask = square(40, (20, 20, 3), (30, 30, 6))
    mask[0, 0] = mask[1, 1] = True
    cleaned = clean(mask, Rules(speck_pixels=3, pinhole_pixels=10))
    assert np.array_equal(cleaned, square(40, (30, 30, 6)))


def test_a_speck_is_small_beside_the_largest_part_or_by_itself() -> None:
    mask = np.zeros((60, 60), bool)
    mask[:50, :50] = True
    mask[52:58, 52:58] = True
    assert np.array_equal(clean(mask, Rules(speck_pixels=36, speck_share=0)), mask)
    assert clean(mask, Rules(speck_pixels=37, speck_share=0)).sum() == 2500
    assert clean(mask, Rules(speck_pixels=0, speck_share=0.02)).sum() == 2500


def test_what_touches_the_border_is_no_hole() -> None:
    mask = np.ones((10, 10), bool)
    mask[0, 5] = False
    assert np.array_equal(clean(mask, Rules()), mask)


@given(masks)
def test_cleaning_never_takes_everything_and_cleaning_again_changes_nothing(mask: np.ndarray) -> None:
    cleaned = clean(mask, Rules())
    assert cleaned.any() == mask.any()
    assert np.array_equal(clean(cleaned, Rules()), cleaned)
    assert np.array_equal(clean(mask, AS_DRAWN), mask)


@given(masks, st.integers(0, 7))
def test_a_coarser_mask_is_never_empty(mask: np.ndarray, level: int) -> None:
    assert coarser(mask, level).any() == mask.any()


def test_a_coarser_mask_keeps_what_is_large() -> None:
    rows, columns = np.mgrid[:256, :256]
    disc = (rows - 120) ** 2 + (columns - 130) ** 2 < 80**2
    noise = np.random.default_rng(0).random(disc.shape) < 0.2
    assert iou(coarser(disc ^ noise, 3), disc) > 0.9


def test_parts_touch_at_corners_and_the_largest_comes_first() -> None:
    mask = np.zeros((8, 8), bool)
    mask[0, 0] = mask[1, 1] = True
    mask[4:7, 4:7] = True
    large, small = parts(mask, 9)
    assert (large.pixels, large.left, large.top) == (9, 4, 4)
    assert (small.pixels, small.mask.tolist()) == (2, [[True, False], [False, True]])
    assert np.array_equal(large.alone((8, 8)) | small.alone((8, 8)), mask)
    assert len(parts(mask, 1)) == 1


def test_a_ring_runs_along_the_edges_of_the_pixels() -> None:
    [part] = parts(square(10), 1)
    [ring] = rings_of(part, 1, 0)
    assert sorted(map(tuple, ring)) == [(4, 4), (4, 14), (14, 4), (14, 14)]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
def test_what_is_one_pixel_thin_still_has_a_ring(shape: tuple[int, int]) -> None:
    [part] = parts(np.ones(shape, bool), 1)
    [ring] = rings_of(part, 1, 0)
    assert cv2.contourArea(ring.astype(np.float32)) == shape[0] * shape[1]


def test_a_large_hole_is_cut_out_by_a_way_there_and_back_and_a_small_one_filled() -> None:
    mask = square(60, (10, 10, 20), (40, 40, 4))
    assert np.array_equal(redrawn(mask, 1, 17), square(60, (10, 10, 20)))
    assert np.array_equal(redrawn(mask, 1, 16), mask)
    assert np.array_equal(redrawn(mask, 1, 500), square(60))


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_a_line_round_all_parts_and_holes_encloses_the_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = cv2.resize((rng.random((8, 8)) < 0.5).astype(np.uint8), (64, 64), interpolation=cv2.INTER_NEAREST) > 0
    if mask.any():
        assert np.array_equal(redrawn(mask), mask)
        assert iou(redrawn(mask, 1.5), mask) > 0.9


def test_no_cut_crosses_another_ring() -> None:
    # A pane between two holes is nearer to the second than any of its corners is to the frame.
    mask = square(200, (10, 10, 190), (10, 10, 1))
    mask[20:190, 30:40] = mask[20:190, 60:70] = True
    line = in_one_line([ring for part in parts(mask, 9) for ring in rings_of(part, 1, 0)])
    for start, end in zip(line, np.roll(line, -1, axis=0), strict=True):
        middle = start + np.linspace(0, 1, 400)[1:-1, None] * (end - start)
        inside = mask[tuple(np.clip(middle.round().astype(int), 0, 207).T[::-1])]
        assert np.count_nonzero(np.diff(inside.astype(int))) <= 2  # along an edge it may round to either side


def test_an_upright_box_encloses_the_pixels() -> None:
    assert box_around(parts(square(10), 1)) == (4, 4, 10, 10, 0)
    mask = np.zeros((20, 30), bool)
    mask[2, 3] = mask[10:12, 20:25] = True
    assert box_around(parts(mask, 9)) == (3, 2, 22, 10, 0)


@pytest.mark.parametrize("degrees", [0, 10, 30, 44, 60, 80, 120, 170])
def test_a_turned_box_lies_on_what_was_turned(degrees: float) -> None:
    canvas = np.zeros((200, 300), np.uint8)
    corners = cv2.boxPoints(((150, 100), (120, 40), degrees))
    cv2.fillPoly(canvas, [np.round(corners).astype(np.int32)], 1)
    box = turned_box_around(parts(canvas > 0, 1), (200, 300))
    along = np.array([np.cos(np.radians(box.degrees)), np.sin(np.radians(box.degrees))])
    across = np.array([-along[1], along[0]])
    corner = np.array([box.x, box.y])
    right, down = box.width * along, box.height * across
    drawn = np.zeros_like(canvas)
    points = np.array([corner, corner + right, corner + right + down, corner + down])
    cv2.fillPoly(drawn, [np.round(points).astype(np.int32)], 1)
    assert iou(drawn > 0, canvas > 0) > 0.93
    assert min(box.degrees, 360 - box.degrees) <= 45.1
    assert box.width * box.height < 1.1 * 121 * 41


def test_a_box_that_would_be_longer_than_the_image_is_wide_stays_upright() -> None:
    mask = np.eye(100, dtype=bool)
    assert turned_box_around(parts(mask, 1), (100, 100)) == box_around(parts(mask, 1)) == (0, 0, 100, 100, 0)
