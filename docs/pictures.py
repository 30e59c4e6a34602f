"""Makes the documentation's pictures anew, from the real thing in a real browser: `make pictures [ONLY="demo loop"]`.

    editor     a test that types words into the editor, run for its screenshot
    demo       `rsrefseg-backend demo`: the data manager, a mask, the same mask corrected, and the status page
    loop       `rsrefseg-backend demo-loop`: the task whose mask gained most, before and after
    examples   `rsrefseg evaluate` on drawn scenes: the best and the worst answers

All of them are of the weights that the package holds then; what the pages say of the pictures has to be read again.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from PIL import Image
from playwright.sync_api import Page

from ml_backend.demo_loop import drawn
from ml_backend.demo_project import image_at
from ml_backend.regions import iou
from tests.with_label_studio.browser import ARTIFACTS, logged_in, on_screen

DOCS = Path(__file__).parent
ROOT = DOCS.parent
START_LIMIT_S = 900
LOOP_LIMIT_S = 3600
WINDOW = {"width": 1300, "height": 820}
QUALITY = 85

STRAY_PIXELS = 12
"""How far from the right mask drawn pixels are to lie to be wiped away by hand, in pixels of the image."""


@dataclass
class Demo:
    """A demo that stays up, and what it has said."""

    process: subprocess.Popen[bytes]
    log: Path
    data: Path
    said: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Of Label Studio."""
        return self.said["project"].partition("/projects")[0]

    @property
    def username(self) -> str:
        """Of its user."""
        return self.said["user"]

    @property
    def password(self) -> str:
        """Of its user."""
        return self.said["password"]

    @property
    def project_id(self) -> int:
        """Of the demo's project."""
        return int(self.said["project"].split("/")[-2])

    def wait_for(self, words: str, limit_s: float = START_LIMIT_S) -> None:
        """Wait until the demo has said something.

        Args:
            words: A regular expression; its named groups are remembered.
            limit_s: How long to wait.

        Raises:
            ClickException: If it ends, or does not say it in time.
        """
        until = time.monotonic() + limit_s
        while not (found := re.search(words, self.log.read_text())):
            if self.process.poll() is not None or time.monotonic() > until:
                raise click.ClickException(f"{words!r} was not said:\n{self.log.read_text()[-2000:]}")
            time.sleep(1)
        self.said |= found.groupdict()


@contextmanager
def running(command: str, data: Path) -> Iterator[Demo]:
    """Run a demo as a user would.

    Args:
        command: demo or demo-loop.
        data: Where it may keep its data.

    Yields:
        The demo, with Label Studio up and a mask for each task.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RSREFSEG_", "REDIS_"))}
    program = Path(sysconfig.get_path("scripts")) / "rsrefseg-backend"
    options = [
        "--label-studio",
        os.environ.get("LABEL_STUDIO_COMMAND", str(ROOT / ".venv-label-studio/bin/label-studio")),
    ]
    log = data / "said.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, command, *options],
            env=kept | {"RSREFSEG_DATA": str(data), "COLUMNS": "200"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    demo = Demo(process, log, data)
    try:
        demo.wait_for(r"Label Studio +(?P<project>http\S+)")
        demo.wait_for(r"status page +(?P<page>http\S+)")
        demo.wait_for(r"user +(?P<user>[^\s,]+)")
        demo.wait_for(r"password +(?P<password>\S+)")
        yield demo
    finally:
        process.terminate()  # a shell has its background jobs ignore SIGINT
        process.wait(timeout=120)


def tasks_of(page: Page, demo: Demo) -> list[dict[str, Any]]:
    """List a project's tasks.

    Args:
        page: The browser.
        demo: Whose project.

    Returns:
        Each with its data, annotations and predictions.
    """
    listed = page.request.get(f"{demo.url}/api/tasks?project={demo.project_id}&page_size=500&fields=all").json()
    return sorted(listed["tasks"], key=lambda task: int(task["id"]))


def mask_of(page: Page, demo: Demo, task_id: int, size_hw: tuple[int, ...]) -> np.ndarray:
    """Read what the newest prediction of a task shows.

    Args:
        page: The browser.
        demo: Whose project.
        task_id: The task.
        size_hw: Of its image.

    Returns:
        (h, w) bool.
    """
    shown = page.request.get(f"{demo.url}/api/predictions?task={task_id}").json()
    return drawn(max(shown, key=lambda one: int(one["id"]))["result"] if shown else [], size_hw)


def truth_of(task: dict[str, Any], folder: Path) -> np.ndarray:
    """Read what a drawn scene's expression refers to.

    Args:
        task: Of the project.
        folder: Of the scenes.

    Returns:
        (h, w) bool.
    """
    image = image_at(task["data"]["image"], folder)
    return np.asarray(Image.open(image.parent / "masks" / image.name).convert("L")) > 127


def open_task(page: Page, demo: Demo, task_id: int) -> None:
    """Show a task in the editor, with its mask.

    Args:
        page: The browser.
        demo: Whose project.
        task_id: The task.
    """
    page.goto(f"{demo.url}/projects/{demo.project_id}/data?task={task_id}")
    page.wait_for_selector("canvas")
    page.wait_for_timeout(2500)


def wipe(page: Page, stray: np.ndarray) -> None:
    """Take the eraser to some pixels of the first region, as a hand would.

    Args:
        page: The editor.
        stray: (h, w) bool, what is to go.
    """
    h, w = stray.shape
    page.locator("[class*=outliner-item]").first.click()
    page.locator("[aria-label=eraser]").first.click()
    for row in range(0, h, 8):
        columns = np.flatnonzero(stray[row : row + 8].any(axis=0))
        if columns.size:
            page.mouse.move(*on_screen(page, ((columns[0] - 4) / w, (row + 4) / h)))
            page.mouse.down()
            page.mouse.move(*on_screen(page, ((columns[-1] + 4) / w, (row + 4) / h)), steps=6)
            page.mouse.up()
    page.wait_for_timeout(1000)


def keep(name: str, *shots: bytes, width: int = 0, gap: int = 24) -> None:
    """Write a picture of the documentation.

    Args:
        name: Of the file.
        *shots: Screenshots, side by side from the top.
        width: Of the picture, in pixels; as large as they are by default.
        gap: Between them.
    """
    parts = [cv2.imdecode(np.frombuffer(shot, np.uint8), cv2.IMREAD_COLOR) for shot in shots]
    height = min(part.shape[0] for part in parts)
    line = np.full((height, gap, 3), 225, np.uint8)
    row: list[np.ndarray] = []
    for part in parts:
        row += [*([line] if row else []), part[:height]]
    whole = np.concatenate(row, axis=1)
    if width:
        size = (width, round(whole.shape[0] * width / whole.shape[1]))
        whole = cv2.resize(whole, size, interpolation=cv2.INTER_AREA)
    Image.fromarray(np.ascontiguousarray(whole[..., ::-1])).save(DOCS / name, quality=QUALITY, optimize=True)
    click.echo(f"docs/{name}")


def editor() -> None:
    """Type words, and accept the mask: a test does it."""
    test = "tests/with_label_studio/test_interactive.py::test_an_annotator_types_words_accepts_the_mask_and_submits"
    subprocess.run([sys.executable, "-m", "pytest", test], cwd=ROOT, check=True)
    keep("editor.jpg", (ROOT / ARTIFACTS / "typed-mask.png").read_bytes(), width=1000)


def demo() -> None:
    """Look at a mask with something astray, and wipe that away.

    Raises:
        ClickException: If no mask has.
    """
    with tempfile.TemporaryDirectory() as data, running("demo", Path(data)) as site, logged_in(site) as page:
        page.set_viewport_size(WINDOW)
        page.goto(site.said["project"])
        page.get_by_text("Predictions: 12").wait_for()
        page.wait_for_timeout(3000)  # thumbnails
        keep("data-manager.jpg", page.screenshot())
        strays = {task["id"]: _stray(page, site, task, site.data / "demo/scenes") for task in tasks_of(page, site)}
        task_id, stray = max(strays.items(), key=lambda item: np.count_nonzero(item[1]))
        if not stray.any():
            raise click.ClickException("no mask has anything to wipe away: take other scenes")
        click.echo(f"task {task_id} is corrected")
        open_task(page, site, task_id)
        keep("tutorial-mask.jpg", page.screenshot())
        wipe(page, stray)
        page.get_by_test_id("bottombar-submit-button").click()
        page.get_by_text("saved successfully").first.wait_for()
        keep("tutorial-corrected.jpg", page.screenshot())
        page.goto(site.said["page"])
        page.set_viewport_size({"width": 944, "height": 1080})
        page.wait_for_timeout(1000)
        desk = page.screenshot()
        page.set_viewport_size({"width": 390, "height": 1080})
        page.wait_for_timeout(1000)
        keep("status-page.jpg", desk, page.screenshot(), width=1280)


def _stray(page: Page, site: Demo, task: dict[str, Any], folder: Path) -> np.ndarray:
    # What was drawn far from a right mask that was found; nothing where that was missed.
    truth = truth_of(task, folder)
    mask = mask_of(page, site, task["id"], truth.shape)
    near = cv2.dilate(truth.astype(np.uint8), np.ones((2 * STRAY_PIXELS + 1,) * 2, np.uint8)) > 0
    found = truth.any() and (mask & truth).sum() > 0.8 * truth.sum()
    return mask & ~near if found else np.zeros_like(truth)


def loop() -> None:
    """Close the loop, and look at a task that nobody annotated before and after it.

    Raises:
        ClickException: If the challenger is refused, since nothing is drawn anew then.
    """
    with tempfile.TemporaryDirectory() as data, running("demo-loop", Path(data)) as site, logged_in(site) as page:
        page.set_viewport_size(WINDOW)
        page.goto(site.said["project"])
        folder = site.data / "demo-loop/shorthand"
        site.wait_for(r"tasks corrected", LOOP_LIMIT_S)
        before, shots = {}, {}
        left = [task for task in tasks_of(page, site) if not task["total_annotations"]]
        for task in left:
            before[task["id"]] = mask_of(page, site, task["id"], truth_of(task, folder).shape)
            open_task(page, site, task["id"])
            shots[task["id"]] = _shot_of_image(page)
        site.wait_for(r"The loop is closed", LOOP_LIMIT_S)
        click.echo(site.log.read_text())
        if "promoted:" not in site.log.read_text():
            raise click.ClickException("the challenger was refused, so there is no picture of masks drawn anew")
        gains = {}
        for task in left:
            truth = truth_of(task, folder)
            gains[task["id"]] = iou(mask_of(page, site, task["id"], truth.shape), truth) - iou(
                before[task["id"]], truth
            )
        best = max(gains, key=lambda task_id: gains[task_id])
        shares = np.array(list(gains.values()))
        click.echo(f"{len(gains)} tasks that nobody annotated: IoU {shares.mean():+.2f} on average,")
        click.echo(f"{(shares > 0.05).sum()} better, {(shares < -0.05).sum()} worse; task {best} gained most")
        open_task(page, site, best)
        keep("tutorial-redrawn.jpg", shots[best], _shot_of_image(page), width=1300)


def _shot_of_image(page: Page) -> bytes:
    # The middle of the editor: whose mask it is, the words, and the image.
    return page.screenshot(clip={"x": 240, "y": 48, "width": 650, "height": 722})


def examples() -> None:
    """Ask about held-out scenes, and lay the best and the worst answers side by side."""
    program = Path(sysconfig.get_path("scripts")) / "rsrefseg"
    with tempfile.TemporaryDirectory() as folder:
        sheet = Path(folder) / "sheet.png"
        subprocess.run([program, "evaluate", "--dataset", "scenes", "--contact-sheet", sheet], check=True)
        keep("tiny-examples.jpg", sheet.read_bytes())


PARTS = {part.__name__: part for part in (editor, demo, loop, examples)}


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
def main(parts: tuple[str, ...]) -> None:
    """Make some of the pictures, or all."""
    for name in parts or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main()
