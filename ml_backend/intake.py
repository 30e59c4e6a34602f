"""Tasks come in: those that can be asked go to the workers' queue, the others to the list of failures.

Both doors lead through here: `/predict`, and `rsrefseg-backend prelabel` for whole projects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ml_backend.body import TaskFile
from ml_backend.errors import Unaskable
from ml_backend.label_config import LabelConfig
from ml_backend.protocol import Task
from ml_backend.translate import task_to_job, unaskable_key, unaskable_to_failure
from workers.contract import PredictJob
from workers.queue import Failure, JobQueue, QueueFull
from workers.settings import Settings


class Taken(NamedTuple):
    """What became of some tasks."""

    jobs: tuple[PredictJob, ...]
    """What is asked about them; some of it may have been in flight already."""
    new: int
    """How many of the jobs were not."""
    unaskable: int
    """Tasks without a question, which are listed as failures."""


def take_in(
    queue: JobQueue,
    tasks: Sequence[Task],
    project_id: int,
    config: LabelConfig,
    model_version: str,
    *,
    front: bool = False,
) -> Taken:
    """Submit what can be asked about tasks, and list what cannot; a full queue takes none of them.

    Args:
        queue: Where the jobs go.
        tasks: The tasks.
        project_id: Their project.
        config: The tags of the project's labeling config.
        model_version: The version that is expected to answer.
        front: Whether they go before all that wait.

    Returns:
        What became of them.
    """
    jobs, failures = _asked(tasks, project_id, config, model_version)
    new = queue.submit(jobs, front=front)
    # A task that could not be asked before and was repaired leaves the list.
    queue.clear_failures([unaskable_key(project_id, job.task_id) for job in jobs])
    for failure in failures:
        queue.record_failure(failure)
    return Taken(tuple(jobs), new, len(failures))


def most_at_once(settings: Settings) -> int:
    """Say how many tasks of a project are best taken in together.

    Args:
        settings: For the limits.

    Returns:
        Half of what the queue may hold: more than all would never be taken, and the workers need not run dry first.
    """
    return max(1, min(settings.queue_limit, settings.project_limit) // 2)


def check_room(queue: JobQueue, tasks: TaskFile, project_id: int, config: LabelConfig, model_version: str) -> None:
    """Ask whether a queue has room for all of a request's tasks, before the first of them goes there.

    Args:
        queue: Where the jobs will go.
        tasks: The tasks.
        project_id: Their project.
        config: The tags of the project's labeling config.
        model_version: The version that is expected to answer.
    """
    try:
        queue.check_room(project_id, len(tasks))
    except QueueFull:
        # What is on its way, or cannot be asked, takes no room; it is counted only where that matters.
        new = 0
        for some in tasks.batches():
            jobs, _ = _asked(some, project_id, config, model_version)
            states = queue.states(project_id, [job.key for job in jobs])
            new += len(states) - states.count("in flight")
        queue.check_room(project_id, new)


def _asked(
    tasks: Sequence[Task], project_id: int, config: LabelConfig, model_version: str
) -> tuple[list[PredictJob], list[Failure]]:
    jobs: list[PredictJob] = []
    failures: list[Failure] = []
    for task in tasks:
        try:
            jobs.append(task_to_job(task, project_id, config, model_version))
        except Unaskable as exc:
            failures.append(unaskable_to_failure(task, project_id, config, exc))
    return jobs, failures
