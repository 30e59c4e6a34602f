from collections import Counter
from functools import cache

import cv2
import numpy as np
import pytest

from rsrefseg.scenes import Scene, draw_scene
from rsrefseg.scenes.palette import COLOURS, classify, colour_word
from rsrefseg.scenes.scene import layout_of

CATEGORIES = {
    "airplane", "ship", "storage tank", "baseball diamond", "tennis court", "basketball court", "ground track field",
    "harbor", "bridge", "vehicle", "building", "road", "field", "lake", "river", "swimming pool",
}  # fmt: skip
SEEDS = range(60)


@cache
def scene(seed: int) -> Scene:
    return draw_scene(seed, size=256)


def test_the_same_seed_draws_the_same_bytes():
    one, other = draw_scene(7, size=128), draw_scene(7, size=128)
    assert one.image.tobytes() == other.image.tobytes()
    assert [(thing.category, thing.colour) for thing in one.things] == [
        (thing.category, thing.colour) for thing in other.things
    ]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(one.things, other.things, strict=True))


def test_a_thermal_camera_sees_the_same_ground_without_colours():
    by_day, by_night = draw_scene(7, size=128), draw_scene(7, size=128, camera="thermal")
    assert [thing.category for thing in by_night.things] == [thing.category for thing in by_day.things]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(by_day.things, by_night.things, strict=True))
    assert not any(thing.colour for thing in by_night.things)
    assert np.ptp(by_night.image.astype(int), axis=2).max() == 0
    assert np.corrcoef(by_day.image.mean(2).ravel(), by_night.image[..., 0].ravel())[0, 1] < -0.5


def test_other_seeds_draw_other_scenes():
    assert len({scene(seed).image.tobytes() for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("size", [128, 200, 512])
def test_an_image_has_the_size_asked_for(size):
    drawn = draw_scene(3, size=size)
    assert drawn.image.shape == (size, size, 3)
    assert drawn.image.dtype == np.uint8
    assert all(thing.mask.shape == (size, size) for thing in drawn.things)


def test_the_size_does_not_change_what_is_shown():
    small, large = draw_scene(11, size=256), draw_scene(11, size=512)
    large_things = Counter(thing.category for thing in large.things)
    assert large_things & Counter(thing.category for thing in small.things)
    shrunk = cv2.resize(large.image, (32, 32), interpolation=cv2.INTER_AREA).astype(float)
    again = cv2.resize(small.image, (32, 32), interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(shrunk - again).mean() < 12


def test_masks_are_boolean_large_enough_and_disjoint():
    for seed in SEEDS:
        claimed = np.zeros((256, 256), int)
        for thing in scene(seed).things:
            assert thing.mask.dtype == bool
            assert thing.mask.sum() >= 15  # 60 at 512 pixels
            claimed += thing.mask
        assert claimed.max(initial=0) <= 1


def test_every_category_occurs_and_no_other():
    seen = {thing.category for seed in range(200) for thing in draw_scene(seed, size=64).things}
    assert seen == CATEGORIES


def test_most_scenes_hold_several_classes():
    classes = [len({thing.category for thing in scene(seed).things}) for seed in SEEDS]
    assert np.mean(np.array(classes) >= 3) > 0.6


def test_layouts_vary_with_the_seed():
    assert len({layout_of(np.random.default_rng(seed)) for seed in range(200)}) == 11


def test_colours_come_from_the_palette_and_agree_with_the_pixels():
    named = 0
    for seed in SEEDS:
        drawn = scene(seed)
        classes = classify(drawn.image)
        for thing in drawn.things:
            if thing.colour is None:
                continue
            named += 1
            share = np.mean(classes[thing.mask] == COLOURS.index(thing.colour) + 1)
            assert share >= 0.5, (seed, thing.category, thing.colour, share)
    assert named > 100


@pytest.mark.parametrize(
    ("rgb", "word"),
    [
        ((245, 245, 245), "white"), ((120, 120, 122), "grey"), ((15, 15, 18), "black"), ((190, 40, 40), "red"),
        ((50, 110, 60), "green"), ((50, 90, 170), "blue"), ((140, 90, 60), "brown"), ((235, 130, 40), "orange"),
        ((220, 200, 70), "yellow"), ((150, 80, 200), None),
    ],
)  # fmt: skip
def test_plain_colours_have_plain_names(rgb, word):
    pixels = np.full((20, 3), rgb, np.uint8)
    assert colour_word(pixels, classify(pixels)) == word


def test_a_motley_object_has_no_colour():
    pixels = np.repeat(np.array([(190, 40, 40), (50, 90, 170), (50, 110, 60)], np.uint8), 10, axis=0)
    assert colour_word(pixels, classify(pixels)) is None


def test_a_running_track_is_one_oval_without_its_bends_cut_out():
    for seed in range(400):
        if layout_of(np.random.default_rng(seed)) != "sports complex":
            continue
        for thing in draw_scene(seed, size=128).things:
            if thing.category != "ground track field" or thing.mask[0].any() or thing.mask[-1].any():
                continue
            if thing.mask[:, 0].any() or thing.mask[:, -1].any():
                continue
            contours, _ = cv2.findContours(thing.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            hull = cv2.convexHull(max(contours, key=len))
            assert thing.mask.sum() > 0.75 * cv2.contourArea(hull)
            return
    pytest.fail("no whole running track in 400 scenes")
