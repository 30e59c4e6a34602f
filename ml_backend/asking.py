"""Puts the tasks that people should look at next in order, where Label Studio's Data Manager can sort by it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table

from ml_backend.errors import StartFailed
from ml_backend.label_studio import LabelStudio
from ml_backend.protocol import PoolTask
from ml_backend.selection import Candidate, choose
from ml_backend.selections import Selected, Selection, Selections
from workers.corrections import Corrections
from workers.queue import JobQueue

FIELD = "ask_order"
"""The one number that is added to a task's data."""

TAB = "Ask next"
"""The Data Manager's tab that is sorted by it."""

_COLUMN = f"tasks:data.{FIELD}"

NOBODY = (
    "Nobody is left to be asked about: every task of project {project} is annotated or skipped. "
    "Import more tasks, then run this again."
)

WENT_BY = {
    "doubts and images": "by the model's doubts, and unlike each other",
    "doubts": "by the model's doubts alone: no worker has sketched their images yet; masks drawn from now on bring it",
    "images": "for images unlike each other: no score of the served version is here; `rsrefseg-backend prelabel` "
    "brings scores, and `rsrefseg-backend connect` lets Label Studio tell those that it has",
    "chance": "by lot too: neither scores of the served version nor sketches of images are here; `rsrefseg-backend "
    "prelabel` brings both",
}
"""What a selection went by, for people."""


@dataclass(frozen=True)
class Asked:
    """What a selection came to."""

    selection: Selection
    alike: int
    """Candidates that were passed over since they look like another."""
    unscored: int
    """Tasks of the pool without a score."""
    cleared: int
    """Tasks that lost the number of an earlier selection."""
    gone: int
    """Tasks that somebody deleted meanwhile."""
    tab: str
    """Where the Data Manager shows them, as an address."""

    def as_dict(self) -> dict[str, Any]:
        """Flatten.

        Returns:
            What JSON has words for.
        """
        counts = {"alike": self.alike, "unscored": self.unscored, "cleared": self.cleared, "gone": self.gone}
        return {**self.selection.model_dump(mode="json"), **counts, "tab": self.tab}


class Asking:
    """One project's order of asking.

    Args:
        queue: Where sketches and the served version are.
        label_studio: Where the tasks are.
        selections: Where it is remembered who was chosen and who was drawn by lot.
        corrections: For the tasks that were annotated before.
        project_id: The project.
    """

    def __init__(
        self,
        queue: JobQueue,
        label_studio: LabelStudio,
        selections: Selections,
        corrections: Corrections,
        project_id: int,
    ) -> None:
        self._queue = queue
        self._label_studio = label_studio
        self._selections = selections
        self._corrections = corrections
        self._project_id = project_id

    def select(self, count: int, random_share: float, seed: int) -> Asked:
        """Choose tasks, remember the choice, and write its order.

        Args:
            count: How many.
            random_share: How many of them are drawn by lot.
            seed: Of chance.

        Returns:
            What was chosen.

        Raises:
            StartFailed: If every task is annotated.
        """
        project = self._label_studio.project(self._project_id)
        served = self._queue.model_version(self._project_id)
        sketches = self._queue.sketches(self._project_id)
        candidates: list[Candidate] = []
        numbered: set[int] = set()
        for task in self._pool():
            sketch = sketches.get(task.id)
            # Label Studio tells the scores of the version that the project shows, if it shows a version.
            score = task.score if served and project.get("model_version") == served else None
            if score is None and sketch and sketch.model_version == served:
                score = sketch.score
            candidates.append(Candidate(task.id, score, sketch.labels if sketch else frozenset()))
            if FIELD in task.data:
                numbered.add(task.id)
        if not candidates:
            raise StartFailed(NOBODY.format(project=self._project_id))
        known = [task for task in self._corrections.marks(self._project_id) if task in sketches]
        # A model that computes in half precision may overflow on a strange image.
        vectors = {task: sketch.vector for task, sketch in sketches.items() if np.isfinite(sketch.vector).all()}
        choice = choose(candidates, vectors, count, random_share=random_share, seed=seed, known=known)
        selection = self._selections.add(
            Selection(
                number=1,
                project_id=self._project_id,
                at=datetime.now(UTC),
                model_version=served,
                seed=seed,
                random_share=random_share,
                way=choice.way,
                pool=len(candidates),
                tasks=tuple(Selected(task_id=one.task_id, arm=one.arm, score=one.score) for one in choice.picks),
            )
        )
        picked = [one.task_id for one in choice.picks]
        cleared = sum(bool(self._label_studio.put_number(task, FIELD, None)) for task in sorted(numbered - {*picked}))
        # As many digits each: a tab that takes them for text sorts them rightly too.
        first = 10 ** len(str(len(picked)))
        gone = 0
        for place, task_id in enumerate(picked, start=1):
            gone += self._label_studio.put_number(task_id, FIELD, first + place) is None
        unscored = sum(one.score is None for one in candidates)
        return Asked(selection, choice.alike, unscored, cleared, gone, self._tab())

    def clear(self) -> int:
        """Take the order away from all tasks, and its tab.

        Returns:
            How many tasks had a number.
        """
        self._label_studio.project(self._project_id)
        cleared = 0
        while True:
            page = self._label_studio.with_number(self._project_id, FIELD)
            fewer = sum(bool(self._label_studio.put_number(task.id, FIELD, None)) for task in page.tasks)
            if not fewer:
                break
            cleared += fewer
        for view in [view for view in self._views() if view["data"].get("title") == TAB]:
            self._label_studio.call("DELETE", f"api/dm/views/{view['id']}/", project=self._project_id)
        return cleared

    def _pool(self) -> Iterator[PoolTask]:
        last_id = 0
        while True:
            page = self._label_studio.unannotated(self._project_id, last_id)
            yield from page.tasks
            if len(page.tasks) in (0, page.total):
                return
            last_id = page.tasks[-1].id

    def _tab(self) -> str:
        views = self._views()
        ours = [view for view in views if view["data"].get("title") == TAB]
        if not ours:
            if not views:
                # A project without tabs shows one of all tasks, which the first tab of anybody replaces.
                self._add_view({"title": "Default", "type": "list", "target": "tasks"})
            nobody = [
                {"filter": f"filter:tasks:{column}", "operator": "equal", "type": "Number", "value": 0}
                for column in ("total_annotations", "cancelled_annotations")
            ]
            ordered = {"filter": f"filter:{_COLUMN}", "operator": "greater", "type": "Number", "value": 0}
            data = {
                "title": TAB,
                "type": "list",
                "target": "tasks",
                "ordering": [_COLUMN],
                "columnsDisplayType": {_COLUMN: "Number"},
                "filters": {"conjunction": "and", "items": [ordered, *nobody]},
            }
            ours = [self._add_view(data)]
        return f"{self._queue.settings.label_studio_for_people}/projects/{self._project_id}/data?tab={ours[0]['id']}"

    def _views(self) -> list[dict[str, Any]]:
        return list(self._label_studio.call("GET", "api/dm/views/", project=self._project_id))

    def _add_view(self, data: dict[str, Any]) -> dict[str, Any]:
        body = {"project": self._project_id, "data": data}
        return dict(self._label_studio.call("POST", "api/dm/views/", body, project=self._project_id))


def table(asked: Asked) -> RenderableType:
    """Show a selection to a person.

    Args:
        asked: The selection.

    Returns:
        What rich prints.
    """
    shown = Table("place", "task", "score", "arm")
    for place, task in enumerate(asked.selection.tasks, start=1):
        score = "-" if task.score is None else f"{task.score:.3f}"
        shown.add_row(str(place), str(task.task_id), score, task.arm)
    return shown


def said(asked: Asked) -> str:
    """Say in words what a selection came to.

    Args:
        asked: The selection.

    Returns:
        Some sentences.
    """
    tasks = asked.selection.tasks
    by_lot = sum(task.arm == "random" for task in tasks)
    sentences = [
        f"Project {asked.selection.project_id}: {len(tasks)} of {asked.selection.pool} tasks that nobody has annotated "
        f"are in order, {by_lot} of them drawn by lot, the others {WENT_BY[asked.selection.way]}."
    ]
    if asked.unscored and asked.unscored < asked.selection.pool:
        sentences.append(
            f"{asked.unscored} have no score of {asked.selection.model_version}, and come last: `rsrefseg-backend "
            f"prelabel --project {asked.selection.project_id}` draws their masks."
        )
    if asked.alike:
        sentences.append(f"{asked.alike} were passed over since they look like another.")
    if asked.cleared:
        sentences.append(f"{asked.cleared} of an earlier selection lost their place.")
    if asked.gone:
        sentences.append(f"{asked.gone} were deleted meanwhile.")
    return " ".join([*sentences, f'The tab "{TAB}" shows them: {asked.tab}'])
