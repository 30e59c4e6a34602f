from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_backend import body
from ml_backend.errors import BadRequest, Malformed
from ml_backend.protocol import PredictRequest, Task

CONFIG = "<View>ß → 🛰</View>"
ENVELOPE = {"project": "1.17", "label_config": CONFIG, "params": {"login": None, "context": None}}


class Trickle(io.RawIOBase):
    """A body that comes a few bytes at a time, whatever is asked for."""

    def __init__(self, text: bytes, at_once: int) -> None:
        self._rest = io.BytesIO(text)
        self._at_once = at_once

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._rest.read(min(len(buffer), self._at_once))
        buffer[: len(piece)] = piece
        return len(piece)


def read(text: bytes, at_once: int = 7) -> tuple[PredictRequest, list[Task]]:
    with body.reading(Trickle(text, at_once)) as (sent, tasks):
        taken = [task for some in tasks.batches() for task in some]
        assert len(taken) == len(tasks)
        return sent, taken


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(
    tasks=st.lists(
        st.fixed_dictionaries({
            "annotations": ANYTHING,
            "id": st.integers(0, 2**31),
            "data": st.dictionaries(st.text(), ANYTHING, max_size=3),
        }),
        max_size=4,
    ),
    more=ANYTHING,
    first=st.booleans(),
    written=st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}]),
    at_once=st.integers(1, 40),
)
def test_wherever_a_body_is_cut_on_its_way_the_same_is_read(
    tasks: list[dict[str, Any]], more: Any, first: bool, written: dict[str, Any], at_once: int
) -> None:
    fields = {"tasks": tasks, **ENVELOPE, "more": more} if first else {"more": more, **ENVELOPE, "tasks": tasks}
    sent, taken = read(json.dumps(fields, **written).encode(), at_once)
    assert taken == [Task.model_validate(task) for task in tasks]
    assert sent == PredictRequest.model_validate(ENVELOPE | {"tasks": []})


WHOLE = json.dumps({"tasks": [{"id": 12, "data": {"image": "ß"}}] * 2} | ENVELOPE, ensure_ascii=False).encode()


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_a_body_that_ends_too_early_is_malformed_wherever_that_is(length: int) -> None:
    with pytest.raises(Malformed, match="not JSON"):
        read(WHOLE[:length])


@pytest.mark.parametrize(
    "text",
    [
        WHOLE + b"}",
        WHOLE + WHOLE,
        b"[" + WHOLE + b"]",
        b"\xef\xbb\xbf" + WHOLE,
        WHOLE + b"\xff",
        WHOLE.replace("ß".encode(), b"\xdf"),
        WHOLE.replace("ß".encode(), b"\\ud800"),
        WHOLE.replace(b"}, {", b"} {"),
        WHOLE.replace(b"}, {", b"},, {"),
        WHOLE.replace(b"}}]", b"}},]"),
        WHOLE.replace(b"12", b"012"),
        WHOLE.replace(b"12", b'12, "annotations": [0, 1, ]'),
        WHOLE.replace(b"12", b"[" * 100_000),
        WHOLE.replace(b'"project": ', b'"project"  '),
        WHOLE.replace(b'"project"', b"1"),
        WHOLE.replace(b'"project"', b"project"),
        WHOLE.replace(b"null", b"nil"),
    ],
)
def test_what_is_almost_json_is_malformed(text: bytes) -> None:
    assert text != WHOLE
    with pytest.raises(Malformed, match="not JSON"):
        read(text, at_once=1000)


def test_a_refused_body_is_read_to_its_end_so_that_the_sender_hears_why() -> None:
    stream = io.BytesIO(WHOLE.replace(b"12", b'"SECRET"') + b" " * 3 * body.PIECE)
    with pytest.raises(BadRequest) as refused:
        with body.reading(stream):
            pytest.fail("it was taken")
    assert refused.value.field == "tasks.0.id"
    assert "SECRET" not in str(refused.value)
    assert stream.read() == b""


def many(tasks: int) -> Iterator[bytes]:
    said = [{"result": [{"value": {"rle": list(range(256)) * 4}}]}]
    task = json.dumps({"id": 0, "data": {"image": "/data/upload/1/a.png", "notes": "x" * 200}, "annotations": said})
    yield b'{"tasks": ['
    for number in range(tasks):
        yield (", " if number else "").encode() + task.replace('"id": 0', f'"id": {number}').encode()
    yield b"], " + json.dumps(ENVELOPE).encode()[1:]


def test_only_a_few_of_many_tasks_are_in_memory_while_they_are_read_and_taken_up_again() -> None:
    class Stream(io.RawIOBase):
        """Made while it is read."""

        pieces = many(2_500)

        def read(self, _size: int = -1) -> bytes:
            return b"".join(islice(self.pieces, 50))

    tracemalloc.start()
    with body.reading(Stream()) as (_, tasks):
        largest = max(map(len, tasks.batches()))
        _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(tasks) == 2_500
    assert largest < 1_000
    assert peak < 4e6, "they are 11 MB"
