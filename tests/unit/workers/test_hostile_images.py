"""Files that somebody made to do harm are refused in a sentence, within limits of time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import NamedTuple

import pytest

from tests import hostile_images


class Outcome(NamedTuple):
    said: str
    seconds: float


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """What a process with little memory says to each file; it lives to the last."""
    command = [sys.executable, hostile_images.__file__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["name"]: Outcome(line["outcome"], line["seconds"]) for line in lines}


@pytest.mark.parametrize("name", sorted(hostile_images.corpus()))
def test_a_hostile_file_is_refused_or_read_within_the_limits(outcomes: dict[str, Outcome], name: str) -> None:
    said, seconds = outcomes[name]
    assert not said.startswith("broke"), said
    assert seconds < hostile_images.SECONDS
    if "bytes changed" not in name:
        assert said.startswith("refused: it ") or name in READ_SO_FAR, said


READ_SO_FAR = {"data that unpacks to far more than its pixels"}  # The rest is not unpacked.


@pytest.mark.parametrize("name", sorted(hostile_images.polyglots()))
def test_an_image_with_something_else_behind_it_is_the_image(outcomes: dict[str, Outcome], name: str) -> None:
    assert outcomes[name].said == "48x64x3"
