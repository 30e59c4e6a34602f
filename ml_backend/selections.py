"""Who was to be asked about what, and why, under RSREFSEG_DATA: Label Studio is told the order alone.

selections/PROJECT/0007.json   the seventh selection of a project; never changed
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from ml_backend.selection import Arm, Way
from workers.contract import Wire
from workers.whole import appear

FOLDER = "selections"
"""Below the data directory."""


class Selected(Wire):
    """A task to ask about."""

    task_id: int
    arm: Arm
    score: float | None
    """The model's confidence at that time."""


class Selection(Wire):
    """What was chosen at once, in the order of asking."""

    schema_version: Literal[1] = 1
    number: Annotated[int, Field(ge=1)]
    project_id: int
    at: AwareDatetime
    model_version: str | None
    """The version that the scores are from."""
    seed: int
    random_share: Annotated[float, Field(ge=0, le=1)]
    way: Way
    pool: int
    """Tasks that nobody had annotated."""
    tasks: tuple[Selected, ...]


class Selections:
    """The selections of all projects.

    Args:
        data: The data directory.
    """

    def __init__(self, data: Path) -> None:
        self._root = data / FOLDER

    def add(self, selection: Selection) -> Selection:
        """Keep a selection.

        Args:
            selection: Its number counts for nothing.

        Returns:
            The selection with its number, the next of its project.
        """
        folder = self._root / str(selection.project_id)
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            numbers = [int(path.stem) for path in folder.glob("[0-9]*.json")]
            numbered = selection.model_copy(update={"number": max(numbers, default=0) + 1})
            if appear(folder / f"{numbered.number:04d}.json", numbered.model_dump_json(indent=2) + "\n"):
                return numbered

    def of(self, project_id: int) -> list[Selection]:
        """List the selections of a project.

        Args:
            project_id: The project.

        Returns:
            The selections, oldest first.
        """
        files = sorted((self._root / str(project_id)).glob("[0-9]*.json"), key=lambda path: int(path.stem))
        return [Selection.model_validate_json(path.read_text("utf-8")) for path in files]

    def arms(self, project_id: int) -> Arms:
        """Read how a project's tasks came to be asked about, and when.

        Args:
            project_id: The project.

        Returns:
            What says it of each.
        """
        return Arms(self.of(project_id))


class Arms:
    """How tasks came to be asked about: a selection holds until the next one takes its place.

    Args:
        selections: Of one project.
    """

    def __init__(self, selections: Iterable[Selection]) -> None:
        in_order = sorted(selections, key=lambda selection: selection.at)
        self._since = [selection.at for selection in in_order]
        self._arms: list[dict[int, Arm]] = [{task.task_id: task.arm for task in one.tasks} for one in in_order]

    def of(self, task_id: int, at: datetime) -> Arm | None:
        """Say how a task came to be annotated.

        Args:
            task_id: The task.
            at: When that was.

        Returns:
            Its arm in the selection that held then; None where there was none, or the task was not in it.
        """
        number = bisect_right(self._since, at) - 1
        return self._arms[number].get(task_id) if number >= 0 else None
