from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import TOKEN
from tests.factories import make_png
from workers.image_cache import ImageCache, Validators
from workers.images import ImageFetcher
from workers.settings import Settings

HOME = "http://label-studio.lan:8080"
SIGNED = "http://10.0.0.5:9000/bucket/a.png?signature="
OLD, NEW = make_png((6, 8)), make_png((12, 8))


class Host:
    """Has one image, and answers as a host does that can tell whether it has changed."""

    def __init__(self, **headers: str) -> None:
        self.content = OLD
        self.headers = headers
        self.asked: list[httpx.Request] = []
        self.sent = 0
        self.answer: Callable[[httpx.Request], httpx.Response | None] = lambda _request: None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if (other := self.answer(request)) is not None:
            return other
        etag, changed = self.headers.get("ETag"), self.headers.get("Last-Modified")
        if (etag and request.headers.get("If-None-Match") == etag) or (
            changed and request.headers.get("If-Modified-Since") == changed
        ):
            return httpx.Response(304, headers=self.headers)
        self.sent += 1
        return httpx.Response(200, headers=self.headers, content=self.content)


def fetcher(host: Host, tmp_path: Path, **settings: Any) -> ImageFetcher:
    fields = {"label_studio_url": HOME, "label_studio_api_key": TOKEN, "data": tmp_path, **settings}
    return ImageFetcher(Settings(**fields), httpx.MockTransport(host))


def files(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "cache" / "images"
    return [path for path in folder.iterdir() if path.name != "total"] if folder.exists() else []


def days_ago(days: float) -> str:
    return formatdate(time.time() - days * 86400, usegmt=True)


KNOWN_AGAIN = [{"ETag": '"one"'}, {"Last-Modified": days_ago(3), "Date": days_ago(0)}]


@pytest.mark.parametrize("headers", KNOWN_AGAIN, ids=["etag", "date"])
def test_an_image_that_its_host_says_is_unchanged_is_not_sent_again(headers: dict[str, str], tmp_path: Path) -> None:
    host = Host(**headers)
    for _ in range(3):
        assert fetcher(host, tmp_path).fetch("/data/local-files/?d=a.png", 7).shape == (6, 8, 3)
    assert (len(host.asked), host.sent) == (3, 1)
    assert {request.headers["Authorization"] for request in host.asked} == {f"Token {TOKEN}"}


@pytest.mark.parametrize("headers", KNOWN_AGAIN, ids=["etag", "date"])
def test_an_image_that_has_changed_is_never_served_stale(headers: dict[str, str], tmp_path: Path) -> None:
    host = Host(**headers)
    images = fetcher(host, tmp_path)
    images.fetch("/a.png", 7)
    host.content, host.headers = NEW, {"ETag": '"two"'} if "ETag" in headers else {"Last-Modified": days_ago(1)}
    host.headers["Date"] = days_ago(0)
    assert images.fetch("/a.png", 7).shape == (12, 8, 3)
    assert images.fetch("/a.png", 7).shape == (12, 8, 3)
    assert host.sent == 2


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"ETag": '"one"', "Cache-Control": "private, no-store"},
        {"ETag": '"one"', "Vary": "*"},
        {"Last-Modified": days_ago(0), "Date": days_ago(0)},
        {"Last-Modified": "yesterday", "Date": days_ago(0)},
        {"Last-Modified": days_ago(3)},
    ],
    ids=["nothing to know it by", "no-store", "vary", "changed just now", "no date", "no clock"],
)
def test_what_could_change_unnoticed_is_not_kept(headers: dict[str, str], tmp_path: Path) -> None:
    host = Host(**headers)
    for _ in range(2):
        fetcher(host, tmp_path).fetch("/a.png", 7)
    assert host.sent == 2
    assert files(tmp_path) == []


def test_whoever_may_no_longer_see_an_image_does_not_get_it_from_the_disk(tmp_path: Path) -> None:
    host = Host(ETag='"one"')
    images = fetcher(host, tmp_path)
    images.fetch("/a.png", 7)
    for status in (401, 403, 404, 500, 503):
        host.answer = lambda _request, status=status: httpx.Response(status)
        with pytest.raises(Exception, match=str(status) if status != 404 else "has no"):
            images.fetch("/a.png", 7)


def test_a_cloud_image_is_known_again_under_another_signature_and_elsewhere_is_not(tmp_path: Path) -> None:
    host = Host(ETag='"one"')
    signatures = iter("abc")
    place = [SIGNED]

    def resolve(request: httpx.Request) -> httpx.Response | None:
        if request.url.path.startswith("/tasks/"):
            return httpx.Response(303, headers={"Location": place[0] + next(signatures)})
        return None

    host.answer = resolve
    images = fetcher(host, tmp_path)
    images.fetch("s3://bucket/a.png", 7)
    images.fetch("s3://bucket/a.png", 7)
    assert host.sent == 1
    place[0] = SIGNED.replace("a.png", "b.png")
    images.fetch("s3://bucket/a.png", 7)
    assert host.sent == 2
    conditions = ["If-None-Match" in request.headers for request in host.asked]
    assert conditions == [False, False, False, True, False, False], "only where the image came from"


def test_two_label_studios_and_two_addresses_are_told_apart(tmp_path: Path) -> None:
    host = Host(ETag='"one"')
    for home in (HOME, "http://other.lan"):
        for uri in ("/a.png?b", "/a.png?c"):
            fetcher(host, tmp_path, label_studio_url=home).fetch(uri, 7)
    assert host.sent == 4


def test_no_address_and_no_signature_is_written_down_and_nobody_else_may_read(tmp_path: Path) -> None:
    host = Host(ETag='"one"')
    host.answer = lambda request: (
        httpx.Response(303, headers={"Location": SIGNED + "SECRET"}) if "/tasks/" in request.url.path else None
    )
    fetcher(host, tmp_path).fetch("s3://bucket/SECRET.png", 7)
    [file] = files(tmp_path)
    assert b"SECRET" not in file.read_bytes()
    assert "SECRET" not in file.name
    assert [oct(path.stat().st_mode & 0o777) for path in (file, file.parent)] == ["0o600", "0o700"]


@pytest.mark.parametrize("damage", [lambda b: b[:-3], lambda b: b[:-3] + b"xyz", lambda _: b"", lambda _: b"{}\n"])
def test_a_file_that_the_disk_has_damaged_is_fetched_anew(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    host = Host(ETag='"one"')
    images = fetcher(host, tmp_path)
    images.fetch("/a.png", 7)
    [file] = files(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    assert images.fetch("/a.png", 7).shape == (6, 8, 3)
    assert images.fetch("/a.png", 7).shape == (6, 8, 3)
    assert host.sent == 2


def test_a_disk_that_takes_nothing_costs_no_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("in the way")
    assert fetcher(Host(ETag='"one"'), tmp_path).fetch("/a.png", 7).shape == (6, 8, 3)
    assert "image not kept" in caplog.messages


def test_no_bytes_means_no_cache(tmp_path: Path) -> None:
    fetcher(Host(ETag='"one"'), tmp_path, image_cache_bytes=0).fetch("/a.png", 7)
    assert files(tmp_path) == []


# The bound.


def fill(folder: Path, first: int, limit: int = 100_000) -> None:
    cache = ImageCache(folder, limit)
    for number in range(first, first + 60):
        cache.keep(f"image {number % 97}", Validators("here", etag='"one"'), os.urandom(1000 + 137 * (number % 40)))


def held(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.name != "total")


def test_the_files_stay_within_their_bound_and_the_ledger_is_right(tmp_path: Path) -> None:
    for first in range(0, 300, 60):
        fill(tmp_path, first)
        assert 50_000 < held(tmp_path) <= 100_000
        assert int((tmp_path / "total").read_text()) == held(tmp_path)
    (tmp_path / "total").write_text("lost")
    fill(tmp_path, 0)
    assert int((tmp_path / "total").read_text()) == held(tmp_path) <= 100_000


def test_several_processes_share_one_bound(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=fill, args=(tmp_path, 31 * n)) for n in range(3)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        assert held_at_most(tmp_path) <= 100_000
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert int((tmp_path / "total").read_text()) == held(tmp_path)
    assert not list(tmp_path.glob("*.unfinished"))


def held_at_most(folder: Path) -> int:
    sizes = []
    for path in folder.iterdir():
        if path.suffix == "" and path.name != "total":
            try:
                sizes.append(path.stat().st_size)
            except FileNotFoundError:  # thrown out meanwhile
                return 0
    return sum(sizes)


def test_what_was_used_lately_stays(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path, 10_000)
    for number in range(8):
        cache.keep(f"image {number}", Validators("here", etag='"one"'), bytes(1000))
        with cache.find("image 0") as kept:
            assert kept is not None
            assert kept.content() == bytes(1000)
        time.sleep(0.01)
    for number in range(8, 12):
        cache.keep(f"image {number}", Validators("here", etag='"one"'), bytes(1000))
    with cache.find("image 0") as used, cache.find("image 1") as unused:
        assert used is not None
        assert unused is None


def test_a_file_thrown_out_while_it_is_held_can_still_be_read(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path, 10_000)
    cache.keep("image", Validators("here", etag='"one"'), b"old")
    with cache.find("image") as kept:
        cache.keep("image", Validators("here", etag='"two"'), b"new")
        assert kept is not None
        assert kept.content() == b"old"


def test_what_a_process_left_unfinished_goes_with_the_next_cleaning(tmp_path: Path) -> None:
    left, fresh = tmp_path / "a.unfinished", tmp_path / "b.unfinished"
    for path, age in ((left, 7200), (fresh, 10)):
        path.write_bytes(bytes(10))
        os.utime(path, (time.time() - age,) * 2)
    ImageCache(tmp_path, 5000).keep("image", Validators("here", etag='"one"'), bytes(100))
    assert [left.exists(), fresh.exists()] == [False, True]


def test_an_image_beyond_the_bound_is_not_kept_and_throws_nothing_out(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path, 5000)
    cache.keep("small", Validators("here", etag='"one"'), bytes(100))
    cache.keep("large", Validators("here", etag='"one"'), bytes(6000))
    with cache.find("small") as small, cache.find("large") as large:
        assert small is not None
        assert large is None
