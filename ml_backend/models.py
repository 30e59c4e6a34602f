"""`rsrefseg-backend models`: the versions of a project, which of them serves, and moving that by hand."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from ml_backend.errors import StartFailed
from workers.alias import move_alias, tell_champion
from workers.queue import JobQueue
from workers.registry import Comparison, Move, Registry, Version

BASE = "base"
"""What a person calls the model that the workers loaded, whichever it is."""

NO_VERSIONS = (
    "Project {project} has no versions of its own: the workers' base serves it. `rsrefseg-backend dataset --project "
    "{project}` counts the corrections that will make one."
)


class Models:
    """The versions of one project, for a person.

    Args:
        queue: Where workers look for the champion.
        registry: Where the versions are.
        project_id: The project.
    """

    def __init__(self, queue: JobQueue, registry: Registry, project_id: int) -> None:
        self._queue = queue
        self._registry = registry
        self._id = project_id

    def listed(self) -> dict[str, Any]:
        """List the versions for a script.

        Returns:
            What JSON has: the base, the champion, what Redis knows of it, the versions oldest first, and the moves.
        """
        history = self._registry.history(self._id)
        troubles = self._queue.troubles().get(self._id, ())
        return {
            "project": self._id,
            "base": self._queue.model_version(),
            "champion": self._registry.champion(self._id),
            "told": self._queue.champion(self._id),
            "versions": [version.model_dump(mode="json") for version in self._registry.versions(self._id)],
            "history": [move.model_dump(mode="json") for move in history],
            "troubles": [trouble.model_dump(mode="json") for trouble in troubles],
        }

    def table(self) -> RenderableType:
        """List the versions for a person, the base first.

        Returns:
            What rich prints.
        """
        versions, history = self._registry.versions(self._id), self._registry.history(self._id)
        if not versions and not history:
            return NO_VERSIONS.format(project=self._id)
        champion = self._registry.champion(self._id)
        table = Table(
            "version", "made", "from", "taught by", "held-out mIoU", "anchor mIoU", "verdict", "champion", title=None
        )
        base = self._queue.model_version() or "none loaded yet"
        table.add_row(f"{escape(base)} ({BASE})", "", "", "", "", "", "", _since(history, None, champion))
        for version in versions:
            verdict = version.verdict
            table.add_row(
                escape(version.version),
                f"{version.made_at:%Y-%m-%d %H:%M}",
                escape(version.parent),
                f"{version.corrections} corrections, {escape(version.dataset)}",
                _compared(verdict.held_out),
                _compared(verdict.anchor),
                ("passed: " if verdict.passed else "refused: ") + escape(verdict.reason),
                _since(history, version.version, champion)
                or ("" if self._registry.has_weights(self._id, version.version) else "weights removed"),
            )
        return Group(table, *self._notices(champion))

    def _notices(self, champion: str | None) -> list[str]:
        said = []
        if self._queue.champion(self._id) != champion:
            said.append(
                "Workers were not told of the last move: the courier does it, or `rsrefseg-backend models promote "
                f"--project {self._id} --version {champion or BASE}`."
            )
        for trouble in self._queue.troubles().get(self._id, ()):
            said.append(
                f"{trouble.version} cannot be loaded on {trouble.host}, so what served before goes on: {trouble.reason}"
            )
        return [escape(one) for one in said]

    def promote(self, name: str) -> str:
        """Make a version the champion, whatever the gate said.

        Args:
            name: The version, or `BASE`.

        Returns:
            What serves now, in a sentence.
        """
        version = self._named(name)
        passed = version is not None and version.verdict.passed
        wanted = None if version is None else version.version
        return self._moved(
            move_alias(self._queue, self._registry, self._id, wanted, "promoted" if passed else "forced"), wanted
        )

    def rollback(self, name: str | None = None) -> str:
        """Go back to what served before.

        Args:
            name: A version that served before, or `BASE`; without it the one before the champion.

        Returns:
            What serves now, in a sentence.

        Raises:
            StartFailed: If the version never served.
        """
        last = self._registry.last_move(self._id)
        if name is None and last and last.why == "rolled back" and self._queue.champion(self._id) != last.version:
            # One that was killed before Redis knew of it: twice would lead too far back.
            return self._moved(last, tell_champion(self._queue, self._registry, self._id))
        if name is None:
            wanted = self._registry.before(self._id)
        else:
            version = self._named(name)
            wanted = None if version is None else version.version
            if wanted and wanted not in {move.version for move in self._registry.history(self._id)}:
                raise StartFailed(
                    f"{wanted} never served project {self._id}, so there is no way back to it: `rsrefseg-backend "
                    f"models promote --project {self._id} --version {wanted}` makes it the champion."
                )
        # Where another rolled back at the same time, the one before that is not what was meant.
        after = last.number if last else 0
        return self._moved(move_alias(self._queue, self._registry, self._id, wanted, "rolled back", after), wanted)

    def prune(self, keep: int) -> list[str]:
        """Remove the weights of versions that never served.

        Args:
            keep: How many of them are left as they are, the newest.

        Returns:
            The versions.
        """
        return self._registry.prune(self._id, keep)

    def _named(self, name: str) -> Version | None:
        return None if name == BASE else self._registry.get(self._id, name)

    def _moved(self, move: Move | None, version: str | None) -> str:
        what = version or f"the workers' base ({self._queue.model_version() or 'none is loaded yet'})"
        if move is None:
            return f"Project {self._id} is served by {what}, as it was before."
        return (
            f"Project {self._id} is served by {what} from now on, in place of {move.former or 'the base'}: workers "
            "take it up with their next chunk, within seconds. The courier then asks anew for the masks of tasks that "
            "nobody has annotated yet."
        )


def _compared(comparison: Comparison | None) -> str:
    if comparison is None:
        return "-"
    gain = f"[{comparison.low:+.1f} … {comparison.high:+.1f}]"
    return escape(f"{comparison.before:.1f} → {comparison.after:.1f} {gain}, {comparison.scenes} scenes")


def _since(history: list[Move], version: str | None, champion: str | None) -> str:
    at = [move for move in history if move.version == version]
    if version == champion:
        return f"since {at[-1].at:%Y-%m-%d %H:%M}, {at[-1].why}" if at else "always"
    return f"was, {at[-1].why} {at[-1].at:%Y-%m-%d %H:%M}" if at else ""
