"""A real browser in which the only user of a Label Studio is logged in, and what is to be seen there."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from ml_backend.label_studio_server import LabelStudioServer
from tests.need import need_browser

ARTIFACTS = Path(os.environ.get("TEST_ARTIFACTS", "artifacts"))
Box = tuple[float, float, float, float]
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]


@contextmanager
def logged_in(label_studio: LabelStudioServer) -> Iterator[Page]:
    ARTIFACTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=need_browser(), args=QUIET)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(120_000)  # a busy machine is no reason to fail
        page.goto(f"{label_studio.url}/user/login/")
        page.fill("input[name=email]", label_studio.username)
        page.fill("input[name=password]", label_studio.password)
        page.press("input[name=password]", "Enter")
        page.wait_for_url(lambda url: "login" not in url)
        yield page
        browser.close()


def open_to_ask(page: Page, label_studio: LabelStudioServer, project_id: int, task_id: int) -> None:
    """Open a task in the editor, and switch on what asks the model."""
    page.goto(f"{label_studio.url}/projects/{project_id}/data?task={task_id}")
    page.wait_for_selector("canvas")
    page.get_by_text("Auto-Annotation").first.click()


def type_words(page: Page, words: str) -> None:
    text = page.locator("textarea").first
    text.fill(words)
    text.press("Shift+Enter")


def point_with(page: Page, tool: str, label: int) -> None:
    """Take a smart tool into the hand.

    Args:
        page: The editor.
        tool: Its name on the toolbar: rectangle-tool, key-point-tool.
        label: The label to point with, counted over all controls.
    """
    page.locator(".lsf-tool_smart").first.hover()  # opens the menu of all of them
    page.locator(f"[aria-label={tool}].lsf-tool_smart").last.click()
    page.locator(".lsf-label").nth(label).click()  # last, since a change of tools lets go of it


def draw_box(page: Page, box_xyxy: Box) -> None:
    """Drag a box over the image, given in shares of its sides."""
    (left, top), (right, bottom) = on_screen(page, box_xyxy[:2]), on_screen(page, box_xyxy[2:])
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move(right, bottom, steps=5)
    page.mouse.up()


def on_screen(page: Page, place: tuple[float, float]) -> tuple[float, float]:
    """Where a place of the image, in shares of its sides, is in the window."""
    canvas = page.locator("canvas").first
    canvas.scroll_into_view_if_needed()
    around = canvas.bounding_box()
    assert around is not None
    return around["x"] + place[0] * around["width"], around["y"] + place[1] * around["height"]


def reddish(screenshot: Path | bytes) -> np.ndarray:
    """(h, w) bool: where a grey scene carries the colour of a label."""
    picture = Image.open(screenshot if isinstance(screenshot, Path) else io.BytesIO(screenshot))
    r, g, b = np.moveaxis(np.asarray(picture.convert("RGB")).astype(int), -1, 0)
    return (r > g + 50) & (r > b + 50)
