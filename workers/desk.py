"""What a worker that trains lays out once and its jobs find at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workers.leased import Stop
from workers.queue import JobQueue

if TYPE_CHECKING:
    from rsrefseg.teaching import Course  # Imports torch, which only a running training needs.


@dataclass(frozen=True)
class Desk:
    """The tools of one worker process that trains."""

    queue: JobQueue
    stop: Stop
    """Whether the process is asked to end."""
    device: str = "cpu"
    """Where models are trained, as torch calls it."""
    course: Course | None = None
    """How corrections teach; None for the course that is best known."""


_laid_out: Desk | None = None


def lay_out(desk: Desk) -> None:
    """Put the tools where jobs find them; RQ gives a job nothing but its own arguments.

    Args:
        desk: The tools.
    """
    global _laid_out  # One process, one training.
    _laid_out = desk


def at_hand() -> Desk:
    """Find the tools.

    Returns:
        What was laid out.

    Raises:
        RuntimeError: If nothing was: the job runs outside a worker of ours.
    """
    if _laid_out is None:
        raise RuntimeError("no desk is laid out: start trainings with `rsrefseg-worker run --queue train`")
    return _laid_out
