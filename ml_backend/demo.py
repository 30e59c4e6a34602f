"""`make demo`: pre-label images on this machine, show what came of it, and stay up."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ml_backend.demo_project import DemoProject, draw_scenes, read_samples
from ml_backend.errors import StartFailed
from ml_backend.stage import Stage, end_on_sigterm
from workers.settings import Settings

SAMPLE_COUNT = 12
QUIET_LIMIT_S = 300
"""How long nothing may arrive before the demo gives up."""


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
        end_on_sigterm()
        self._home.mkdir(parents=True, exist_ok=True)
        folder = self._images or self._draw()
        samples = read_samples(folder)
        with Stage.set_up(self._settings, self._home, self._label_studio, folder.parent, self._console) as stage:
            project = DemoProject(stage.server, f"RSRefSeg demo: {folder.name}")
            with self._console.status(f"importing {len(samples)} tasks"):
                project.fill(samples, folder)
                project.connect(stage.queue, stage.url)
            complete = self._prelabel(project, stage)
            self._show(project, stage, time.monotonic() - began)
            if not once:
                self._stay(stage)
        return complete

    def _draw(self) -> Path:
        folder = self._home / "scenes"
        with self._console.status("drawing sample scenes"):
            draw_scenes(folder, "--count", str(SAMPLE_COUNT))
        return folder

    def _prelabel(self, project: DemoProject, stage: Stage) -> bool:
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
                failures = stage.queue.failures(project.id)
                if done == total or done + len({f.task_id for f in failures}) >= total:
                    break
                if time.monotonic() - quiet_since > QUIET_LIMIT_S:
                    self._console.print(f"[red]nothing has arrived for {QUIET_LIMIT_S} s; the logs are in {self._home}")
                    break
                stage.processes.mend()
                time.sleep(0.3)
        for failure in failures:
            self._console.print(f"[red]task {failure.task_id}: {failure.reason}")
        return done == total

    def _show(self, project: DemoProject, stage: Stage, seconds: float) -> None:
        table = Table("task", "image", "expression", "score", "covered %", "seconds", title=project.title)
        for row in project.rows():
            table.add_row(*row)
        self._console.print(table)
        self._console.print(f"{len(project.tasks())} tasks, {seconds:.0f} s from the command to this table\n")
        server = stage.server
        self._console.print(f"Label Studio  {server.url}/projects/{project.id}/data", highlight=False)
        self._console.print(f"status page   {stage.url}/", highlight=False)
        self._console.print(f"user          {server.username}", highlight=False)
        self._console.print(f"password      {server.password}", highlight=False)

    def _stay(self, stage: Stage) -> None:
        self._console.print("\nOpen a task: the mask is there. Ctrl-C stops everything.")
        stage.stay()
        raise StartFailed(f"Label Studio ended; its log is {stage.server.log}")
