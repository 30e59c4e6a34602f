"""What an annotator does in the editor, in a real browser: words, smart tools, suggestions."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page

from ml_backend import brush
from ml_backend.label_studio_server import LabelStudioServer
from rsrefseg.scenes import Scene, draw_scene
from tests.with_label_studio.browser import ARTIFACTS, Box, draw_box, on_screen, open_to_ask, point_with, type_words
from tests.with_label_studio.conftest import Fleet, Project, wait_for

CONFIG = """<View>
  <Image name="image" value="$image"/>
  <TextArea name="prompt" toName="image" editable="true" rows="2" maxSubmissions="1" showSubmitButton="true"/>
  <BrushLabels name="mask" toName="image" smart="false">
    <Label value="track" background="#e63c3c" predicted_values="ground track field,running track"/>
    <Label value="tank" background="#e6a03c" predicted_values="storage tank"/>
  </BrushLabels>
  <RectangleLabels name="box" toName="image" smart="true" smartOnly="true">
    <Label value="tank" background="#3c3ce6"/>
  </RectangleLabels>
  <KeyPointLabels name="point" toName="image" smart="true" smartOnly="true">
    <Label value="tank" background="#3ce63c"/>
  </KeyPointLabels>
</View>"""
BOX_LABEL, POINT_LABEL = 2, 3
"""Where the labels to point with are among all labels of the config."""


def scene_with(category: str, least: int, most: int) -> Scene:
    """The first drawn scene, of seeds that nothing was trained on, that shows so many objects of a class."""
    for seed in range(2_000_000_100, 2_000_000_400):
        scene = draw_scene(seed, 512)
        if least <= sum(one.category == category for one in scene.things) <= most:
            return scene
    raise AssertionError(f"no scene shows {category}")


def masks_of(scene: Scene, category: str) -> list[np.ndarray]:
    return [one.mask for one in scene.things if one.category == category]


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return float((mask & truth).sum() / (mask | truth).sum())


def drawn(regions: list[dict[str, Any]]) -> np.ndarray:
    masks = [brush.decode(region["value"]["rle"], (512, 512)) for region in regions if "rle" in region["value"]]
    return np.any(masks, axis=0) if masks else np.zeros((512, 512), bool)


@pytest.fixture
def editor(fleet: Fleet, project: Project, api: httpx.Client) -> Project:
    """A project to type into, with everything running."""
    answer = api.post("/api/projects", json={"title": "Typed", "label_config": CONFIG})
    project = replace(project, id=int(answer.raise_for_status().json()["id"]))
    fleet.start("web", "worker", "courier", RSREFSEG_OPEN_WAIT_S="0")
    fleet.wait_until_ready()
    project.connect(fleet.url).raise_for_status()
    return project


def submitted(project: Project, task: int) -> list[dict[str, Any]]:
    """The brush regions of the task's only annotation, once it is submitted."""

    def annotations() -> list[dict[str, Any]]:
        return list(project.api.get(f"/api/tasks/{task}").raise_for_status().json()["annotations"])

    [annotation] = wait_for(annotations)
    return [region for region in annotation["result"] if region["type"] == "brushlabels"]


def accept_and_submit(page: Page, screenshot: str) -> None:
    page.get_by_test_id("bottombar-accept-suggestions-button").click()
    page.wait_for_timeout(1000)
    page.screenshot(path=ARTIFACTS / screenshot)
    page.get_by_test_id("bottombar-submit-button").click()


def box_around(mask: np.ndarray) -> Box:
    """A box with a hand's breadth around a mask, in shares of the image's sides."""
    rows, columns = np.nonzero(mask)
    h, w = mask.shape
    left, right = columns.min() / w, (columns.max() + 1) / w
    top, bottom = rows.min() / h, (rows.max() + 1) / h
    return left - 0.01, top - 0.01, right + 0.01, bottom + 0.01


def outside(mask: np.ndarray, box_xyxy: Box) -> int:
    """How many pixels of a mask are outside of a box, with the margin of a twentieth that a hand is granted."""
    left, top, right, bottom = box_xyxy
    rows, columns = np.nonzero(mask)
    x, y = (columns + 0.5) / mask.shape[1], (rows + 0.5) / mask.shape[0]
    dx, dy = (right - left) / 20 + 1 / mask.shape[1], (bottom - top) / 20 + 1 / mask.shape[0]
    return int(((x < left - dx) | (x > right + dx) | (y < top - dy) | (y > bottom + dy)).sum())


def test_an_annotator_types_words_accepts_the_mask_and_submits(
    editor: Project, page: Page, label_studio: LabelStudioServer
) -> None:
    scene = scene_with("ground track field", 1, 1)
    [track] = masks_of(scene, "ground track field")
    [task] = editor.add({"image": editor.upload("scene.png", png(scene.image))})
    open_to_ask(page, label_studio, editor.id, task)
    type_words(page, "the running track")
    accept_and_submit(page, "typed-mask.png")
    regions = submitted(editor, task)
    assert [region["value"]["brushlabels"] for region in regions] == [["track"]]
    assert [region["meta"]["text"] for region in regions] == [["the running track"]]
    assert iou(drawn(regions), track) > 0.5


def test_a_box_drawn_after_words_narrows_them_to_what_lies_in_it(
    editor: Project, page: Page, label_studio: LabelStudioServer
) -> None:
    scene = scene_with("storage tank", 3, 6)
    _, tank, _ = sorted(masks_of(scene, "storage tank"), key=np.count_nonzero)
    box = box_around(tank)
    [task] = editor.add({"image": editor.upload("scene.png", png(scene.image))})
    open_to_ask(page, label_studio, editor.id, task)
    type_words(page, "all storage tanks")
    page.get_by_test_id("bottombar-reject-suggestions-button").click()
    point_with(page, "rectangle-tool", BOX_LABEL)
    draw_box(page, box)
    accept_and_submit(page, "words-and-box.png")
    [region] = submitted(editor, task)
    assert region["value"]["brushlabels"] == ["tank"]
    assert region["meta"]["text"] == ["all storage tanks"]
    assert iou(drawn([region]), tank) > 0.5
    assert outside(drawn([region]), box) == 0


def test_a_box_alone_means_the_object_in_it(editor: Project, page: Page, label_studio: LabelStudioServer) -> None:
    scene = scene_with("storage tank", 3, 6)
    _, tank, _ = sorted(masks_of(scene, "storage tank"), key=np.count_nonzero)
    box = box_around(tank)
    [task] = editor.add({"image": editor.upload("scene.png", png(scene.image))})
    open_to_ask(page, label_studio, editor.id, task)
    point_with(page, "rectangle-tool", BOX_LABEL)
    draw_box(page, box)
    accept_and_submit(page, "box.png")
    [region] = submitted(editor, task)
    assert region["value"]["brushlabels"] == ["tank"]
    assert "meta" not in region
    assert iou(drawn([region]), tank) > 0.5
    assert outside(drawn([region]), box) == 0


def test_a_point_alone_means_the_object_under_it(editor: Project, page: Page, label_studio: LabelStudioServer) -> None:
    scene = scene_with("storage tank", 3, 6)
    _, tank, _ = sorted(masks_of(scene, "storage tank"), key=np.count_nonzero)
    left, top, right, bottom = box_around(tank)
    [task] = editor.add({"image": editor.upload("scene.png", png(scene.image))})
    open_to_ask(page, label_studio, editor.id, task)
    point_with(page, "key-point-tool", POINT_LABEL)
    page.mouse.click(*on_screen(page, ((left + right) / 2, (top + bottom) / 2)))
    accept_and_submit(page, "point.png")
    [region] = submitted(editor, task)
    assert region["value"]["brushlabels"] == ["tank"]
    assert iou(drawn([region]), tank) > 0.5
