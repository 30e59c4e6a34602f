"""How many corrections a project has that no training has looked at, without decoding a mask.

What a training looked at stands in its snapshot: annotations, and as of when. The store is read once, and after that
only the tasks whose files were replaced.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
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


@dataclass
class _Held:
    # What is remembered of a project's store: numbers alone, as it may have a task for each of a year's corrections.
    snapshot: str | None = None
    replaced_ns: dict[int, int] = field(default_factory=dict)
    """When each task's file was replaced."""
    new: dict[int, int] = field(default_factory=dict)
    """Corrections that the snapshot does not know, of those tasks that have any."""


class NewCorrections:
    """Counts them.

    Args:
        data: The data directory.
    """

    def __init__(self, data: Path) -> None:
        self._corrections = Corrections(data)
        self._snapshots = Snapshots(data)
        self._held: dict[int, _Held] = {}
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
        # A training that failed early left no word of what it had looked at.
        since_ns = int(ended.began_at.timestamp() * 1e9) if ended and ended.stage in ENDS else 0
        held = self._read(project_id)
        count, times = 0, []
        for task_id, new in held.new.items():
            if held.replaced_ns[task_id] > since_ns:
                count += new
                times.append(held.replaced_ns[task_id])
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

    def _read(self, project_id: int) -> _Held:
        manifest = self._newest(project_id)
        before = self._held.get(project_id, _Held())
        held = _Held(manifest.name if manifest else None)
        moved = held.snapshot != before.snapshot
        if moved and manifest is None:  # It was removed by hand.
            before = _Held()
        for task_id, replaced_ns in self._corrections.replaced(project_id):
            new = before.new.get(task_id, 0)
            # What one snapshot knows, later ones know too.
            if before.replaced_ns.get(task_id) != replaced_ns or (moved and new):
                new = self._count(project_id, task_id, manifest)
            held.replaced_ns[task_id] = replaced_ns
            if new:
                held.new[task_id] = new
        self._held[project_id] = held
        return held

    def _count(self, project_id: int, task_id: int, manifest: Manifest | None) -> int:
        known = manifest.annotations if manifest else {}
        # As plain JSON: a mask is a string like any other, and the store has checked it.
        with suppress(OSError, ValueError, KeyError, TypeError):
            rest = json.loads(self._corrections.path(project_id, task_id).read_text("utf-8").splitlines()[1])
            return sum(
                len(one["corrections"])
                for one in rest["annotations"]
                if not _same_time(known.get(one["annotation_id"]), one["updated_at"])
            )
        return 0


def _same_time(one: str | None, other: str) -> bool:
    return one is not None and datetime.fromisoformat(one) == datetime.fromisoformat(other)
