from __future__ import annotations

import base64
import gzip
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import jwt
import pytest

from tests.conftest import TOKEN
from tests.factories import make_image_uri, make_png
from workers.errors import ImageAway, ImageBroken, ImageRefused
from workers.images import ImageFetcher
from workers.settings import Settings

LABEL_STUDIO = "http://label-studio.lan:8080"
PUBLIC = "http://93.184.216.34"
PNG = make_png()

Answer = Callable[[httpx.Request], httpx.Response]


def fetcher(answer: Answer, **settings: Any) -> ImageFetcher:
    fields = {"label_studio_url": LABEL_STUDIO, "label_studio_api_key": TOKEN, "image_cache_bytes": 0, **settings}
    return ImageFetcher(Settings(**fields), httpx.MockTransport(answer))


def gives(response: httpx.Response) -> Answer:
    return lambda _request: response


class Net:
    """Answers by address, and remembers who was shown which token."""

    def __init__(self, **pages: httpx.Response) -> None:
        self.pages: dict[str, httpx.Response] = pages
        self.shown: list[tuple[str, str | None]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.shown.append((str(request.url), request.headers.get("Authorization")))
        return self.pages.get(str(request.url), httpx.Response(404))


def moved(to: str) -> httpx.Response:
    return httpx.Response(302, headers={"Location": to})


# Where images come from, and who is shown the token.


@pytest.mark.parametrize("path", ["/data/upload/1/a.png", "/data/local-files/?d=scenes/7.png"])
def test_a_path_is_label_studios_and_opened_with_its_token(path: str) -> None:
    net = Net(**{LABEL_STUDIO + path: httpx.Response(200, content=PNG)})
    assert fetcher(net).fetch(path, 7).shape == (6, 8, 3)
    assert net.shown == [(LABEL_STUDIO + path, f"Token {TOKEN}")]


def test_another_host_is_shown_no_token() -> None:
    net = Net(**{f"{PUBLIC}/a.png": httpx.Response(200, content=PNG)})
    fetcher(net).fetch(f"{PUBLIC}/a.png", 7)
    assert net.shown == [(f"{PUBLIC}/a.png", None)]


@pytest.mark.parametrize("other", ["https://label-studio.lan:8080/a.png", "http://label-studio.lan:81/a.png"])
def test_another_scheme_or_port_of_label_studios_host_is_another_host(other: str) -> None:
    net = Net(**{other: httpx.Response(200, content=PNG)})
    fetcher(net, image_hosts="label-studio.lan").fetch(other, 7)
    assert net.shown == [(other, None)]


def test_the_token_does_not_follow_a_redirect_elsewhere_nor_back() -> None:
    net = Net(**{
        f"{LABEL_STUDIO}/a.png": moved(f"{PUBLIC}/a.png"),
        f"{PUBLIC}/a.png": moved(f"{LABEL_STUDIO}/b.png"),
        f"{LABEL_STUDIO}/b.png": httpx.Response(200, content=PNG),
    })
    fetcher(net, image_hosts="label-studio.lan").fetch("/a.png", 7)
    assert [token for _, token in net.shown] == [f"Token {TOKEN}", None, None]


@pytest.mark.parametrize("uri", ["s3://bucket/scenes/7 a.png", "gs://bucket/7.png", "azure-blob://box/7.png"])
def test_a_cloud_image_is_resolved_by_label_studio(uri: str) -> None:
    wrapped = base64.urlsafe_b64encode(uri.encode()).decode()
    resolve = httpx.URL(f"{LABEL_STUDIO}/tasks/7/resolve/", params={"fileuri": wrapped})
    presigned = "http://10.0.0.5:9000/bucket/7.png?signature=abc"
    net = Net(**{str(resolve): moved(presigned), presigned: httpx.Response(200, content=PNG)})
    assert fetcher(net).fetch(uri, 7).shape == (6, 8, 3)
    assert net.shown == [(str(resolve), f"Token {TOKEN}"), (presigned, None)]


@pytest.mark.filterwarnings("ignore:The `parse_obj` method is deprecated")  # label-studio-sdk 2.1.2
def test_a_personal_access_token_is_exchanged_once_for_many_images() -> None:
    def sign(kind: str, minutes: int) -> str:
        return jwt.encode({"token_type": kind, "exp": int(time.time()) + 60 * minutes}, "k" * 32)

    personal, access = sign("refresh", 1000), sign("access", 5)
    asked: list[str] = []

    def label_studio(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        if request.url.path == "/api/token/refresh/":
            assert personal.encode() in request.content
            return httpx.Response(200, json={"access": access})
        assert request.headers["Authorization"] == f"Bearer {access}"
        return httpx.Response(200, content=PNG)

    images = fetcher(label_studio, label_studio_api_key=personal)
    images.fetch("/a.png", 7)
    images.fetch("/b.png", 7)
    assert asked == ["/api/token/refresh/", "/a.png", "/b.png"]


@pytest.mark.filterwarnings("ignore:The `parse_obj` method is deprecated")  # label-studio-sdk 2.1.2
@pytest.mark.parametrize("clock", ["ours", "label studio's"])
def test_a_fetcher_that_outlives_its_access_token_gets_another(clock: str) -> None:
    def sign(kind: str, seconds: float) -> str:
        return jwt.encode({"token_type": kind, "exp": time.time() + seconds, "n": len(given)}, "k" * 32)

    given: list[str] = []
    refused: list[str] = []
    personal = sign("refresh", 60_000)

    def label_studio(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/token/refresh/":
            given.append(sign("access", 0.3 if clock == "ours" else 300))
            return httpx.Response(200, json={"access": given[-1]})
        token = request.headers["Authorization"].removeprefix("Bearer ")
        if token != given[-1] or (clock != "ours" and token == given[0] and request.url.path != "/1.png"):
            refused.append(token)
            return httpx.Response(401)
        return httpx.Response(200, content=PNG)

    images = fetcher(label_studio, label_studio_api_key=personal)
    images.fetch("/1.png", 7)
    time.sleep(0.35)
    images.fetch("/2.png", 7)
    images.fetch("/3.png", 7) if clock != "ours" else None
    assert len(given) == 2
    assert len(refused) == (0 if clock == "ours" else 1), "where only Label Studio's clock says so, it says it once"


@pytest.mark.parametrize("status", [401, 500])
def test_a_personal_access_token_that_is_not_exchanged_is_told_apart(status: int) -> None:
    personal = jwt.encode({"exp": int(time.time()) + 60}, "k" * 32)
    images = fetcher(gives(httpx.Response(status, json={})), label_studio_api_key=personal)
    with pytest.raises(ImageRefused if status == 401 else ImageAway) as said:
        images.fetch("/a.png", 7)
    assert ("LABEL_STUDIO_API_KEY" in str(said.value)) == (status == 401)
    assert personal not in str(said.value)


def test_an_image_may_be_inside_the_task() -> None:
    assert fetcher(Net()).fetch(make_image_uri(), 7).shape == (6, 8, 3)


def test_an_image_inside_the_task_is_read_as_browsers_read_it() -> None:
    head, _, letters = make_image_uri().partition(",")
    loose = [letters.rstrip("="), letters.replace("+", "%2B").replace("=", "%3D"), f" {letters[:20]}\n\t{letters[20:]}"]
    for spelling in loose:
        assert fetcher(Net()).fetch(f"{head},{spelling}", 7).shape == (6, 8, 3)
    assert fetcher(Net()).fetch("data:image/png," + quote(PNG), 7).shape == (6, 8, 3)


def test_an_image_inside_the_task_has_the_same_limit() -> None:
    with pytest.raises(ImageRefused, match=r"larger than 50 bytes \(RSREFSEG_IMAGE_BYTES_LIMIT"):
        fetcher(Net(), image_bytes_limit=50).fetch(make_image_uri(), 7)
    with pytest.raises(ImageRefused, match="larger than 50 bytes"):
        fetcher(Net(), image_bytes_limit=50).fetch("data:image/png;base64," + "A" * 1000, 7)


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/png;base64",
        "data:image/png;base64,!!",
        "ftp://host/a.png",
        "a.png",
        "http://host:port/a.png",
        "http://",
    ],
)
def test_what_is_no_address_of_an_image_is_refused(uri: str) -> None:
    with pytest.raises(ImageRefused):
        fetcher(Net()).fetch(uri, 7)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "10.0.0.5", "192.168.1.1", "169.254.169.254", "[::1]", "0.0.0.0", "[::ffff:10.0.0.5]"],
)
def test_addresses_on_private_networks_are_refused_before_anybody_is_asked(host: str) -> None:
    net = Net()
    with pytest.raises(ImageRefused, match="RSREFSEG_IMAGE_HOSTS"):
        fetcher(net).fetch(f"http://{host}/a.png", 7)
    assert net.shown == []


def test_a_redirect_to_a_private_network_is_refused() -> None:
    with pytest.raises(ImageRefused, match="private network"):
        fetcher(Net(**{f"{PUBLIC}/a.png": moved("http://127.0.0.1/a.png")})).fetch(f"{PUBLIC}/a.png", 7)


def test_an_administrator_may_allow_a_private_host() -> None:
    net = Net(**{"http://10.0.0.5/a.png": httpx.Response(200, content=PNG)})
    assert fetcher(net, image_hosts="10.0.0.5").fetch("http://10.0.0.5/a.png", 7).shape == (6, 8, 3)


def test_a_private_host_may_be_allowed_with_all_in_its_domain() -> None:
    images = fetcher(gives(httpx.Response(200, content=PNG)), image_hosts="*.localhost")
    images.fetch("http://tiles.localhost/a.png", 7)
    for host in ("localhost", "evillocalhost"):
        with pytest.raises((ImageRefused, ImageAway)):
            images.fetch(f"http://{host}/a.png", 7)


def test_an_administrator_may_allow_named_hosts_alone() -> None:
    wrapped = base64.urlsafe_b64encode(b"s3://bucket/a.png").decode()
    resolve = str(httpx.URL(f"{LABEL_STUDIO}/tasks/7/resolve/", params={"fileuri": wrapped}))
    good = httpx.Response(200, content=PNG)
    net = Net(**{
        f"{PUBLIC}/a.png": good,
        f"{LABEL_STUDIO}/a.png": good,
        "http://10.0.0.5/a.png": good,
        "http://10.0.0.5/b.png": moved(f"{PUBLIC}/a.png"),
        resolve: moved("http://10.0.0.6/bucket/a.png"),
        "http://10.0.0.6/bucket/a.png": good,
    })
    images = fetcher(net, image_hosts="10.0.0.5", image_hosts_only=True)
    for uri in ("/a.png", "http://10.0.0.5/a.png", "s3://bucket/a.png"):
        assert images.fetch(uri, 7).shape == (6, 8, 3)
    for uri in (f"{PUBLIC}/a.png", "http://10.0.0.5/b.png"):
        with pytest.raises(
            ImageRefused, match=r"93\.184\.216\.34; an administrator may add it to RSREFSEG_IMAGE_HOSTS"
        ):
            images.fetch(uri, 7)


def test_what_a_cloud_storage_leads_to_must_be_public_again() -> None:
    wrapped = base64.urlsafe_b64encode(b"s3://bucket/a.png").decode()
    resolve = str(httpx.URL(f"{LABEL_STUDIO}/tasks/7/resolve/", params={"fileuri": wrapped}))
    net = Net(**{resolve: moved("http://10.0.0.6/a.png"), "http://10.0.0.6/a.png": moved("http://10.0.0.7/a.png")})
    with pytest.raises(ImageRefused, match=r"10\.0\.0\.7 to RSREFSEG_IMAGE_HOSTS"):
        fetcher(net).fetch("s3://bucket/a.png", 7)


def test_a_cloud_image_may_come_through_label_studio_itself() -> None:
    wrapped = base64.urlsafe_b64encode(b"gs://bucket/a.png").decode()
    resolve = str(httpx.URL(f"{LABEL_STUDIO}/tasks/7/resolve/", params={"fileuri": wrapped}))
    net = Net(**{resolve: httpx.Response(200, content=PNG)})
    assert fetcher(net).fetch("gs://bucket/a.png", 7).shape == (6, 8, 3)
    assert net.shown == [(resolve, f"Token {TOKEN}")]


def test_a_cookie_that_a_host_gives_is_not_shown_to_anybody() -> None:
    shown: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        shown.append(request.headers.get("Cookie"))
        return httpx.Response(200, content=PNG, headers={"Set-Cookie": "session=secret; Path=/"})

    images = fetcher(answer)
    images.fetch("/a.png", 7)
    images.fetch("/b.png", 7)
    assert shown == [None, None]


# What hosts answer, and whose move it is.


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_a_host_that_cannot_just_now_is_away(status: int) -> None:
    with pytest.raises(ImageAway, match=rf"/a.png just now \({status}\)"):
        fetcher(gives(httpx.Response(status))).fetch("/a.png", 7)


def test_an_upload_over_which_label_studio_breaks_is_given_up_sooner() -> None:
    with pytest.raises(ImageBroken, match="most often the uploaded file is gone") as away:
        fetcher(gives(httpx.Response(500))).fetch("/data/upload/1/a.png", 7)
    assert away.value.tries < ImageAway.tries


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError])
def test_a_host_that_does_not_answer_is_away(error: type[httpx.TransportError]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise error("a presigned https://host/a.png?signature=secret", request=request)

    with pytest.raises(ImageAway, match=error.__name__) as away:
        fetcher(answer).fetch("/a.png", 7)
    assert "secret" not in str(away.value)


def test_a_host_without_an_address_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_host(*_: object) -> None:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", no_such_host)
    with pytest.raises(ImageAway, match=r"nowhere\.example of"):
        fetcher(Net()).fetch("https://nowhere.example/a.png", 7)


@pytest.mark.parametrize(("status", "key", "move"), [(401, TOKEN, "check"), (403, TOKEN, "check"), (401, "", "set")])
def test_a_door_that_stays_shut_names_the_key(status: int, key: str, move: str) -> None:
    with pytest.raises(ImageRefused, match=f"{move} LABEL_STUDIO_API_KEY") as refused:
        fetcher(gives(httpx.Response(status)), label_studio_api_key=key).fetch("/a.png", 7)
    assert refused.value.move == "ours"


@pytest.mark.parametrize("status", [400, 404, 410, 418])
def test_an_image_that_is_not_there_is_the_annotators_move(status: int) -> None:
    with pytest.raises(ImageRefused, match=r"Label Studio .* /a\.png") as refused:
        fetcher(gives(httpx.Response(status))).fetch("/a.png", 7)
    assert refused.value.move == "annotator"


def test_redirects_come_to_an_end() -> None:
    with pytest.raises(ImageRefused, match="more than 5 times"):
        fetcher(gives(moved("/a.png"))).fetch("/a.png", 7)


# Limits.


def drip(seconds: float) -> Iterator[bytes]:
    for _ in range(100):
        time.sleep(seconds)
        yield b"0" * 1000


def test_too_many_bytes_are_refused_though_nobody_said_how_many_there_are() -> None:
    with pytest.raises(ImageRefused, match="larger than 5000 bytes"):
        fetcher(gives(httpx.Response(200, content=drip(0))), image_bytes_limit=5000).fetch("/a.png", 7)


def test_too_many_announced_bytes_are_refused_unread() -> None:
    answer = httpx.Response(200, headers={"Content-Length": "10000"}, content=drip(60))
    with pytest.raises(ImageRefused, match="larger than 5000 bytes"):
        fetcher(gives(answer), image_bytes_limit=5000).fetch("/a.png", 7)


def test_a_host_that_drips_is_away() -> None:
    with pytest.raises(ImageAway, match=r"longer than 0\.1 s"):
        fetcher(gives(httpx.Response(200, content=drip(0.03))), image_timeout_s=0.1).fetch("/a.png", 7)


def test_a_compressed_answer_is_unpacked_no_further_than_the_limit() -> None:
    small, bomb = gzip.compress(PNG), gzip.compress(bytes(50_000_000))
    packed = {"Content-Encoding": "gzip"}
    images = fetcher(gives(httpx.Response(200, headers=packed, content=iter([small[:9], small[9:]]))))
    assert images.fetch("/a.png", 7).shape == (6, 8, 3)
    tracemalloc.start()
    with pytest.raises(ImageRefused, match="larger than 5000 bytes"):
        fetcher(gives(httpx.Response(200, headers=packed, content=iter([bomb]))), image_bytes_limit=5000).fetch("/b", 7)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    for kind, content in (("br", PNG), ("gzip", PNG)):
        answer = httpx.Response(200, headers={"Content-Encoding": kind}, content=iter([content]))
        with pytest.raises(ImageRefused, match="compression that cannot be read"):
            fetcher(gives(answer)).fetch("/a.png", 7)


# Files.


@pytest.mark.parametrize("content", [b"", b"hello", b"<html>log in</html>", b"<svg/>", b"%!PS-Adobe-3.0 EPSF-3.0"])
def test_what_is_not_an_image_is_refused(content: bytes) -> None:
    with pytest.raises(ImageRefused, match=r"/a\.png is not an image that can be read"):
        fetcher(gives(httpx.Response(200, content=content))).fetch("/a.png", 7)


def test_the_content_counts_and_not_the_name() -> None:
    jpeg = make_png(format="JPEG", quality=100)
    assert fetcher(gives(httpx.Response(200, content=jpeg))).fetch("/a.png", 7).shape == (6, 8, 3)
