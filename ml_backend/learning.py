"""What the doctor says of a project's learning: whether somebody trains it, how that ended, what is shown of it."""

from __future__ import annotations

from collections.abc import Iterator

from ml_backend.chain import alive
from ml_backend.findings import Finding
from ml_backend.new_corrections import ENDS, NewCorrections
from workers.queue import TRAIN, JobQueue
from workers.rollouts import Rollouts
from workers.status import status_of

START_ONE = "start `rsrefseg-worker run --queue train`."


def training(queue: JobQueue, project_id: int) -> Iterator[Finding]:
    """Look at a project's trainings.

    Args:
        queue: Where they are asked for.
        project_id: The project.

    Yields:
        One line; none where nothing was ever corrected.
    """
    last = queue.trainings().get(project_id)
    new = NewCorrections(queue.settings.data).of(project_id, last).corrections
    trainers = alive(status_of(queue, failures=0), TRAIN)
    again = f"`rsrefseg-backend retrain --project {project_id}` asks for one."
    if last is not None and last.stage not in ENDS:
        if not trainers:
            yield Finding("training", "wrong", "One waits, and no trainer runs:", START_ONE, project_id)
        else:
            steps = f", step {last.step} of {last.steps}" if last.steps else ""
            yield Finding("training", "right", f"One is on its way ({last.stage}{steps}).", "", project_id)
    elif last is not None and last.stage == "failed":
        said = f"The last one failed at {last.at:%Y-%m-%d %H:%M} UTC: {last.reason}"
        yield Finding("training", "wrong", said, again, project_id)
    elif new and not trainers:
        yield Finding("training", "note", f"{new} corrections are new, and no trainer runs:", START_ONE, project_id)
    elif new or last is not None:
        ended = f"; the last training was {last.stage}: {last.reason}" if last else ""
        yield Finding("training", "right", f"{new} corrections are new{ended}", "", project_id)


def rollout(queue: JobQueue, project_id: int) -> Iterator[Finding]:
    """Look at how far Label Studio follows the project's champion.

    Args:
        queue: Where that stands.
        project_id: The project.

    Yields:
        One line while it does not.
    """
    found = Rollouts(queue.redis).get(project_id)
    if found is None or found.over:
        return
    if found.tries:
        move = "`rsrefseg-worker status` says who cannot load it, and what failed."
        yield Finding("rollout", "wrong", f"No mask of {found.version} comes back:", move, project_id)
    else:
        said = f"Tasks are drawn again by {found.version}, {found.asked} so far; then Label Studio shows it."
        yield Finding("rollout", "note", said, "", project_id)
