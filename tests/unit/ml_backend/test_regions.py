from __future__ import annotations

import base64
import io
import json
import time
from typing import Any

import numpy as np
import pytest
from label_studio_sdk.converter.brush import encode_rle
from label_studio_sdk.label_interface import LabelInterface
from PIL import Image

from ml_backend.brush import decode
from ml_backend.regions import mask_of, regions
from tests.factories import make_answer, make_job
from workers.contract import Answer, Ask, Found, Output, OutputType, Rle, Rules

CONFIG = LabelInterface("""<View><Image name="image" value="$image"/>
<BrushLabels name="brushlabels" toName="image"><Label value="ship"/></BrushLabels>
<BitmaskLabels name="bitmasklabels" toName="image"><Label value="ship"/></BitmaskLabels>
<PolygonLabels name="polygonlabels" toName="image"><Label value="ship"/></PolygonLabels>
<RectangleLabels name="rectanglelabels" toName="image"><Label value="ship"/></RectangleLabels>
<TextArea name="words" toName="image" perRegion="true"/></View>""")

TYPES: list[OutputType] = ["brushlabels", "bitmasklabels", "polygonlabels", "rectanglelabels"]
SIZE_HW = (60, 80)


def two_ships() -> np.ndarray:
    mask = np.zeros(SIZE_HW, bool)
    mask[10:20, 10:50] = True
    mask[30:50, 60:70] = True
    return mask


def ask(kind: OutputType, expression: str = "all ships", **output: Any) -> Ask:
    instances = output.pop("instances", kind in ("polygonlabels", "rectanglelabels"))
    where = Output(from_name=kind, to_name="image", type=kind, instances=instances, **output)
    return Ask(expression=expression, label="ship", output=where)


def answer(*asks: Ask, mask: np.ndarray | None = None, rules: Rules | None = None) -> Answer:
    found = Rle.from_mask(two_ships() if mask is None else mask)
    job = make_job(asks=asks, rules=rules)
    each = (Found(expression=one.expression, label="ship", mask=found, score=0.8, predicted_iou=0.9) for one in asks)
    return make_answer(job, found=tuple(each))


def drawn(result: list[dict[str, Any]]) -> np.ndarray:
    """The pixels that brush and bitmask regions cover."""
    mask = np.zeros((result[0]["original_height"], result[0]["original_width"]), bool)
    for region in result:
        value = region["value"]
        if "rle" in value:
            mask |= decode(value["rle"], mask.shape)
        else:
            png = base64.b64decode(value["imageDataURL"].removeprefix("data:image/png;base64,"))
            rgba = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))
            assert not rgba[rgba[..., 3] > 0, :3].any()  # black
            mask |= rgba[..., 3] == 255
    return mask


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("options", [{}, {"instances": True}, {"instances": False}, {"words_name": "words"}])
def test_label_studio_takes_what_is_written_for_each_control(kind: OutputType, options: dict[str, Any]) -> None:
    result = regions(answer(ask(kind, **options)))
    prediction = {"result": result, "score": 0.8, "model_version": "tiny@0"}
    assert CONFIG.validate_prediction(prediction, return_errors=True) == []
    assert {(region["original_width"], region["original_height"], region["origin"]) for region in result} == {
        (80, 60, "prediction")
    }
    assert {region["score"] for region in result} == {0.8}
    assert all(region["meta"] == {"text": ["all ships"]} for region in result)
    assert len({region["id"] for region in result}) == (2 if result[0]["id"].count("-") == 2 else 1)


@pytest.mark.parametrize("kind", ["brushlabels", "bitmasklabels"])
@pytest.mark.parametrize("instances", [True, False])
def test_painted_regions_cover_the_mask(kind: OutputType, instances: bool) -> None:
    result = regions(answer(ask(kind, instances=instances)))
    assert len(result) == 1 + instances
    assert np.array_equal(drawn(result), two_ships())
    assert drawn(result[:1]).sum() == (400 if instances else 600)


def test_polygons_and_boxes_are_percent_of_the_image() -> None:
    [first, second] = regions(answer(ask("polygonlabels")))
    assert first["value"]["closed"]
    assert sorted(map(tuple, first["value"]["points"])) == [
        (12.5, 16.6667),
        (12.5, 33.3333),
        (62.5, 16.6667),
        (62.5, 33.3333),
    ]
    assert second["value"]["polygonlabels"] == ["ship"]
    box = regions(answer(ask("rectanglelabels")))[1]["value"]
    assert box == {"x": 75, "y": 50, "width": 12.5, "height": 33.3333, "rotation": 0, "rectanglelabels": ["ship"]}


def test_one_box_or_one_polygon_may_hold_all_parts() -> None:
    [box] = regions(answer(ask("rectanglelabels", instances=False)))
    assert (box["value"]["x"], box["value"]["width"]) == (12.5, 75)
    [polygon] = regions(answer(ask("polygonlabels", instances=False)))
    assert len(polygon["value"]["points"]) >= 8


def test_a_box_may_be_turned() -> None:
    rows, columns = np.mgrid[:100, :100]
    slanted = (np.abs(rows - columns) < 10) & (rows + columns > 60) & (rows + columns < 140)
    [upright], [turned] = (
        regions(answer(ask("rectanglelabels", rotated=rotated), mask=slanted)) for rotated in (False, True)
    )
    areas = [region["value"]["width"] * region["value"]["height"] for region in (upright, turned)]
    assert areas[1] < areas[0] / 2
    assert turned["value"]["rotation"] % 90 == pytest.approx(45, abs=1)


def test_the_text_of_a_region_follows_it_under_the_same_id() -> None:
    result = regions(answer(ask("polygonlabels", words_name="words")))
    assert [region["type"] for region in result] == ["polygonlabels", "textarea"] * 2
    assert [region["id"] for region in result[::2]] == [region["id"] for region in result[1::2]]
    assert result[1]["value"] == {"text": ["all ships"]}
    assert result[1]["from_name"] == "words"


def test_what_was_only_pointed_at_has_no_text() -> None:
    pointed = ask("brushlabels").model_copy(update={"expression": "", "pointed": {"points": ({"x": 0.5, "y": 0.5},)}})
    [region] = regions(answer(Ask.model_validate(pointed.model_dump(warnings=False))))
    assert "meta" not in region


@pytest.mark.parametrize("kind", TYPES)
def test_the_same_answer_gives_the_same_regions(kind: OutputType) -> None:
    one, other = (regions(answer(ask(kind, instances=True))) for _ in range(2))
    assert one == other


def test_an_empty_mask_gives_no_region() -> None:
    for kind in TYPES:
        assert regions(answer(ask(kind), mask=np.zeros(SIZE_HW, bool))) == []


def test_beyond_the_most_regions_the_smallest_are_left_out_but_no_expression_loses_its_last() -> None:
    mask = np.zeros((100, 100), bool)
    for n in range(9):
        mask[10 * n : 10 * n + 4 + n // 2, 50 : 54 + n] = True
    asks = ask("polygonlabels", "all ships"), ask("rectanglelabels", "all boats")
    result = regions(answer(*asks, mask=mask, rules=Rules(regions_limit=6)))
    assert [region["type"] for region in result] == ["polygonlabels"] * 3 + ["rectanglelabels"] * 3
    assert min(region["value"]["width"] for region in result[3:]) > 9
    assert len(regions(answer(*asks, mask=mask, rules=Rules(regions_limit=1)))) == 2


def blobs(side: int, share: float = 0.5) -> np.ndarray:
    return np.random.default_rng(0).random((side, side)) < share


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("instances", [True, False])
def test_noise_is_drawn_more_coarsely_until_it_fits(kind: OutputType, instances: bool) -> None:
    rules = Rules(bytes_limit=20_000, points_limit=300)
    result = regions(answer(ask(kind, instances=instances), ask(kind, "x"), mask=blobs(256), rules=rules))
    assert result
    assert len(json.dumps(result)) <= 20_100
    assert sum(len(region["value"].get("points", ())) for region in result) <= 300


def test_only_the_large_of_several_masks_become_coarser() -> None:
    noisy = answer(ask("brushlabels"), ask("brushlabels", "x"), mask=blobs(256), rules=Rules(bytes_limit=60_000))
    fine = noisy.found[0].model_copy(update={"mask": Rle.from_mask(np.pad(two_ships(), ((0, 196), (0, 176))))})
    result = regions(noisy.model_copy(update={"found": (noisy.found[0], fine)}))
    assert drawn(result[1:]).sum() == 600
    assert len(json.dumps(result)) <= 60_100


@pytest.mark.parametrize("kind", TYPES)
def test_a_noisy_mask_of_4096_pixels_ends_small_and_in_time(kind: OutputType) -> None:
    rows, columns = np.mgrid[:4096, :4096]
    disc = (rows - 2000) ** 2 + (columns - 1900) ** 2 < 1200**2
    noisy = answer(ask(kind), mask=disc ^ blobs(4096, 0.1))
    started = time.process_time()
    result = regions(noisy)
    assert time.process_time() - started < 20
    assert len(json.dumps(result)) < 200_000
    if kind in ("brushlabels", "bitmasklabels"):
        covered = drawn(result)
        assert np.count_nonzero(covered & disc) / np.count_nonzero(covered | disc) > 0.95


def strewn(seed: int, size_hw: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(seed).random(size_hw) < 0.3


def united(result: list[dict[str, Any]]) -> np.ndarray:
    masks = [mask_of(json.loads(json.dumps(region))) for region in result if region["type"] != "textarea"]
    together: np.ndarray = np.logical_or.reduce(masks)
    return together


AS_IT_IS = Rules(speck_pixels=0, speck_share=0, pinhole_pixels=0, tolerance_px=0, polygon_hole_pixels=0)


@pytest.mark.parametrize("kind", ["brushlabels", "bitmasklabels"])
@pytest.mark.parametrize("instances", [True, False])
def test_painted_masks_come_back_pixel_by_pixel(kind: OutputType, instances: bool):
    mask = strewn(1, (24, 31))
    assert (united(regions(answer(ask(kind, instances=instances), mask=mask, rules=AS_IT_IS))) == mask).all()


@pytest.mark.parametrize("instances", [True, False])
def test_polygons_that_follow_the_edges_come_back_with_their_holes(instances: bool):
    mask = np.zeros((80, 100), bool)
    mask[10:70, 10:90] = True
    mask[20:30, 20:40] = mask[40:60, 50:80] = False
    mask[45:50, 60:70] = True  # an island in a hole
    mask[2:5, 3:4] = True
    result = regions(answer(ask("polygonlabels", instances=instances), mask=mask, rules=AS_IT_IS))
    assert (united(result) == mask).all()


def test_simplified_polygons_stay_within_their_tolerance():
    y, x = np.mgrid[:200, :200]
    mask = np.hypot(x - 100, y - 90) < 70
    result = regions(answer(ask("polygonlabels"), mask=mask, rules=Rules(tolerance_px=1)))
    back = united(result)
    near = np.abs(np.hypot(x - 100, y - 90) - 70) < 2
    assert (back == mask)[~near].all()
    assert np.count_nonzero(back & mask) / np.count_nonzero(back | mask) > 0.97


def test_boxes_come_back_as_boxes_also_turned_ones():
    mask = two_ships()
    assert (united(regions(answer(ask("rectanglelabels"), mask=mask))) == mask).all()
    y, x = np.mgrid[:120, :120]
    slanted = (np.abs((x - 60) + (y - 60)) < 20) & (np.abs((x - 60) - (y - 60)) < 50)
    back = united(regions(answer(ask("rectanglelabels", rotated=True), mask=slanted)))
    assert np.count_nonzero(back & slanted) / np.count_nonzero(back | slanted) > 0.93


def test_what_reaches_beyond_the_image_is_cut_off():
    value = {"x": -50, "y": 50, "width": 75, "height": 500, "rotation": 0, "rectanglelabels": ["ship"]}
    region = {"type": "rectanglelabels", "original_width": 8, "original_height": 4, "value": value}
    expected = np.zeros((4, 8), bool)
    expected[2:, :2] = True
    assert (mask_of(region) == expected).all()


def test_soft_edges_of_the_brush_belong_to_the_mask_from_the_middle_on():
    rgba = np.zeros((2, 4, 4), np.uint8)
    rgba[0, :, 3] = [0, 127, 128, 255]
    rle = encode_rle(rgba.reshape(-1))
    value = {"format": "rle", "rle": rle, "brushlabels": ["ship"]}
    region = {"type": "brushlabels", "original_width": 4, "original_height": 2, "value": value}
    assert mask_of(region).tolist() == [[False, False, True, True], [False] * 4]


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"rle": "AAAA", "imageDataURL": 3, "points": "a", "x": "b"},
        {"rle": [1, 2, 3], "imageDataURL": "data:image/png;base64,!!", "points": [[1, 2]], "x": None},
        {"rle": [255] * 50, "imageDataURL": "data:image/png;base64,AAAA", "points": [[1, 2], [3, 4], [5]], "x": [1]},
        {"rle": [{}], "imageDataURL": "http://127.0.0.1/a.png", "points": [[1, 2], [float("nan"), 4], [5, 6]]},
    ],
)
@pytest.mark.parametrize("kind", TYPES)
def test_broken_regions_are_refused_in_a_sentence_without_their_content(kind: OutputType, value: Any):
    region = {"type": kind, "original_width": 8, "original_height": 4, "value": value}
    with pytest.raises(ValueError, match=r"^a (region|brush region|bitmask region|polygon|box) "):
        mask_of(region)


@pytest.mark.parametrize("size", [(0, 4), (10**6, 10**6), (None, 4), ("8", 4), (True, 4), (8.0, 4)])
def test_impossible_sizes_are_refused_before_memory_is_taken(size: tuple[Any, Any]):
    value = {"x": 0, "y": 0, "width": 100, "height": 100}
    region = {"type": "rectanglelabels", "original_width": size[0], "original_height": size[1], "value": value}
    with pytest.raises(ValueError, match="possible size"):
        mask_of(region)


def test_what_was_drawn_on_a_turned_image_is_refused():
    [region] = regions(answer(ask("brushlabels")))
    with pytest.raises(ValueError, match="turned"):
        mask_of({**region, "image_rotation": 90})


def test_a_polygon_that_goes_up_and_down_for_ever_is_refused():
    points = [[50, 0 if n % 2 else 100] for n in range(20_000)]
    region = {"type": "polygonlabels", "original_width": 9, "original_height": 9000, "value": {"points": points}}
    with pytest.raises(ValueError, match="too many"):
        mask_of(region)
