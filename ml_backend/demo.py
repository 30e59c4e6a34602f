"""Everything on this machine: Label Studio, Redis, web, courier and a worker; pre-label, show, stay up."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sysconfig
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ml_backend.brush import decode
from ml_backend.errors import StartFailed
from ml_backend.label_studio_server import LabelStudioServer, free_port
from workers.queue import JobQueue
from workers.settings import Settings

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp"}
EXPRESSIONS = "expressions.csv"
SAMPLE_COUNT = 12
START_LIMIT_S = 120
QUIET_LIMIT_S = 300
"""How long nothing may arrive before the demo gives up."""

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


@dataclass
class Processes:
    """The commands that the demo runs, each as a user would by hand."""

    environment: dict[str, str]
    logs: Path
    console: Console
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    commands: dict[str, list[str]] = field(default_factory=dict)

    def start(self, name: str, *command: str) -> None:
        """Start a command of this installation.

        Args:
            name: How messages call it; its log is `<name>.log`.
            *command: The program and its arguments.
        """
        self.commands[name] = list(command)
        program = Path(sysconfig.get_path("scripts")) / command[0]
        with (self.logs / f"{name}.log").open("ab") as output:
            self.running[name] = subprocess.Popen(
                [str(program), *command[1:]],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the demo alone, which then stops these in order
            )

    def mend(self) -> None:
        """Start again what has died, and say so."""
        for name, process in list(self.running.items()):
            if process.poll() is not None:
                self.console.print(f"[yellow]{name} ended with code {process.returncode}; starting it again")
                time.sleep(1)
                self.start(name, *self.commands[name])

    def require(self) -> None:
        """Give up while starting, where a second try would end the same way.

        Raises:
            StartFailed: If a command has ended.
        """
        for name, process in self.running.items():
            if process.poll() is not None:
                raise StartFailed(f"{name} ended with code {process.returncode}; its log is {self.logs / name}.log")

    def stop(self) -> None:
        """Ask all to leave, then insist."""
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Demo:
    """One run.

    Args:
        settings: Where data lives; the demo keeps to `<data>/demo`.
        label_studio: The `label-studio` command of its own environment.
        images: The user's folder, or None for drawn scenes.
    """

    def __init__(self, settings: Settings, label_studio: Path, images: Path | None) -> None:
        self._home = settings.data / "demo"
        self._settings = settings
        self._label_studio = label_studio
        self._images = images.resolve() if images else None
        self._console = Console()

    def run(self, *, once: bool) -> bool:
        """Do all of it.

        Args:
            once: End after the table instead of staying up until Ctrl-C.

        Returns:
            Whether every task has its prediction.
        """
        began = time.monotonic()
        self._home.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            signal.signal(signal.SIGTERM, _leave)
            folder = self._images or self._draw()
            samples = read_samples(folder)
            with self._console.status("starting Label Studio (the first time takes half a minute)"):
                server = LabelStudioServer.start(self._label_studio, self._home / "label-studio", folder.parent)
                stack.callback(server.stop)
            port = free_port()
            url = f"http://127.0.0.1:{port}"
            names = {
                "LABEL_STUDIO_URL": server.url,
                "LABEL_STUDIO_API_KEY": server.token,
                "RSREFSEG_DATA": str(self._home),
                "RSREFSEG_PORT": str(port),
                # On loopback, among processes of its own, it needs no login.
                "RSREFSEG_BASIC_USER": "",
                "RSREFSEG_BASIC_PASSWORD": "",
            }
            if self._settings.redis_url:
                names["REDIS_URL"] = str(self._settings.redis_url)
            settings = Settings.load(os.environ | names)
            queue = stack.enter_context(JobQueue.open(settings))
            processes = Processes(os.environ | names, self._home, self._console)
            stack.callback(processes.stop)
            with self._console.status("starting web, worker and courier"):
                processes.start("worker", "rsrefseg-worker", "run", "--gpus", "cpu")
                processes.start("courier", "rsrefseg-backend", "courier")
                processes.start("web", "rsrefseg-backend", "web")
                _wait_until_up(processes, url)
            project = DemoProject(server, f"RSRefSeg demo: {folder.name}")
            with self._console.status(f"importing {len(samples)} tasks"):
                project.fill(samples, folder)
                project.connect(url)
            complete = self._prelabel(project, queue, processes)
            self._show(project, server, time.monotonic() - began)
            if not once:
                self._stay(server, project, processes)
        return complete

    def _draw(self) -> Path:
        folder = self._home / "scenes"
        if not (folder / EXPRESSIONS).exists():
            with self._console.status("drawing sample scenes"):
                program = Path(sysconfig.get_path("scripts")) / "rsrefseg"
                partial = self._home / "scenes.part"
                command = [str(program), "scenes", "--out", str(partial), "--count", str(SAMPLE_COUNT)]
                done = subprocess.run(command, check=False, capture_output=True, text=True)
                if done.returncode:
                    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
                    raise StartFailed(f"the sample scenes could not be drawn: {last}")
                partial.rename(folder)
        return folder

    def _prelabel(self, project: DemoProject, queue: JobQueue, processes: Processes) -> bool:
        total = len(project.tasks())
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as progress:
            bar = progress.add_task("masks in Label Studio", total=total)
            project.retrieve()
            last, quiet_since = -1, time.monotonic()
            while True:
                done = len({p["task"] for p in project.predictions()})
                progress.update(bar, completed=done)
                if done != last:
                    last, quiet_since = done, time.monotonic()
                failures = queue.failures(project.id)
                if done == total or done + len({f.task_id for f in failures}) >= total:
                    break
                if time.monotonic() - quiet_since > QUIET_LIMIT_S:
                    self._console.print(f"[red]nothing has arrived for {QUIET_LIMIT_S} s; the logs are in {self._home}")
                    break
                processes.mend()
                time.sleep(0.3)
        for failure in failures:
            self._console.print(f"[red]task {failure.task_id}: {failure.reason}")
        return done == total

    def _show(self, project: DemoProject, server: LabelStudioServer, seconds: float) -> None:
        table = Table("task", "image", "expression", "score", "covered %", "seconds", title=project.title)
        for row in project.rows():
            table.add_row(*row)
        self._console.print(table)
        self._console.print(f"{len(project.tasks())} tasks, {seconds:.0f} s from the command to this table\n")
        self._console.print(f"Label Studio  {server.url}/projects/{project.id}/data", highlight=False)
        self._console.print(f"user          {server.username}", highlight=False)
        self._console.print(f"password      {server.password}", highlight=False)

    def _stay(self, server: LabelStudioServer, project: DemoProject, processes: Processes) -> None:
        self._console.print("\nOpen a task: the mask is there. Ctrl-C stops everything.")
        while server.process.poll() is None:
            processes.mend()
            time.sleep(1)
        raise StartFailed(f"Label Studio ended; its log is {server.log}")


class DemoProject:
    """The demo's project in Label Studio; found again by its title, so that nobody's corrections are lost.

    Args:
        server: Where it lives.
        title: Its name.
    """

    def __init__(self, server: LabelStudioServer, title: str) -> None:
        from label_studio_sdk.client import LabelStudio

        self.title = title
        self._client = LabelStudio(base_url=server.url, api_key=server.token, timeout=60)
        found = [project for project in self._client.projects.list() if project.title == title]
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
            if (uri := _local_uri(sample.image, folder), sample.expression) not in held
        ]
        if fresh:
            self._client.projects.import_tasks(id=self.id, request=[{"data": data} for data in fresh])

    def connect(self, url: str) -> None:
        """Make the backend at `url` the project's only one; former runs listened elsewhere.

        Args:
            url: Of the web process.
        """
        for backend in self._client.ml.list(project=self.id):
            self._client.ml.delete(id=backend.id)
        for hook in self._client.webhooks.list(project=self.id):
            self._client.webhooks.delete(id=hook.id)
        self._client.ml.create(url=url, project=self.id, title="RSRefSeg", is_interactive=True)

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
        return [{"id": task.id, "data": task.data} for task in self._client.tasks.list(project=self.id, fields="all")]

    def predictions(self) -> list[dict[str, Any]]:
        """List the predictions that Label Studio holds.

        Returns:
            Task, result, score, version and time of each.
        """
        return [dict(prediction) for prediction in self._client.predictions.list(project=self.id)]

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


def _local_uri(image: Path, folder: Path) -> str:
    return f"/data/local-files/?d={quote(str(image.relative_to(folder.parent)))}"


def _wait_until_up(processes: Processes, url: str) -> None:
    # Until the web process answers and a worker has announced its model.
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        processes.require()
        try:
            if httpx.get(f"{url}/health", timeout=2).json().get("model_version"):
                return
        except (httpx.TransportError, ValueError):
            pass
        time.sleep(0.2)
    raise StartFailed(f"web and worker were not ready within {START_LIMIT_S} s; their logs are in {processes.logs}")


def _leave(signum: int, frame: object) -> None:
    raise KeyboardInterrupt
