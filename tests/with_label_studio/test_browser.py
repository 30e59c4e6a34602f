"""What an annotator sees, in a real browser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page

from ml_backend.label_studio_server import LabelStudioServer
from rsrefseg.samples import write_samples
from tests.with_label_studio.conftest import ARTIFACTS, Fleet, Project, wait_for


def reddish(screenshot: Path) -> float:
    """Share of the screenshot that carries the label's colour."""
    r, g, b = np.moveaxis(np.asarray(Image.open(screenshot).convert("RGB")).astype(int), -1, 0)
    return float(((r > g + 50) & (r > b + 50)).mean())


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

    assert reddish(ARTIFACTS / "task-with-mask.png") > reddish(ARTIFACTS / "task-before.png") + 0.005
