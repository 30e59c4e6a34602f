"""What an annotator sees, in a real browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from ml_backend.label_studio_server import LabelStudioServer
from rsrefseg.samples import write_samples
from tests.need import need_browser
from tests.with_label_studio.conftest import Fleet, Project, wait_for

ARTIFACTS = Path(os.environ.get("TEST_ARTIFACTS", "artifacts"))
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]


@pytest.fixture
def page(label_studio: LabelStudioServer) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=need_browser(), args=QUIET)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{label_studio.url}/user/login/")
        page.fill("input[name=email]", label_studio.username)
        page.fill("input[name=password]", label_studio.password)
        page.press("input[name=password]", "Enter")
        page.wait_for_url(lambda url: "login" not in url)
        yield page
        browser.close()


def reddish(screenshot: Path) -> float:
    """Share of the screenshot that carries the label's colour."""
    r, g, b = np.moveaxis(np.asarray(Image.open(screenshot).convert("RGB")).astype(int), -1, 0)
    return float(((r > g + 50) & (r > b + 50)).mean())


def test_an_annotator_opens_a_task_and_the_mask_is_on_the_image(
    fleet: Fleet, project: Project, page: Page, label_studio: LabelStudioServer, tmp_path: Path
):
    ARTIFACTS.mkdir(exist_ok=True)
    write_samples(tmp_path / "scenes", 1, 512, 2_000_000_003)
    [png] = (tmp_path / "scenes").glob("scene-*.png")
    grey = tmp_path / "grey.png"
    Image.open(png).convert("L").save(grey)  # so that red on the screen can only be the mask
    [task] = project.add({"image": project.upload("grey.png", grey.read_bytes()), "expression": "the field"})
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
