"""The model versions of projects, under RSREFSEG_DATA: folders that never change, and an alias that moves.

    models/PROJECT/versions/VERSION/     a checkpoint of heads, and version.json: how it came to be
    models/PROJECT/history/000007.json   the seventh move of the champion's alias; the last one holds

A project without a move is served by what the workers loaded, their base. A move is one file that appears as a whole
and is never replaced, so of two who move at once one comes after the other, and nobody ever reads half of either.
"""

from __future__ import annotations

import logging
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, ValidationError

from workers.contract import Wire
from workers.errors import AliasMoved, NoSuchVersion, VersionPruned
from workers.whole import appear, partial_of, sweep, sync, sync_all

log = logging.getLogger(__name__)

FOLDER = "models"
"""Below the data directory."""

DESCRIPTION = "version.json"

PRUNED = "weights-removed"
"""An empty file beside the description, where nothing else is left."""

Why = Literal["promoted", "forced", "rolled back"]
"""The gate let it pass; a person promoted it; a person took its successor back."""


class Comparison(Wire):
    """Challenger and champion asked about the same samples; mIoU in percent."""

    samples: int
    scenes: int
    before: float
    """The champion's."""
    after: float
    """The challenger's."""
    low: float
    """Lower end of the 95 % interval of the gain, in points, bootstrapped over scenes."""
    high: float


class Verdict(Wire):
    """What the gate said of a challenger, and on what grounds."""

    passed: bool
    reason: Annotated[str, Field(min_length=1)]
    """One sentence, for people."""
    held_out: Comparison | None = None
    """On the project's own scenes that no model is taught; None where there are none."""
    anchor: Comparison | None = None
    """On scenes of what the base was taught."""
    by_label: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """mIoU before and after of each label of the held-out scenes, in percent."""


class Version(Wire):
    """How a model version came to be."""

    schema_version: Literal[1] = 1
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9@._-]+$")]
    """Its name in Label Studio too; that of its folder."""
    project_id: int
    base: str
    """The version whose encoders it shares."""
    parent: str
    """What it was taught further from: the champion at the time, or the base."""
    dataset: str
    """The snapshot that it was taught by."""
    corrections: int
    """How many it learnt from."""
    recipe: dict[str, str]
    code: str
    made_at: AwareDatetime
    seconds: float
    """What teaching it took."""
    verdict: Verdict


class Move(Wire):
    """One move of a project's alias."""

    number: Annotated[int, Field(ge=1)]
    version: str | None
    """The champion from then on; None for the base, whichever the workers load."""
    former: str | None
    why: Why
    at: AwareDatetime


class Registry:
    """The versions of all projects.

    Args:
        data: The data directory.
    """

    def __init__(self, data: Path) -> None:
        self._root = data / FOLDER

    def add(self, version: Version, checkpoint: Path) -> None:
        """Keep a version; one of the same name, which holds the same, is left alone.

        Args:
            version: How it came to be.
            checkpoint: Its files, which are copied.
        """
        folder = self._versions(version.project_id) / version.version
        if folder.exists():
            return
        sweep(folder.parent)
        sweep(self._history(version.project_id))
        partial = partial_of(folder)
        shutil.copytree(checkpoint, partial)
        (partial / DESCRIPTION).write_text(version.model_dump_json(indent=2) + "\n", encoding="utf-8")
        sync_all(partial)  # Before it has its name, since a move of the alias, which is synced, may come next.
        try:
            partial.rename(folder)
        except OSError:  # Another was faster with the same.
            shutil.rmtree(partial)
        else:
            sync(folder.parent)

    def folder(self, project_id: int, version: str) -> Path:
        """Find the checkpoint of a version.

        Args:
            project_id: Its project.
            version: Its name.

        Returns:
            The folder.

        Raises:
            NoSuchVersion: If the project has none of that name.
        """
        folder = self._versions(project_id) / version
        if version.startswith(".") or "/" in version or not (folder / DESCRIPTION).is_file():
            raise NoSuchVersion(project_id, version)
        return folder

    def get(self, project_id: int, version: str) -> Version:
        """Read how a version came to be.

        Args:
            project_id: Its project.
            version: Its name.

        Returns:
            Its description.
        """
        return Version.model_validate_json((self.folder(project_id, version) / DESCRIPTION).read_text("utf-8"))

    def versions(self, project_id: int) -> list[Version]:
        """List the versions of a project.

        Args:
            project_id: The project.

        Returns:
            Those that can be read, oldest first.
        """
        found = []
        for path in self._versions(project_id).glob(f"[!.]*/{DESCRIPTION}"):
            try:
                found.append(Version.model_validate_json(path.read_text("utf-8")))
            except (OSError, ValidationError) as exc:
                log.warning("version not readable", extra={"file": str(path), "error": type(exc).__name__})
        return sorted(found, key=lambda version: version.made_at)

    def names(self, project_id: int) -> set[str]:
        """Name the versions of a project, whether or not they can be read.

        Args:
            project_id: The project.

        Returns:
            Their names.
        """
        return {path.parent.name for path in self._versions(project_id).glob(f"[!.]*/{DESCRIPTION}")}

    def is_base(self, version: str) -> bool:
        """Say whether a version that workers announced is what they loaded, and not a project's own.

        Args:
            version: Its name.

        Returns:
            True if no project has a version of this name.
        """
        return not any(version in self.names(project_id) for project_id in self.projects())

    def history(self, project_id: int) -> list[Move]:
        """List the moves of a project's alias.

        Args:
            project_id: The project.

        Returns:
            The moves, oldest first.
        """
        files = sorted(self._history(project_id).glob("[0-9]*.json"))
        return [Move.model_validate_json(path.read_text("utf-8")) for path in files]

    def last_move(self, project_id: int) -> Move | None:
        """Read the move that holds.

        Args:
            project_id: The project.

        Returns:
            The last one; None before the first.
        """
        path = max(self._history(project_id).glob("[0-9]*.json"), default=None)
        return None if path is None else Move.model_validate_json(path.read_text("utf-8"))

    def champion(self, project_id: int) -> str | None:
        """Say which version serves a project.

        Args:
            project_id: The project.

        Returns:
            Its name; None for the base.
        """
        move = self.last_move(project_id)
        return None if move is None else move.version

    def move(self, project_id: int, version: str | None, why: Why, after: int | None = None) -> Move:
        """Make a version the champion.

        Args:
            project_id: The project.
            version: Its name, which must be known; None for the base.
            why: For the history.
            after: The number of the last move that was seen as this one was decided on, 0 for none; None where it is
                right whatever happened meanwhile.

        Returns:
            The move, which holds now.

        Raises:
            VersionPruned: If its weights were removed.
            AliasMoved: If there was another move meanwhile.
        """
        if version is not None and not self.has_weights(project_id, version):
            raise VersionPruned(project_id, version)
        folder = self._history(project_id)
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            last = self.last_move(project_id)
            number = last.number if last else 0
            if after not in (None, number):
                raise AliasMoved(project_id)
            move = Move(
                number=number + 1,
                version=version,
                former=last.version if last else None,
                why=why,
                at=datetime.now(UTC),
            )
            if appear(folder / f"{move.number:06d}.json", move.model_dump_json(indent=2) + "\n"):
                return move

    def has_weights(self, project_id: int, version: str) -> bool:
        """Say whether a version could serve.

        Args:
            project_id: Its project.
            version: Its name, which must be known.

        Returns:
            False where its record alone is left.
        """
        return not (self.folder(project_id, version) / PRUNED).exists()

    def prune(self, project_id: int, keep: int) -> list[str]:
        """Remove the weights of versions that never served; how they came to be stays known.

        Args:
            project_id: The project.
            keep: How many of them are left as they are, the newest: somebody may yet promote one.

        Returns:
            The versions that have no weights any more, oldest first; not those that had none before.
        """
        served = {move.version for move in self.history(project_id)}
        idle = [one.version for one in self.versions(project_id) if one.version not in served]
        pruned = [version for version in idle[: max(0, len(idle) - keep)] if self.has_weights(project_id, version)]
        for version in pruned:
            folder = self.folder(project_id, version)
            (folder / PRUNED).touch()  # First, so that what is half removed is not promoted.
            for path in folder.iterdir():
                if path.name not in {DESCRIPTION, PRUNED}:
                    path.unlink()
        return pruned

    def before(self, project_id: int) -> str | None:
        """Say what served a project before its champion did: where a rollback leads, and a second one further back.

        Args:
            project_id: The project.

        Returns:
            The version's name; None for the base.

        Raises:
            NoSuchVersion: If nothing was ever promoted, or all of it was taken back.
        """
        below: list[str | None] = [None]
        for move in self.history(project_id):
            if move.why == "rolled back":
                below[_last(below, move.version) + 1 :] = []
            if below[-1:] != [move.version]:
                below.append(move.version)
        if len(below) < 2:
            raise NoSuchVersion(project_id, None)
        return below[-2]

    def projects(self) -> list[int]:
        """List the projects that have versions.

        Returns:
            Their numbers.
        """
        return sorted(int(folder.name) for folder in self._root.glob("*") if folder.name.isdecimal())

    def _versions(self, project_id: int) -> Path:
        return self._root / str(project_id) / "versions"

    def _history(self, project_id: int) -> Path:
        return self._root / str(project_id) / "history"


def _last(versions: list[str | None], version: str | None) -> int:
    # Where a rollback led; to something new where it is not among them.
    return max((place for place, one in enumerate(versions) if one == version), default=len(versions))
