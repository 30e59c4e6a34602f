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


def reddish(screenshot: Path | bytes) -> np.ndarray:
    """(h, w) bool: where a grey scene carries the colour of a label."""
    picture = Image.open(screenshot if isinstance(screenshot, Path) else io.BytesIO(screenshot))
    r, g, b = np.moveaxis(np.asarray(picture.convert("RGB")).astype(int), -1, 0)
    return (r > g + 50) & (r > b + 50)
