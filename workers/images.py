"""Images by URI: what a task holds becomes (h, w, 3) uint8 RGB, or a sentence that says why not.

Limits on bytes, pixels, time and redirects hold before the work they limit is done.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from urllib.parse import quote, unquote_to_bytes

import httpx
import numpy as np
from label_studio_sdk.core.api_error import ApiError
from label_studio_sdk.tokens.client_ext import TokensClientExt
from numpy.typing import NDArray

from workers import metrics
from workers.decoding import Decoder
from workers.errors import ImageAway, ImageBroken, ImageRefused
from workers.failures import shown
from workers.image_cache import ImageCache, Kept, Validators
from workers.image_network import QUIET_S, HostPrivate, HostUnknown, deadline, open_client, public_addresses
from workers.settings import Settings

REDIRECTS = 5
"""How often one image may be somewhere else."""

PIECE = 1 << 20
"""Most that is unpacked at once, in bytes."""

_CLOUDS = ("s3", "gs", "azure-blob")
_AWAY = frozenset({408, 425, 429})
_GONE = frozenset({404, 410})


class ImageFetcher:
    """Fetches images, with Label Studio's token for Label Studio and for nobody else.

    Args:
        settings: For Label Studio's address and token, and for the limits.
        transport: In place of the network.
    """

    def __init__(self, settings: Settings, transport: httpx.BaseTransport | None = None) -> None:
        self._settings = settings
        timeout_s = min(QUIET_S, settings.image_timeout_s)
        self._anywhere = open_client(timeout_s, public_only=False, transport=transport)
        self._public = open_client(timeout_s, public_only=True, transport=transport)
        self._cache = ImageCache(settings.data / "cache" / "images", settings.image_cache_bytes)
        self._tokens: TokensClientExt | None = None
        self._decoder = Decoder(settings.image_pixels_limit, settings.image_memory_limit)

    @property
    def is_full(self) -> bool:
        """Whether the images that somebody holds leave no room for others that nobody waits for."""
        return self._decoder.room.is_full

    def close(self) -> None:
        """Let go of the connections."""
        self._anywhere.close()
        self._public.close()

    def fetch(self, uri: str, task_id: int, *, if_room: bool = False) -> NDArray[np.uint8]:
        """Fetch and decode an image; `ImageAway` says that whoever has it does not answer.

        Args:
            uri: As the task holds it.
            task_id: The task; Label Studio asks for it before it opens a cloud storage.
            if_room: Whether to raise `NoRoom` where it is too large to be decoded beside those that are held already.

        Returns:
            (h, w, 3) uint8 RGB.

        Raises:
            ImageRefused: If there is no such image, or it is none, or it is beyond a limit.
        """
        content = self._read(uri, task_id)
        try:
            with metrics.timed("decode"):
                return self._decoder.decode(content, if_room=if_room)
        except ImageRefused as exc:
            metrics.IMAGES.labels("refused").inc()
            raise ImageRefused(f"{shown(uri)} {exc}", exc.move) from exc

    def _read(self, uri: str, task_id: int) -> bytes:
        scheme = uri.partition(":")[0].lower()
        if scheme == "data":
            return self._read_inline(uri)
        if scheme in _CLOUDS:
            wrapped = quote(base64.urlsafe_b64encode(uri.encode()))
            url = f"{self._settings.label_studio_url}/tasks/{task_id}/resolve/?fileuri={wrapped}"
            return self._download(url, uri, cloud=True)
        if scheme in ("http", "https"):
            return self._download(uri, uri)
        if uri.startswith("/"):
            return self._download(self._settings.label_studio_url + uri, uri)
        raise ImageRefused(f"{shown(uri)} is not an address of an image: it should begin with /, http, s3, gs or data.")

    def _read_inline(self, uri: str) -> bytes:
        head, comma, body = uri.partition(",")
        limit = self._settings.image_bytes_limit
        if len(body) > limit * 4:  # Three letters for each byte, at most, and some white space.
            raise ImageRefused(f"The data URI in the task is larger than {limit} bytes (RSREFSEG_IMAGE_BYTES_LIMIT).")
        content = unquote_to_bytes(body)
        try:
            if head.lower().endswith(";base64"):
                # As browsers read it: white space may be anywhere, and the padding may be missing.
                letters = b"".join(content.split()).rstrip(b"=")
                content = base64.b64decode(letters + b"=" * (-len(letters) % 4), validate=True)
        except binascii.Error:
            comma = ""
        if not comma:
            raise ImageRefused("The data URI in the task is not well-formed.")
        if len(content) > limit:
            raise ImageRefused(f"The data URI in the task is larger than {limit} bytes (RSREFSEG_IMAGE_BYTES_LIMIT).")
        return content

    def _download(self, url: str, uri: str, *, cloud: bool = False) -> bytes:
        home = _origin(httpx.URL(self._settings.label_studio_url))
        name = f"{self._settings.label_studio_url} {uri}"
        with deadline(self._settings.image_timeout_s) as end, self._cache.find(name) as found:
            kept: Kept | None = found
            at_home, trusted = True, None
            for _ in range(REDIRECTS + 1):
                address = _parse(url, uri)
                origin = _origin(address)
                if cloud and at_home:
                    # An administrator set up that storage, so it may be on a private network; what it leads to may not.
                    trusted = origin
                # Once away from Label Studio there is no way back: a stranger's redirect must not spend the token.
                at_home = at_home and origin == home
                client = self._anywhere if at_home or origin == trusted else self._client_for(address.host, uri)
                place = _place(address, with_query=at_home or not cloud)
                asked_if_changed = kept.validators.conditions(place) if kept else {}
                with self._asking(client, address, uri, asked_if_changed, at_home=at_home) as response:
                    if response.status_code == httpx.codes.NOT_MODIFIED and kept and asked_if_changed:
                        content = kept.content()
                        if content is not None:
                            metrics.IMAGES.labels("unchanged").inc()
                            return content
                        kept = None  # The disk has lost it; ask once more, for all of it.
                        continue
                    if not response.has_redirect_location:
                        self._check_status(response, uri, at_home=at_home)
                        content = self._drain(response, uri, end)
                        metrics.IMAGES.labels("read").inc()
                        validators = Validators.read(place, response.headers)
                        if (
                            response.status_code == httpx.codes.OK
                            and validators
                            and not (kept and kept.validators == validators)
                        ):
                            self._cache.keep(name, validators, content)
                        return content
                    url = str(response.url.join(response.headers["location"]))
        raise ImageRefused(f"{shown(uri)} is redirected more than {REDIRECTS} times.")

    @contextmanager
    def _asking(
        self, client: httpx.Client, address: httpx.URL, uri: str, headers: Mapping[str, str], *, at_home: bool
    ) -> Iterator[httpx.Response]:
        try:
            with ExitStack() as stack:
                for fresh in (False, True):
                    shown_key = self._authorisation(fresh=fresh) if at_home else {}
                    # Not compressed: the limits are on what is received.
                    asked = {"Accept-Encoding": "identity", **headers, **shown_key}
                    response = stack.enter_context(client.stream("GET", address, headers=asked))
                    if response.status_code != httpx.codes.UNAUTHORIZED or "Bearer" not in shown_key.get(
                        "Authorization", ""
                    ):
                        break
                yield response
        except httpx.InvalidURL as exc:
            raise ImageRefused(f"{shown(uri)} leads to an address that will not do.") from exc
        except (HostUnknown, HostPrivate) as exc:
            raise _unreachable(exc, address.host, uri) from exc
        except httpx.HTTPError as exc:
            # Only the kind of error: its text may hold a presigned URL.
            raise ImageAway(f"{address.host} does not answer for {shown(uri)} ({type(exc).__name__}).") from exc

    def _client_for(self, host: str, uri: str) -> httpx.Client:
        if any(
            host == named or (named[:2] == "*." and host.endswith(named[1:])) for named in self._settings.image_hosts
        ):
            return self._anywhere
        if self._settings.image_hosts_only:
            raise ImageRefused(
                f"{shown(uri)} is on {host}; an administrator may add it to RSREFSEG_IMAGE_HOSTS, "
                "from which alone images may come.",
                "ours",
            )
        try:
            # Looked at again by the client as it connects, whatever the name means by then.
            public_addresses(host)
        except (HostUnknown, HostPrivate) as exc:
            raise _unreachable(exc, host, uri) from exc
        return self._public

    def _check_status(self, response: httpx.Response, uri: str, *, at_home: bool) -> None:
        code = response.status_code
        who = "Label Studio" if at_home else response.url.host
        if response.is_success:
            return
        if at_home and code == httpx.codes.INTERNAL_SERVER_ERROR:
            raise ImageBroken(f"Label Studio breaks over {shown(uri)} (500); most often the uploaded file is gone.")
        if code in _AWAY or response.is_server_error:
            raise ImageAway(f"{who} cannot give {shown(uri)} just now ({code}).")
        if code in (401, 403) and at_home:
            raise self._locked_out(f"Label Studio does not show {shown(uri)} to us ({code})")
        if code in _GONE:
            hint = " (local files need a Local Files storage in the project)" if "/data/local-files" in uri else ""
            raise ImageRefused(f"{who} has no {shown(uri)}{hint}.")
        raise ImageRefused(f"{who} does not give {shown(uri)} ({code}).")

    def _drain(self, response: httpx.Response, uri: str, end: float) -> bytes:
        content = bytearray()
        limit = self._settings.image_bytes_limit
        too_large = ImageRefused(f"{shown(uri)} is larger than {limit} bytes (RSREFSEG_IMAGE_BYTES_LIMIT).")
        length = response.headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            raise too_large
        try:
            for chunk in inflated(response):
                content += chunk
                if len(content) > limit:
                    raise too_large
                if time.monotonic() > end:
                    raise ImageAway(
                        f"{shown(uri)} takes longer than {self._settings.image_timeout_s:g} s "
                        "(RSREFSEG_IMAGE_TIMEOUT_S)."
                    )
        except zlib.error as exc:
            raise ImageRefused(f"{shown(uri)} is sent in a compression that cannot be read.") from exc
        return bytes(content)

    def _authorisation(self, *, fresh: bool = False) -> dict[str, str]:
        key = self._settings.label_studio_api_key.get_secret_value()
        if not key:
            return {}
        if fresh:
            self._tokens = None  # By the clock of Label Studio it may be over before it is by ours.
        try:
            # The SDK's own exchange of a personal token for one of five minutes; a legacy token it hands back.
            self._tokens = self._tokens or TokensClientExt(
                base_url=f"{self._settings.label_studio_url}/",
                api_key=key,
                client_wrapper=SimpleNamespace(httpx_client=SimpleNamespace(httpx_client=self._anywhere)),
            )
            token = self._tokens.api_key
        except ApiError as exc:
            if exc.status_code in (401, 403):
                raise self._locked_out("Label Studio does not know us") from None
            raise ImageAway(f"Label Studio cannot exchange the personal token just now ({exc.status_code}).") from None
        except (httpx.HTTPError, ValueError) as exc:
            raise ImageAway(f"Label Studio does not exchange the personal token ({type(exc).__name__}).") from None
        return {"Authorization": f"{'Token' if token == key else 'Bearer'} {token}"}

    def _locked_out(self, what: str) -> ImageRefused:
        key = self._settings.label_studio_api_key.get_secret_value()
        return ImageRefused(f"{what}: {'check' if key else 'set'} LABEL_STUDIO_API_KEY.", "ours")


def inflated(response: httpx.Response) -> Iterator[bytes]:
    """Undo the compression that nobody asked for, a piece at a time, however much comes out of it.

    Args:
        response: The answer as it comes.

    Yields:
        At most `PIECE` bytes each.

    Raises:
        zlib.error: If it is of another kind, or broken.
    """
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding in ("", "identity"):
        yield from response.iter_bytes()
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise zlib.error("unknown encoding")
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # Tells gzip from zlib by itself.
    for chunk in response.iter_raw():
        while chunk and not unpacker.eof:
            yield unpacker.decompress(chunk, PIECE)
            chunk = unpacker.unconsumed_tail


def _unreachable(exc: HostUnknown | HostPrivate, host: str, uri: str) -> ImageRefused | ImageAway:
    if isinstance(exc, HostUnknown):
        return ImageAway(f"The host {host} of {shown(uri)} cannot be found.")
    return ImageRefused(
        f"{shown(uri)} is on a private network; an administrator may add {host} to RSREFSEG_IMAGE_HOSTS.", "ours"
    )


def _place(address: httpx.URL, *, with_query: bool) -> str:
    # A presigned address has another signature each time. Hashed, since what is in an address may be a secret.
    where = address.copy_with(fragment=None) if with_query else address.copy_with(query=None, fragment=None)
    return hashlib.sha256(str(where).encode()).hexdigest()


def _parse(url: str, uri: str) -> httpx.URL:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        address = httpx.URL()
    if address.scheme not in ("http", "https") or not address.host:
        raise ImageRefused(f"{shown(uri)} leads to an address that will not do.")
    return address


def _origin(address: httpx.URL) -> tuple[str, str, int | None]:
    return address.scheme, address.host, address.port
