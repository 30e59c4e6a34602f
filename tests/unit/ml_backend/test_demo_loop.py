import json
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from ml_backend import brush
from ml_backend.demo_loop import MASKS, Annotators, Errand, find_masks
from ml_backend.demo_project import Sample, local_uri
from ml_backend.errors import StartFailed

TRUTH = np.zeros((40, 60), bool)
TRUTH[10:30, 20:50] = True


@pytest.fixture
def errand(tmp_path: Path) -> Errand:
    (tmp_path / MASKS).mkdir()
    cv2.imwrite(str(tmp_path / MASKS / "a scene.png"), np.uint8(255) * TRUTH)
    return Errand(7, tmp_path / MASKS / "a scene.png", measured=False)


def shown(mask: np.ndarray) -> dict[str, object]:
    value = {"format": "rle", "rle": brush.encode(mask), "brushlabels": ["target"]}
    return {"id": 3, "result": [{"id": "ours", "type": "brushlabels", "value": value}]}


class Submitted:
    """A Label Studio that shows what it is given, and remembers what is submitted."""

    def __init__(self, *predictions: dict[str, object]) -> None:
        self.annotation: dict[str, object] = {}
        transport = httpx.MockTransport(lambda request: self._answer(request, list(predictions)))
        self.annotators = Annotators("http://127.0.0.1:1", "token", transport)

    def _answer(self, request: httpx.Request, predictions: list[dict[str, object]]) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json=predictions)
        self.annotation = json.loads(request.content)
        return httpx.Response(201, json={"id": 1})


def test_a_mask_that_is_right_is_left_as_it_is(errand: Errand):
    studio = Submitted(shown(TRUTH))
    assert studio.annotators.correct(errand)
    assert studio.annotation["parent_prediction"] == 3
    assert studio.annotation["result"][0]["id"] == "ours"


@pytest.mark.parametrize("predictions", [(), (shown(~TRUTH),), ({"id": 3, "result": []},)])
def test_a_mask_that_is_wrong_or_missing_is_drawn_from_the_truth(errand: Errand, predictions):
    studio = Submitted(*predictions)
    assert not studio.annotators.correct(errand)
    [region] = studio.annotation["result"]
    drawn = brush.decode(region["value"]["rle"], TRUTH.shape)
    assert np.array_equal(drawn, TRUTH)
    assert region["id"] != "ours"


def test_a_truth_that_is_no_image_is_named(errand: Errand):
    errand.mask.write_text("nothing")
    with pytest.raises(StartFailed, match=r"a scene\.png is no image"):
        errand.truth()


def test_each_expression_about_an_image_has_a_truth_of_its_own(tmp_path: Path):
    (tmp_path / MASKS).mkdir()
    for name in ("a", "b-1", "b-2", "b"):
        (tmp_path / MASKS / f"{name}.png").touch()
    samples = [
        Sample(tmp_path / "a.jpg", "the ship"),
        Sample(tmp_path / "b.png", "the pier"),
        Sample(tmp_path / "b.png", "the pier"),
        Sample(tmp_path / "b.png", "the ship"),
    ]
    found = find_masks(samples)
    assert [found[sample].name for sample in samples] == ["a.png", "b-1.png", "b-1.png", "b-2.png"]
    task = {"id": 5, "data": {"image": local_uri(tmp_path / "b.png", tmp_path), "expression": "the ship"}}
    assert Errand.of(task, tmp_path, found).mask.name == "b-2.png"
    (tmp_path / MASKS / "b-2.png").unlink()
    with pytest.raises(StartFailed, match=r"b-2\.png is missing.*'the ship' in b\.png"):
        find_masks(samples)
