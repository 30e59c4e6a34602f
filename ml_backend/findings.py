"""What the doctor finds: one line each, with what to do where something is wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Literal, TypeVar

from ml_backend.errors import BackendError, Unavailable
from workers.errors import WorkersError

DEADLINE_S = 20.0
"""Longest that looking at one thing may take; Label Studio itself waits some seconds for a web process that hangs."""

State = Literal["right", "note", "wrong", "unknown"]
"""A note is no fault, yet worth knowing; unknown is what could not be looked at for want of something before it."""

T = TypeVar("T")


class TookTooLong(Unavailable):
    """Something did not answer in time."""


@dataclass(frozen=True)
class Finding:
    """One line."""

    check: str
    state: State
    said: str
    move: str = ""
    """What to do."""
    project: int | None = None
    mend: Callable[[], list[str]] | None = field(default=None, compare=False, repr=False)
    """What --fix does; it returns a sentence for each thing that it did."""

    @property
    def fixable(self) -> bool:
        """Whether --fix does something about it."""
        return self.state == "wrong" and self.mend is not None

    def as_dict(self) -> dict[str, Any]:
        """Write it for a script.

        Returns:
            What JSON can hold.
        """
        facts = {"check": self.check, "state": self.state, "said": self.said, "move": self.move}
        return {**facts, "project": self.project, "fixable": self.fixable}


def in_time(look: Callable[[], T], seconds: float = DEADLINE_S) -> T:
    """Do something that may hang, and hang no longer than so long.

    Args:
        look: What to do.
        seconds: For how long.

    Returns:
        What it returned.

    Raises:
        TookTooLong: If it did not; whatever hangs is left to itself.
    """
    results: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            results.put((look(), None))
        except BaseException as exc:
            results.put((None, exc))

    # A daemon, for which the process does not wait at its end.
    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = results.get(timeout=seconds)
    except Empty:
        raise TookTooLong(f"It did not answer within {seconds:g} s.") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # there is one where there is no error


def looked(
    check: str, look: Callable[[], Iterable[Finding]], project: int | None = None, seconds: float = DEADLINE_S
) -> Iterator[Finding]:
    """Look at one thing; whatever is raised there is a finding, and ends nothing else.

    Args:
        check: What to call it.
        look: Looks.
        project: Of which project.
        seconds: For how long.

    Yields:
        What was found.
    """
    try:
        yield from in_time(lambda: list(look()), seconds)
    except (BackendError, WorkersError) as exc:
        yield Finding(check, "wrong", str(exc), project=project)
    except Exception as exc:
        # A doctor does not die of what it sees; the type alone, since the text may hold a secret.
        sentence = f"It could not be looked at ({type(exc).__name__})."
        yield Finding(check, "wrong", sentence, "Tell us what it says, with the versions.", project=project)
