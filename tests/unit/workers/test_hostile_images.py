"""Files that somebody made to do harm are refused in a sentence, within limits of time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import NamedTuple

import pytest

from tests import hostile_images
from tests.loopback import Answering, serving
from workers.errors import ImageRefused
from workers.images import ImageFetcher


class Outcome(NamedTuple):
    said: str
    seconds: float


def decoded(*names: str) -> dict[str, Outcome]:
    command = [sys.executable, hostile_images.__file__, *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") < 10, "a file fills no log"
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["name"]: Outcome(line["outcome"], line["seconds"]) for line in lines}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """What a process with little memory says to each file; it lives to the last."""
    return decoded()


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


@pytest.mark.parametrize("name", hostile_images.NEAR_LIMIT)
def test_a_file_just_below_the_limits_is_read_in_the_memory_that_was_reserved_for_it(name: str) -> None:
    said, seconds = decoded(name)[name]
    assert said.endswith("x3"), said
    assert seconds < hostile_images.NEAR_LIMIT_SECONDS


SERVED = {
    "/photo.jpg": ("image/jpeg", b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'),
    "/page.png": ("image/png", b"<!doctype html><script>alert(1)</script>"),
    "/bomb.jpg": ("image/jpeg", hostile_images.png(2**31 - 1, 2**31 - 1)),
    "/nothing.tif": ("image/tiff", b""),
    "/image.svg": ("image/svg+xml", hostile_images.saved("PNG")),
    "/page.html": ("text/html", hostile_images.saved("JPEG2000")),
    "/archive.zip": ("application/zip", hostile_images.polyglots()["PNG and zip"]),
    "/script.gif": ("text/javascript", hostile_images.polyglots()["GIF and script"]),
}
READ = {"/image.svg", "/page.html", "/archive.zip", "/script.gif"}


class Files(Answering, BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        kind, content = SERVED[self.path]
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.mark.parametrize("path", SERVED)
def test_neither_its_name_nor_its_type_makes_a_file_an_image_and_what_is_one_is_read_whatever_they_say(
    open_fetcher: Callable[..., ImageFetcher], path: str
) -> None:
    with serving(Files) as url:
        images = open_fetcher(image_hosts="127.0.0.1")
        if path in READ:
            assert images.fetch(url + path, 7).shape == (48, 64, 3)
        else:
            with pytest.raises(ImageRefused):
                images.fetch(url + path, 7)
