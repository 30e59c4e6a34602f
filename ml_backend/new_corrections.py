"""How many corrections a project has that no training has looked at, without decoding a mask.

What a training looked at stands in its snapshot: annotations, and as of when. The store is read once, and after that
only the tasks whose files were replaced.
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from workers.contract import Training
from workers.corrections import Corrections
from workers.snapshots import Manifest, Snapshots

ENDS = frozenset({"promoted", "refused", "failed"})
"""How a training ends."""


class New(NamedTuple):
    """What no training has looked at."""

    corrections: int = 0
    first_at: datetime | None = None
    """When the first of it was gathered; None if there is nothing."""
    last_at: datetime | None = None
    """The same of the last."""


class _Held(NamedTuple):
    # What is remembered of a task's file.
    replaced_ns: int
    annotations: dict[int, tuple[datetime, int]]
    """When each was last updated, and how many corrections it holds."""


class NewCorrections:
    """Counts them.

    Args:
        data: The data directory.
    """

    def __init__(self, data: Path) -> None:
        self._corrections = Corrections(data)
        self._snapshots = Snapshots(data)
        self._held: dict[int, dict[int, _Held]] = {}
        self._manifests: dict[int, tuple[str, Manifest]] = {}

    def projects(self) -> list[int]:
        """List the projects that have corrections.

        Returns:
            Their numbers.
        """
        return self._corrections.projects()

    def of(self, project_id: int, ended: Training | None = None) -> New:
        """Count a project's.

        Args:
            project_id: The project.
            ended: The training that ended last: what it had before it began is not new, even if it left no snapshot.

        Returns:
            The count, and when they came.
        """
        manifest = self._newest(project_id)
        looked_at = manifest.annotations if manifest else {}
        known = {number: datetime.fromisoformat(at) for number, at in looked_at.items()}
        # A training that failed early left no word of what it had looked at.
        since_ns = int(ended.began_at.timestamp() * 1e9) if ended and ended.stage in ENDS else 0
        count, times = 0, []
        for held in self._read(project_id).values():
            if held.replaced_ns <= since_ns:
                continue
            new = sum(many for number, (at, many) in held.annotations.items() if known.get(number) != at)
            if new:
                count += new
                times.append(held.replaced_ns)
        if not times:
            return New()
        return New(count, *(datetime.fromtimestamp(at / 1e9, UTC) for at in (min(times), max(times))))

    def made_at(self, project_id: int) -> datetime | None:
        """Say when the newest snapshot of a project was made.

        Args:
            project_id: The project.

        Returns:
            When; None if there is none.
        """
        manifest = self._newest(project_id)
        return manifest.made_at if manifest else None

    def _newest(self, project_id: int) -> Manifest | None:
        name = self._snapshots.newest_name(project_id)
        if name is None:
            return None
        kept = self._manifests.get(project_id)
        if kept is None or kept[0] != name:
            manifest = self._snapshots.get(project_id, name)
            if manifest is None:
                return None
            kept = self._manifests[project_id] = name, manifest
        return kept[1]

    def _read(self, project_id: int) -> dict[int, _Held]:
        before = self._held.get(project_id, {})
        held: dict[int, _Held] = {}
        for task_id, (path, replaced_ns) in self._corrections.files(project_id).items():
            same = before.get(task_id)
            held[task_id] = same if same and same.replaced_ns == replaced_ns else _Held(replaced_ns, _annotations(path))
        self._held[project_id] = held
        return held


def _annotations(path: Path) -> dict[int, tuple[datetime, int]]:
    # As plain JSON: a mask is a string like any other, and the store has checked it.
    with suppress(OSError, ValueError, KeyError, TypeError):
        rest = json.loads(path.read_text("utf-8").splitlines()[1])
        return {
            one["annotation_id"]: (datetime.fromisoformat(one["updated_at"]), len(one["corrections"]))
            for one in rest["annotations"]
        }
    return {}
