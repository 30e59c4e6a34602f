from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from ml_backend.errors import KeyRefused
from ml_backend.findings import Finding, TookTooLong, in_time, looked


def test_what_hangs_is_given_up() -> None:
    began = time.monotonic()
    with pytest.raises(TookTooLong, match="within"):
        in_time(lambda: time.sleep(2), 0.05)
    assert time.monotonic() - began < 1


def test_what_is_raised_in_time_is_raised_here() -> None:
    with pytest.raises(ZeroDivisionError):
        in_time(lambda: 1 // 0)


def fails(error: Exception) -> Iterator[Finding]:
    yield Finding("key", "right", "so far")
    raise error


def test_an_expected_error_is_a_finding_in_its_own_words() -> None:
    [found] = looked("key", lambda: fails(KeyRefused("copy it anew")), 3)
    assert (found.check, found.state, found.said, found.project) == ("key", "wrong", "copy it anew", 3)


def test_an_unexpected_error_is_a_finding_without_its_text() -> None:
    [found] = looked("key", lambda: fails(ValueError("token 0123")))
    assert found.state == "wrong"
    assert "ValueError" in found.said
    assert "0123" not in found.said + found.move


def test_only_what_is_wrong_and_has_a_remedy_is_fixable() -> None:
    assert Finding("webhook", "wrong", "", mend=list).fixable
    assert not Finding("webhook", "note", "", mend=list).fixable
    assert not Finding("webhook", "wrong", "").as_dict()["fixable"]
