"""What can go wrong in this room, and whose move it is.

WorkersError
├── SettingsError       the operator's: the environment does not describe a way to run
├── RedisServerError    the operator's: the embedded Redis does not run
├── NoSuchVersion       the operator's: no model version of that name
├── VersionPruned       the operator's: only the record of that version is left
├── NoSnapshot          the operator's: no corrections were collected yet
├── ImageRefused        the annotator's or the operator's, as it says: there will be no image
└── Unavailable         wait and retry
    ├── QueueFull
    ├── RedisAway
    ├── AliasMoved      somebody else moved a project's alias first
    └── ImageAway
        └── ImageBroken

JobStopped              somebody's wish: the job in hand ends here
ForeignJob              whoever writes to Redis asks for what is not ours to do
NoRoom                  the image is too large to be decoded before it is wanted
Interrupted             the same of the worker: the job goes on with the next
Superseded              the job is with another worker already, and this one has nothing to do with it any more
"""

from __future__ import annotations

from typing import Literal

Move = Literal["annotator", "wait", "ours"]
"""Who can do something about it; ours is whoever runs the worker."""


class WorkersError(Exception):
    """The root of this room's errors."""


class SettingsError(WorkersError):
    """The environment does not describe a way to run; each line says what to change."""


class RedisServerError(WorkersError):
    """The embedded Redis does not run; the sentence says why and what to do."""


class NoSuchVersion(WorkersError):
    """A project has no model version of that name, or none to go back to.

    Args:
        project_id: The project.
        version: The name; None where there is nothing to go back to.
    """

    def __init__(self, project_id: int, version: str | None) -> None:
        what = "nothing to roll back: its champion is the base" if version is None else f"no version {version!r}"
        super().__init__(f"Project {project_id} has {what}; `rsrefseg-backend models list` shows what there is.")


class VersionPruned(WorkersError):
    """Of a model version the weights were removed.

    Args:
        project_id: The project.
        version: The name.
    """

    def __init__(self, project_id: int, version: str) -> None:
        super().__init__(
            f"The weights of {version} were removed by `rsrefseg-backend models prune`: `rsrefseg-backend retrain "
            f"--project {project_id}` makes a new version."
        )


class NoSnapshot(WorkersError):
    """A project's corrections were never collected.

    Args:
        project_id: The project.
    """

    def __init__(self, project_id: int) -> None:
        super().__init__(
            f"Project {project_id} has no snapshot of its corrections yet: the first training makes one, as "
            f"`rsrefseg-backend retrain --project {project_id}` asks for."
        )


class ImageRefused(WorkersError):
    """There will be no image, however often it is asked for.

    Args:
        reason: A sentence that names the image and what to do.
        move: Who can do something about it.
    """

    def __init__(self, reason: str, move: Move = "annotator") -> None:
        super().__init__(reason)
        self.move: Move = move


class Unavailable(WorkersError):
    """Nothing is wrong with what was asked; ask again later."""


class QueueFull(Unavailable):
    """More requests wait than may.

    Args:
        reason: How full the queue is.
        retry_after_s: When to come again.
    """

    def __init__(self, reason: str, retry_after_s: int) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class RedisAway(Unavailable):
    """Redis does not answer."""


class AliasMoved(Unavailable):
    """Somebody moved a project's alias meanwhile: what was decided is to be decided anew.

    Args:
        project_id: The project.
    """

    def __init__(self, project_id: int) -> None:
        super().__init__(f"Somebody else moved the alias of project {project_id} just now: look again, and repeat it.")


class ImageAway(Unavailable):
    """Whoever has the image does not answer."""

    tries = 4
    """How often it is worth asking again."""


class ImageBroken(ImageAway):
    """Label Studio breaks over the image, as it does over an upload whose file is gone."""

    tries = 2


class JobStopped(BaseException):
    """A person stopped the job in hand; not an Exception, so that no job swallows it."""


class Interrupted(Exception):
    """The worker was asked to leave; the job comes again and goes on where it is."""


class ForeignJob(Exception):
    """A job that this project never made; nothing of it is run.

    Args:
        job_id: The job.
        what: What is foreign about it, to complete a sentence.
    """

    def __init__(self, job_id: str, what: str) -> None:
        super().__init__(f"The job {job_id} {what}, which is none of this project's: who else may write to this Redis?")


class NoRoom(Exception):
    """The image is too large to be decoded beside those that are held; once it is wanted, it is fetched again."""


class Superseded(Exception):
    """A worker was stopped for so long that its job was given to another; this one touches nothing any more."""
