"""The alias of a project's champion moves: first in the registry, which remembers, then in Redis for the workers."""

from __future__ import annotations

from workers.notices import NoticeBoard
from workers.registry import Move, Registry, Why


def move_alias(
    queue: NoticeBoard,
    registry: Registry,
    project_id: int,
    version: str | None,
    why: Why,
    after: int | None = None,
) -> Move | None:
    """Make a version the champion; once more is as good as once, so whoever was killed over it does it again.

    Args:
        queue: Where workers look.
        registry: Where the alias is.
        project_id: The project.
        version: The version, which the registry must know; None for the base.
        why: For the history.
        after: The number of the last move that was seen as this was decided on, as of `Registry.move`.

    Returns:
        The move; None where the version was the champion already.
    """
    moved = registry.champion(project_id) != version
    move = registry.move(project_id, version, why, after) if moved else None
    tell_champion(queue, registry, project_id)
    return move


def tell_champion(queue: NoticeBoard, registry: Registry, project_id: int) -> str | None:
    """Tell Redis what the registry says, whoever else moves or tells meanwhile.

    Args:
        queue: Where workers look.
        registry: Where the alias is.
        project_id: The project.

    Returns:
        The champion; None for the base.
    """
    champion = registry.champion(project_id)
    while True:
        queue.keep_champion(project_id, champion)
        # Whoever wrote last looks once more, so that an older champion is never left behind.
        told, champion = champion, registry.champion(project_id)
        if champion == told:
            return champion
