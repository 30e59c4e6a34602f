"""What annotators made of our masks, a file for each task under RSREFSEG_DATA: the courier writes, training reads.

    corrections/PROJECT/TASK.json    two lines: which task as of when, and everything that its annotations say

A file is replaced as a whole, so nobody ever reads half of one, and writing it twice changes nothing.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, ValidationError

from workers.contract import EXPRESSION_LIMIT, Rle, Wire
from workers.whole import replace, sweep

log = logging.getLogger(__name__)

FOLDER = "corrections"
"""Below the data directory."""

HELD_OUT = 5
"""One scene in so many is held out for ever: a model is measured on it and never taught."""

Origin = Literal["accepted", "changed", "drawn", "rejected"]
"""What an annotator did to a mask: left it, changed it, drew one where none was shown, removed it."""


class Correction(Wire):
    """What one expression refers to in one image, by a person's word."""

    image: Annotated[int, Field(ge=0)]
    """Which of the task's images."""
    expression: Annotated[str, Field(min_length=1, max_length=EXPRESSION_LIMIT)]
    label: str
    mask: Rle | None
    """None where it refers to nothing: the mask is empty, whatever the image's size."""
    shown: Rle | None = None
    """The mask that the annotator began from; None if it was empty or there was none."""
    iou: Annotated[float, Field(ge=0, le=1)] | None = None
    """Between the two; None where no prediction was shown."""
    origin: Origin


class AnnotationRecord(Wire):
    """One annotation, decoded."""

    annotation_id: int
    updated_at: AwareDatetime
    annotator: int | None = None
    """The user's number in Label Studio."""
    lead_time_s: float | None = None
    prediction_id: int | None = None
    """The prediction that was shown."""
    model_version: str | None = None
    """Who made it."""
    corrections: tuple[Correction, ...] = ()
    skipped: dict[str, int] = Field(default_factory=dict)
    """Why parts of it could not be used, and how many."""


class Mark(Wire):
    """Which task, as of when."""

    schema_version: Literal[1] = 1
    project_id: int
    task_id: int
    updated_at: str
    """As Label Studio writes it: it moves whenever an annotation comes, changes or goes."""


class TaskCorrections(Wire):
    """Everything that the annotations of a task say."""

    mark: Mark
    scene: str
    """What is held out or taught as a whole: the images' addresses, or the task's own word for it."""
    image_uris: tuple[str, ...]
    """As the task holds them."""
    annotations: tuple[AnnotationRecord, ...] = ()

    @property
    def held_out(self) -> bool:
        """Whether no model may ever be taught this task."""
        return is_held_out(self.scene)


def is_held_out(scene: str) -> bool:
    """Decide by a scene's name alone, so that the answer is the same for ever and in every project.

    Args:
        scene: Its name.

    Returns:
        True for about one scene in `HELD_OUT`.
    """
    return int.from_bytes(hashlib.sha256(scene.encode()).digest()[:8], "big") % HELD_OUT == 0


class Corrections:
    """The corrections of all projects.

    Args:
        data: The data directory.
    """

    def __init__(self, data: Path) -> None:
        self._root = data / FOLDER

    def put(self, task: TaskCorrections) -> None:
        """Keep a task's corrections in place of those kept before.

        Args:
            task: The corrections.
        """
        path = self.path(task.mark.project_id, task.mark.task_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, f"{task.mark.model_dump_json()}\n{task.model_dump_json(exclude={'mark'})}\n")

    def withdraw(self, project_id: int, task_id: int) -> bool:
        """Forget a task's corrections.

        Args:
            project_id: Its project.
            task_id: The task.

        Returns:
            Whether there were any.
        """
        try:
            self.path(project_id, task_id).unlink()
        except FileNotFoundError:
            return False
        return True

    def get(self, project_id: int, task_id: int) -> TaskCorrections | None:
        """Read a task's corrections.

        Args:
            project_id: Its project.
            task_id: The task.

        Returns:
            The corrections; None if there are none that can be read.
        """
        path = self.path(project_id, task_id)
        try:
            first, second = path.read_text(encoding="utf-8").splitlines()
            mark = Mark.model_validate_json(first)
            rest = TaskCorrections.model_validate_json(f'{{"mark":{mark.model_dump_json()},{second[1:]}')
        except FileNotFoundError:
            return None
        except (ValueError, ValidationError) as exc:
            # The courier reads such a task again, since it has no mark either.
            log.warning("corrections not readable", extra={"file": str(path), "error": type(exc).__name__})
            return None
        return rest

    def sweep(self, project_id: int) -> None:
        """Remove what couriers that were killed left half written.

        Args:
            project_id: The project.
        """
        sweep(self._folder(project_id))

    def marks(self, project_id: int) -> dict[int, str]:
        """List the tasks of a project.

        Args:
            project_id: The project.

        Returns:
            When each was last updated, as Label Studio wrote it, by its number; empty for one that cannot be read.
        """
        return {task_id: self._updated_at(project_id, task_id) for task_id in self.tasks(project_id)}

    def replaced(self, project_id: int) -> Iterator[tuple[int, int]]:
        """List the files of a project, for those who read only what is new; there may be very many.

        Args:
            project_id: The project.

        Yields:
            The number of each task, and when its file was replaced, in nanoseconds since 1970.
        """
        with suppress(FileNotFoundError), os.scandir(self._folder(project_id)) as entries:
            for entry in entries:
                stem, dot, kind = entry.name.partition(".")
                if stem.isdecimal() and dot + kind == ".json":
                    with suppress(FileNotFoundError):  # Withdrawn just now.
                        yield int(stem), entry.stat().st_mtime_ns

    def of(self, project_id: int) -> Iterator[TaskCorrections]:
        """Read a project's corrections, one task at a time.

        Args:
            project_id: The project.

        Yields:
            The corrections of each task, in the order of the tasks' numbers.
        """
        for task_id in self.tasks(project_id):
            task = self.get(project_id, task_id)
            if task is not None:
                yield task

    def tasks(self, project_id: int) -> list[int]:
        """List the tasks that something is known of, without reading it.

        Args:
            project_id: Whose.

        Returns:
            Their numbers, in order.
        """
        return sorted(int(path.stem) for path in self._folder(project_id).glob("*.json") if path.stem.isdecimal())

    def projects(self) -> list[int]:
        """List the projects that have corrections.

        Returns:
            Their numbers.
        """
        return sorted(int(folder.name) for folder in self._root.glob("*") if folder.name.isdecimal())

    def path(self, project_id: int, task_id: int) -> Path:
        """Say where a task's corrections are, if there are any.

        Args:
            project_id: Its project.
            task_id: The task.

        Returns:
            The file.
        """
        return self._folder(project_id) / f"{task_id}.json"

    def _updated_at(self, project_id: int, task_id: int) -> str:
        with suppress(OSError, ValueError), self.path(project_id, task_id).open(encoding="utf-8") as file:
            return Mark.model_validate_json(file.readline(1000)).updated_at
        return ""

    def _folder(self, project_id: int) -> Path:
        return self._root / str(project_id)
