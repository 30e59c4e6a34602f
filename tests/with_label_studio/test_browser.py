"""What an annotator sees, in a real browser."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page

from ml_backend.brush import decode
from ml_backend.label_studio_server import LabelStudioServer
from rsrefseg.samples import write_samples
from tests.with_label_studio.browser import ARTIFACTS, reddish
from tests.with_label_studio.conftest import Fleet, Project, wait_for


def test_an_annotator_opens_a_task_and_the_mask_is_on_the_image(
    fleet: Fleet, project: Project, page: Page, label_studio: LabelStudioServer, tmp_path: Path
):
    write_samples(tmp_path / "scenes", 1, 512, 2_000_000_003)
    [png] = (tmp_path / "scenes").glob("scene-*.png")
    grey = tmp_path / "grey.png"
    Image.open(png).convert("L").save(grey)  # so that red on the screen can only be the mask
    [task] = project.add({"image": project.upload("grey.png", grey.read_bytes()), "expression": "all storage tanks"})
    address = f"{label_studio.url}/projects/{project.id}/data?task={task}"

    page.goto(address)
    page.wait_for_selector("canvas")
    page.wait_for_timeout(1500)
    page.screenshot(path=ARTIFACTS / "task-before.png")

    fleet.start("web", "worker", "courier")
    fleet.wait_until_ready()
    project.connect(fleet.url).raise_for_status()
    page.goto(address)
    page.wait_for_selector("canvas")
    [prediction] = wait_for(project.predictions)
    covered = sum(len(region["value"]["rle"]) for region in prediction["result"])
    assert covered, "the model found nothing, so there is nothing to look at"
    page.wait_for_timeout(1500)
    page.screenshot(path=ARTIFACTS / "task-with-mask.png")

    assert reddish(ARTIFACTS / "task-with-mask.png").mean() > reddish(ARTIFACTS / "task-before.png").mean() + 0.005


def grey_png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (400, 300), (128, 128, 128)).save(file, "PNG")
    return file.getvalue()


def test_predictions_are_retrieved_for_all_tasks_from_the_data_manager(
    fleet: Fleet, project: Project, page: Page, label_studio: LabelStudioServer
):
    image = project.upload("grey.png", grey_png())
    tasks = project.add(*({"image": image, "expression": f"the ship {number}"} for number in range(3)))
    fleet.start("web", "simulated", "courier")
    fleet.wait_until_ready()
    project.connect(fleet.url).raise_for_status()
    page.goto(f"{label_studio.url}/projects/{project.id}/data")
    page.get_by_text("the ship 2").wait_for()
    page.locator("input[type=checkbox]").first.click(force=True)
    page.get_by_text("3 Tasks").first.click()
    page.get_by_text("Retrieve Predictions").first.click()
    page.get_by_text("OK", exact=True).last.click()
    wait_for(lambda: {prediction["task"] for prediction in project.predictions()} == set(tasks))
    page.reload()
    page.get_by_text("the ship 2").wait_for()
    page.get_by_text("Predictions: 3").wait_for()
    page.screenshot(path=ARTIFACTS / "data-manager.png")


def test_a_mask_is_corrected_with_the_brush_and_keeps_its_origin(
    fleet: Fleet, project: Project, page: Page, label_studio: LabelStudioServer
):
    [task] = project.add({"image": project.upload("grey.png", grey_png()), "expression": "the ship"})
    fleet.start("web", "simulated", "courier")
    fleet.wait_until_ready()
    project.connect(fleet.url).raise_for_status()
    project.retrieve()
    [prediction] = wait_for(project.predictions)
    [predicted] = prediction["result"]
    page.goto(f"{label_studio.url}/projects/{project.id}/data?task={task}")
    page.wait_for_selector("canvas")
    page.locator("[class*=outliner-item]").first.click()
    page.locator("[aria-label=brush-tool]").first.click()
    canvas = page.locator("canvas").first.bounding_box()
    assert canvas is not None
    page.mouse.move(canvas["x"] + 20, canvas["y"] + 30)
    page.mouse.down()
    page.mouse.move(canvas["x"] + 200, canvas["y"] + 40, steps=8)
    page.mouse.up()
    page.wait_for_timeout(800)
    page.screenshot(path=ARTIFACTS / "corrected-mask.png")
    page.get_by_test_id("bottombar-submit-button").click()

    def submitted() -> list[dict[str, Any]]:
        return list(project.api.get(f"/api/tasks/{task}").raise_for_status().json()["annotations"])

    [annotation] = wait_for(submitted)
    [region] = [region for region in annotation["result"] if region["type"] == "brushlabels"]
    assert (region["id"], region["origin"]) == (predicted["id"], "prediction-changed")
    before, after = (decode(one["value"]["rle"], (300, 400)) for one in (predicted, region))
    assert after.sum() > before.sum()
    assert annotation["parent_prediction"] == prediction["id"]
