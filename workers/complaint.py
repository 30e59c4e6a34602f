"""What a command says when it cannot go on: one sentence and an exit code, never a stack trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

USAGE = 2
"""Exit code for what the person at the keyboard can put right."""


class Complaint(click.ClickException):
    """A command cannot go on; its sentence is all that the user sees."""

    exit_code = USAGE


@contextmanager
def complaining(*expected: type[Exception]) -> Iterator[None]:
    """Turn expected errors into complaints.

    Args:
        *expected: The errors whose sentences are meant for the user.

    Yields:
        Nothing.

    Raises:
        Complaint: Instead of any of them.
    """
    try:
        yield
    except expected as exc:
        raise Complaint(str(exc)) from exc
