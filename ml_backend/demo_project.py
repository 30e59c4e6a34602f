"""A project of images on this machine with an expression each: what the demos show."""

from __future__ import annotations

import csv
import subprocess
import sysconfig
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import httpx
from label_studio_sdk._extensions.pager_ext import SyncPagerExt as EveryPage  # Ends where Label Studio answers 404.
from label_studio_sdk.base_client import LabelStudioBase as Client

from ml_backend.brush import decode
from ml_backend.connect import Connector
from ml_backend.errors import StartFailed
from ml_backend.label_studio import LabelStudio
from ml_backend.label_studio_server import LabelStudioServer
from ml_backend.wiring import Wiring
from workers.queue import JobQueue

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp"}
EXPRESSIONS = "expressions.csv"
LOCAL = "/data/local-files/?d="

LABEL_CONFIG = """<View>
  <Header value="$expression"/>
  <Image name="image" value="$image" zoom="true" zoomControl="true"/>
  <BrushLabels name="mask" toName="image"><Label value="target" background="#e63c3c"/></BrushLabels>
  <TextArea name="prompt" toName="image" value="$expression" editable="true" rows="2" maxSubmissions="1"/>
</View>"""


@dataclass(frozen=True)
class Sample:
    """An image file and one thing to find in it."""

    image: Path
    expression: str


def read_samples(folder: Path) -> list[Sample]:
    """Read a folder of images with their expressions.

    Args:
        folder: Holds images and either `expressions.csv` (columns image, expression) or, beside each image, a text
            file of the same name with one expression a line.

    Returns:
        One sample for each image and expression, in the order of the file names or of the table.

    Raises:
        StartFailed: If the folder holds no images, the table names none, or an image has no expression.
    """
    if not folder.is_dir():
        raise StartFailed(f"{folder} is not a folder")
    table = folder / EXPRESSIONS
    if table.exists():
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"image", "expression"} <= set(rows.fieldnames or ()):
                raise StartFailed(f"{table} needs a first line with the columns image,expression")
            samples = [Sample(folder / row["image"], (row["expression"] or "").strip()) for row in rows]
        for line, sample in enumerate(samples, start=2):
            if not sample.image.is_file():
                raise StartFailed(f"{table} line {line}: there is no image {sample.image.name!r} in {folder}")
            if not sample.expression:
                raise StartFailed(f"{table} line {line}: the expression is empty")
    else:
        samples = []
        for image in sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES):
            words = image.with_suffix(".txt")
            lines = words.read_text(encoding="utf-8-sig").splitlines() if words.exists() else []
            expressions = [line.strip() for line in lines if line.strip()]
            if not expressions:
                raise StartFailed(
                    f"{image.name} has no expressions: write one a line into {words}, or all into {table}"
                )
            samples += [Sample(image, expression) for expression in expressions]
    if not samples:
        raise StartFailed(f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return samples


def draw_scenes(folder: Path, *options: str) -> None:
    """Draw scenes with their expressions and masks, unless they are there.

    Args:
        folder: Gets them, as a whole or not at all.
        *options: Of `rsrefseg scenes`.

    Raises:
        StartFailed: If they cannot be drawn.
    """
    if (folder / EXPRESSIONS).exists():
        return
    partial = folder.with_name(f"{folder.name}.part")
    program = Path(sysconfig.get_path("scripts")) / "rsrefseg"
    command = [str(program), "scenes", "--out", str(partial), *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise StartFailed(f"the scenes could not be drawn: {last}")
    partial.rename(folder)


class DemoProject:
    """The demo's project in Label Studio; found again by its title, so that nobody's corrections are lost.

    Args:
        server: Where it lives.
        title: Its name.
    """

    def __init__(self, server: LabelStudioServer, title: str) -> None:
        self.title = title
        self._client = Client(base_url=server.url, api_key=server.token, timeout=60)
        found = [
            project for project in EveryPage.from_sync_pager(self._client.projects.list()) if project.title == title
        ]
        project: Any = found[0] if found else self._client.projects.create(title=title, label_config=LABEL_CONFIG)
        self.id: int = project.id
        self._asked_at = time.time()
        self._http = httpx.Client(
            base_url=server.url, headers={"Authorization": f"Token {server.token}"}, timeout=60, follow_redirects=False
        )

    def fill(self, samples: Iterable[Sample], folder: Path) -> None:
        """Import what the project does not hold yet; images stay where they are.

        Args:
            samples: Images below `folder`, and their expressions.
            folder: What Label Studio may serve.
        """
        stores = self._client.import_storage.local.list(project=self.id)
        if not any(store.path == str(folder) for store in stores):
            self._client.import_storage.local.create(
                project=self.id, path=str(folder), use_blob_urls=True, title=folder.name
            )
        held = {(task["data"].get("image"), task["data"].get("expression")) for task in self.tasks()}
        fresh = [
            {"image": uri, "expression": sample.expression}
            for sample in samples
            if (uri := local_uri(sample.image, folder), sample.expression) not in held
        ]
        if fresh:
            self._client.projects.import_tasks(id=self.id, request=[{"data": data} for data in fresh])

    def connect(self, queue: JobQueue, url: str) -> None:
        """Make the backend at `url` the project's only one; former runs listened elsewhere.

        Args:
            queue: Of the settings by which Label Studio is reached.
            url: Of the web process.
        """
        for backend in self._client.ml.list(project=self.id):
            self._client.ml.delete(id=backend.id)
        for hook in self._client.webhooks.list(project=self.id):
            self._client.webhooks.delete(id=hook.id)
        with closing(LabelStudio.of(queue.settings)) as label_studio:
            for _ in Connector(queue, Wiring(label_studio), queue.settings, self.id, url).connect():
                pass

    def retrieve(self) -> None:
        """Ask Label Studio to retrieve predictions, as its data manager's action does."""
        self._asked_at = time.time()
        self._client.actions.create(
            id="retrieve_tasks_predictions", project=self.id, selected_items={"all": True, "excluded": []}
        )

    def tasks(self) -> list[dict[str, Any]]:
        """List the tasks.

        Returns:
            Id and data of each, oldest first.
        """
        return [{"id": task.id, "data": task.data} for task in self._listed()]

    def predictions(self) -> list[dict[str, Any]]:
        """List the predictions that Label Studio holds.

        Returns:
            Task, result, score, version and time of each.
        """
        return [dict(prediction) for prediction in self._client.predictions.list(project=self.id)]

    def annotated(self) -> set[int]:
        """List the tasks that somebody has annotated.

        Returns:
            Their numbers.
        """
        return {task.id for task in self._listed() if task.total_annotations}

    def _listed(self) -> Iterator[Any]:
        return iter(EveryPage.from_sync_pager(self._client.tasks.list(project=self.id, fields="all")))

    def model_version(self) -> str:
        """Say whose predictions Label Studio shows.

        Returns:
            The version; empty for any.
        """
        return self._client.projects.get(id=self.id).model_version or ""

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Read the masks back and describe them, a row for each task.

        Yields:
            Task, image, expression, score, covered percent, and seconds from the asking to the mask.
        """
        latest = {prediction["task"]: prediction for prediction in self.predictions()}
        for task in self.tasks():
            image = task["data"]["image"].rpartition("/")[2]
            prediction = latest.get(task["id"])
            if prediction is None:
                yield str(task["id"]), image, task["data"]["expression"], "-", "-", "no prediction"
                continue
            made = _seconds(prediction["created_at"]) - self._asked_at
            yield (
                str(task["id"]),
                image,
                task["data"]["expression"],
                f"{prediction['score']:.2f}",
                f"{_covered_percent(prediction['result']):.2f}",
                f"{made:.1f}" if made > 0 else "had it",
            )


def _covered_percent(regions: list[dict[str, Any]]) -> float:
    covered = 0.0
    for region in regions:
        size_hw = (region["original_height"], region["original_width"])
        covered += 100 * float(decode(region["value"]["rle"], size_hw).mean())
    return covered


def _seconds(created_at: Any) -> float:
    moment = created_at if isinstance(created_at, datetime) else datetime.fromisoformat(str(created_at))
    return moment.timestamp()


def local_uri(image: Path, folder: Path) -> str:
    """Say by which address Label Studio serves an image.

    Args:
        image: Below `folder`.
        folder: What Label Studio may serve, with its name.

    Returns:
        The address.
    """
    return f"{LOCAL}{quote(str(image.relative_to(folder.parent)))}"


def image_at(uri: str, folder: Path) -> Path:
    """Find the image behind an address of `local_uri`.

    Args:
        uri: The address.
        folder: What Label Studio may serve.

    Returns:
        The image.
    """
    return folder.parent / unquote(uri.removeprefix(LOCAL))
