"""What a worker lays out once and every job finds at hand: settings, queue, images, and the model, warm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workers.images import ImageFetcher
from workers.queue import JobQueue

if TYPE_CHECKING:
    from rsrefseg import Predictor  # imports torch


@dataclass(frozen=True)
class Bench:
    """The tools of one worker process."""

    queue: JobQueue
    images: ImageFetcher
    predictor: Predictor


_laid_out: Bench | None = None


def lay_out(bench: Bench) -> None:
    """Put the tools where jobs find them; RQ gives a job nothing but its own arguments.

    Args:
        bench: The tools.
    """
    global _laid_out  # One process, one model.
    _laid_out = bench


def at_hand() -> Bench:
    """Find the tools.

    Returns:
        What was laid out.

    Raises:
        RuntimeError: If nothing was: the job runs outside a worker of ours.
    """
    if _laid_out is None:
        raise RuntimeError("no bench is laid out: start jobs with `rsrefseg-worker run`")
    return _laid_out
