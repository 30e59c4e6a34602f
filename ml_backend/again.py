"""What failed is asked again: its tasks are read anew from Label Studio and taken in like any others."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from ml_backend.intake import take_in
from ml_backend.label_config import read_label_config
from ml_backend.label_studio import LabelStudio
from ml_backend.options import Options
from ml_backend.translate import unaskable_key
from workers.queue import JobQueue

AT_ONCE = 100
"""Tasks read and taken in together."""


class Asked(NamedTuple):
    """What became of the failures of a project."""

    tasks: int
    """That had failures."""
    again: int
    """Are on their way now."""
    unaskable: int
    """Lack what they lacked before: image or expression."""
    gone: int
    """Are no longer in Label Studio."""

    def __str__(self) -> str:
        if not self.tasks:
            return "There is nothing to try again."
        said = f"{self.again} of {self.tasks} tasks are on their way again."
        if self.unaskable:
            said += f" {self.unaskable} still cannot be asked: the list says what they lack."
        if self.gone:
            said += f" {self.gone} are no longer in Label Studio."
        return said


def ask_again(
    queue: JobQueue, label_studio: LabelStudio, project_id: int, task_ids: Collection[int] | None = None
) -> Asked:
    """Ask again for what failed; however often and by however many at once, each mask is drawn once.

    Args:
        queue: Where requests and failures are.
        label_studio: Where the tasks are.
        project_id: Their project.
        task_ids: These tasks alone; None for all that failed.

    Returns:
        What became of them.
    """
    failed: dict[int, list[str]] = {}
    for failure in queue.failures(project_id):
        if task_ids is None or failure.task_id in task_ids:
            failed.setdefault(failure.task_id, []).append(failure.key)
    if not failed:
        return Asked(0, 0, 0, 0)
    config = read_label_config(label_studio.label_config(project_id), Options.kept(queue.options(project_id)))
    version = queue.model_version(project_id) or ""
    again = unaskable = gone = 0
    numbers_of_all = sorted(failed)
    for start in range(0, len(numbers_of_all), AT_ONCE):
        numbers = numbers_of_all[start : start + AT_ONCE]
        tasks = label_studio.these(project_id, numbers)
        taken = take_in(queue, tasks, project_id, config, version, front=True)
        again += len({job.task_id for job in taken.jobs})
        unaskable += taken.unaskable
        gone += len(numbers) - len(tasks)
        # Keys of other versions and of tasks that are no more leave the list. What was asked left it when it was asked,
        # and may have failed anew since; what cannot be asked was listed anew.
        asked = {job.task_id for job in taken.jobs}
        settled = {unaskable_key(project_id, task.id) for task in tasks if task.id not in asked}
        settled |= {job.key for job in taken.jobs}
        queue.clear_failures([key for number in numbers for key in failed[number] if key not in settled])
    return Asked(len(failed), again, unaskable, gone)
