"""What a worker process lays out once for its jobs: RQ gives a job nothing but its own arguments."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class AtHand(Generic[T]):
    """The place in a process where its jobs find their tools.

    Args:
        command: What starts a process that lays them out.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self._tools: T | None = None

    def lay_out(self, tools: T) -> None:
        """Put the tools where jobs find them.

        Args:
            tools: The tools.
        """
        self._tools = tools

    def take(self) -> T:
        """Find the tools.

        Returns:
            What was laid out.

        Raises:
            RuntimeError: If nothing was: the job runs outside a worker of ours.
        """
        if self._tools is None:
            raise RuntimeError(f"nothing is laid out for this job: `{self._command}` starts what takes it")
        return self._tools
