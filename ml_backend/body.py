"""The body of a /predict, read as it comes: however many tasks it carries, one of them is in memory at a time."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import SpooledTemporaryFile
from typing import IO

from ml_backend.errors import BadRequest, Malformed
from ml_backend.protocol import PredictRequest, Task, read_as

PIECE = 256 * 1024
"""How much of a body is read at once, in bytes."""

IN_MEMORY = 1024 * 1024
"""Beyond how many bytes the tasks of a request wait in a file."""

BATCH = 128 * 1024
"""How many bytes of tasks are taken up again at once: several hundred tasks, or one that carries its image."""

_AFTER = frozenset(" \t\r\n:,]}")
"""What stands behind a value."""

_DECODER = json.JSONDecoder()


class TaskFile:
    """The tasks of one request, without what people and models said about them.

    Args:
        file: Where they are kept, a line each; empty yet.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, task: Task) -> None:
        """Keep a task.

        Args:
            task: The task.
        """
        self._file.write(task.model_dump_json().encode() + b"\n")
        self._count += 1

    def batches(self) -> Iterator[list[Task]]:
        """Take the tasks up again, from the first on.

        Yields:
            Some of them, in the order in which they came.
        """
        self._file.seek(0)
        while lines := self._file.readlines(BATCH):
            yield [Task.model_validate_json(line) for line in lines]


@contextmanager
def reading(stream: IO[bytes]) -> Iterator[tuple[PredictRequest, TaskFile]]:
    """Read the body of a /predict to its end; Label Studio sends the tasks before it says what they are about.

    Args:
        stream: The body.

    Yields:
        The request and its tasks, which are gone afterwards.

    Raises:
        BadRequest: If the body is not JSON, or one of its fields will not do; then the rest of it was read as well,
            because who is still sending does not hear an answer.
    """
    with SpooledTemporaryFile(max_size=IN_MEMORY) as file:
        tasks = TaskFile(file)
        try:
            sent = _read_into(tasks, _Text(stream))
        except BadRequest:
            while stream.read(PIECE):
                pass
            raise
        yield sent, tasks


def _read_into(tasks: TaskFile, text: _Text) -> PredictRequest:
    rest = []
    for name in text.members():
        if name == '"tasks"' and text.peek() == "[":
            for task in text.items():
                tasks.add(read_as(Task, task, "tasks", len(tasks)))
            rest.append('"tasks":[]')
        else:
            rest.append(f"{name}:{text.value()}")
    text.end()
    return read_as(PredictRequest, "{" + ",".join(rest) + "}")


class _Text:
    """JSON that is still on its way: `json` finds where a value ends, and pydantic says what is in it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._text = ""
        self._at = 0

    def members(self) -> Iterator[str]:
        """Go through an object.

        Yields:
            Each name as it is written; its value is to be read before the next one.
        """
        for _ in self._parts("{", "}"):
            name = self.value()
            self._take(":")
            yield name

    def items(self) -> Iterator[str]:
        """Go through a list.

        Yields:
            Each value as it is written.
        """
        for _ in self._parts("[", "]"):
            yield self.value()

    def value(self) -> str:
        """Read the next value.

        Returns:
            The value as it is written.
        """
        self.peek()
        while (end := self._end_of_value()) is None:
            self._expect_more()
        value = self._text[self._at : end]
        self._at = end
        return value

    def peek(self) -> str:
        """Look at what comes next.

        Returns:
            The next character that is no space.
        """
        while not self._past_space():
            self._expect_more()
        return self._text[self._at]

    def end(self) -> None:
        """Read to the end of the stream.

        Raises:
            Malformed: If there is something yet.
        """
        while not self._past_space():
            if not self._more():
                return
        raise Malformed("The body is not JSON: something follows what was sent.")

    def _parts(self, opening: str, closing: str) -> Iterator[None]:
        self._take(opening)
        if self.peek() != closing:
            yield
            while self.peek() == ",":
                self._take(",")
                yield
        self._take(closing)

    def _take(self, expected: str) -> None:
        if self.peek() != expected:
            raise Malformed(f"The body is not JSON: there is no {expected} where one belongs.")
        self._at += 1

    def _past_space(self) -> bool:
        while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
            self._at += 1
        return self._at < len(self._text)

    def _end_of_value(self) -> int | None:
        try:
            _, end = _DECODER.raw_decode(self._text, self._at)
        except (ValueError, RecursionError):
            return None
        # Of 0.25 perhaps only 0. has come, which is read as 0.
        return end if self._text[end : end + 1] in _AFTER else None

    def _expect_more(self) -> None:
        if not self._more():
            raise Malformed("The body is not JSON: it cannot be read to its end.")

    def _more(self) -> bool:
        # At least as much as there is, lest a long value is gone through again for each piece of it.
        piece = self._stream.read(max(PIECE, len(self._text) - self._at))
        try:
            self._text = self._text[self._at :] + self._decode(piece, final=not piece)
        except UnicodeDecodeError:
            raise Malformed("The body is not JSON: it is not written in UTF-8.") from None
        self._at = 0
        return bool(piece)
