"""What a worker that trains lays out once and its jobs find at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workers.at_hand import AtHand
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


DESK: AtHand[Desk] = AtHand("rsrefseg-worker run --queue train")
"""One a process, as its training is."""
