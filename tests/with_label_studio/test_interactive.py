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
from tests.with_label_studio.browser import ARTIFACTS
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
</View>"""


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


def test_an_annotator_types_words_accepts_the_mask_and_submits(
    editor: Project, page: Page, label_studio: LabelStudioServer
) -> None:
    scene = scene_with("ground track field", 1, 1)
    [track] = masks_of(scene, "ground track field")
    [task] = editor.add({"image": editor.upload("scene.png", png(scene.image))})
    page.goto(f"{label_studio.url}/projects/{editor.id}/data?task={task}")
    page.wait_for_selector("canvas")
    page.get_by_text("Auto-Annotation").first.click()
    text = page.locator("textarea").first
    text.fill("the running track")
    text.press("Shift+Enter")
    page.get_by_test_id("bottombar-accept-suggestions-button").click(timeout=60_000)
    page.wait_for_timeout(1000)
    page.screenshot(path=ARTIFACTS / "typed-mask.png")
    page.get_by_test_id("bottombar-submit-button").click()

    def submitted() -> list[dict[str, Any]]:
        return list(editor.api.get(f"/api/tasks/{task}").raise_for_status().json()["annotations"])

    [annotation] = wait_for(submitted)
    regions = [region for region in annotation["result"] if region["type"] == "brushlabels"]
    assert [region["value"]["brushlabels"] for region in regions] == [["track"]]
    assert [region["meta"]["text"] for region in regions] == [["the running track"]]
    assert iou(drawn(regions), track) > 0.5
