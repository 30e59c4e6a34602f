"""What can go wrong in this room, sorted by whose move it is.

BackendError
  BadRequest              the annotator's move: 422, names the field
    Malformed             the request is not even JSON: 400
    UnusableConfig        the labeling config lacks a tag that we need
    Unaskable             a task lacks what makes a question: image or expression
  Unauthorised            the caller did not show who they are
  Unavailable             wait and retry
    LabelStudioAway       refused, timed out, or answered that it cannot answer now
    TaskBusy              another delivery is at the same task
  Broken                  somebody has to repair something
    StartFailed           a command cannot start; its sentence is all that the user sees
    LabelStudioRefused    Label Studio understood and said no
      KeyRefused          to our key
      AddressBlocked      to an address that it may not call
      NotFound            to an address or an id
      RequestRefused      to what we sent
      TaskGone            to a task that was deleted
"""

from __future__ import annotations


class BackendError(Exception):
    """The root of this room's errors."""


class BadRequest(BackendError):
    """What was asked cannot be done as asked.

    Args:
        reason: What to change, in a sentence.
        field: Where.
    """

    def __init__(self, reason: str, *, field: str = "") -> None:
        super().__init__(reason)
        self.field = field


class Malformed(BadRequest):
    """The body of the request cannot be read at all."""


class UnusableConfig(BadRequest):
    """The labeling config lacks a tag that we need.

    Args:
        reason: What is missing, and the line to add.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason, field="label_config")


class Unaskable(BadRequest):
    """A task lacks what makes a question.

    Args:
        reason: What is missing, and where to write it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason, field="tasks")


class Unauthorised(BackendError):
    """The caller did not show who they are, or is somebody else.

    Args:
        reason: What to show, in a sentence.
        scheme: How to show it: Basic or Bearer.
    """

    def __init__(self, reason: str, scheme: str) -> None:
        super().__init__(reason)
        self.scheme = scheme


class Unavailable(BackendError):
    """Nothing is wrong with what was asked; ask again later."""


class LabelStudioAway(Unavailable):
    """Label Studio did not answer, or answered that it cannot answer now.

    Args:
        reason: What was seen, in a sentence.
        status: What it answered, if it did.
        arrived: Whether our call may have reached it, and so may have been carried out.
    """

    def __init__(self, reason: str, *, status: int | None = None, arrived: bool = True) -> None:
        super().__init__(reason)
        self.status = status
        self.arrived = arrived


class TaskBusy(Unavailable):
    """Another delivery is at the same task."""


class Broken(BackendError):
    """Neither asking differently nor waiting helps; somebody has to repair something."""


class StartFailed(Broken):
    """A command cannot start; its sentence is all that the user sees."""


class LabelStudioRefused(Broken):
    """Label Studio understood the call and said no."""


class KeyRefused(LabelStudioRefused):
    """Label Studio does not accept the key it was shown."""


class AddressBlocked(LabelStudioRefused):
    """Label Studio is set to call no such address."""


class NotFound(LabelStudioRefused):
    """Label Studio knows no such address, or no such thing."""


class RequestRefused(LabelStudioRefused):
    """Label Studio does not take what it was sent."""


class TaskGone(LabelStudioRefused):
    """The task was deleted, so its prediction has no home."""
