"""Images by URI: what a task holds becomes (h, w, 3) uint8 RGB, or a sentence that says why not.

Limits on bytes, pixels, time and redirects hold before the work they limit is done.
"""

from __future__ import annotations

import base64
import binascii
import io
import ipaddress
import socket
import struct
import time
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from urllib.parse import quote, unquote_to_bytes

import httpx
import numpy as np
from label_studio_sdk.core.api_error import ApiError
from label_studio_sdk.tokens.client_ext import TokensClientExt
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from rsrefseg.pictures import to_rgb
from workers.errors import ImageAway, ImageBroken, ImageRefused
from workers.failures import shown
from workers.settings import Settings

REDIRECTS = 5
"""How often one image may be somewhere else."""

QUIET_S = 10.0
"""Longest silence of a host before it counts as away, in seconds."""

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000", "PPM")
"""What is decoded; Pillow's other formats are too rarely used for the trust they need."""

_CLOUDS = ("s3", "gs", "azure-blob")
_AWAY = frozenset({408, 425, 429})
_GONE = frozenset({404, 410})
_MALFORMED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise on hostile input."""


class ImageFetcher:
    """Fetches images, with Label Studio's token for Label Studio and for nobody else.

    Args:
        settings: For Label Studio's address and token, and for the limits.
        transport: In place of the network.
    """

    def __init__(self, settings: Settings, transport: httpx.BaseTransport | None = None) -> None:
        self._settings = settings
        self._client = httpx.Client(timeout=min(QUIET_S, settings.image_timeout_s), transport=transport)
        self._tokens: TokensClientExt | None = None

    def fetch(self, uri: str, task_id: int) -> NDArray[np.uint8]:
        """Fetch and decode an image; `ImageAway` says that whoever has it does not answer.

        Args:
            uri: As the task holds it.
            task_id: The task; Label Studio asks for it before it opens a cloud storage.

        Returns:
            (h, w, 3) uint8 RGB.

        Raises:
            ImageRefused: If there is no such image, or it is none, or it is beyond a limit.
        """
        content = self._read(uri, task_id)
        try:
            return decode(content, self._settings.image_pixels_limit)
        except ImageRefused as exc:
            raise ImageRefused(f"{shown(uri)} {exc}", exc.move) from exc

    def _read(self, uri: str, task_id: int) -> bytes:
        scheme = uri.partition(":")[0].lower()
        if scheme == "data":
            return self._read_inline(uri)
        if scheme in _CLOUDS:
            wrapped = quote(base64.urlsafe_b64encode(uri.encode()))
            url = f"{self._settings.label_studio_url}/tasks/{task_id}/resolve/?fileuri={wrapped}"
            # An administrator set up that storage, so it may be on a private network.
            return self._download(url, uri, everywhere=True)
        if scheme in ("http", "https"):
            return self._download(uri, uri)
        if uri.startswith("/"):
            return self._download(self._settings.label_studio_url + uri, uri)
        raise ImageRefused(f"{shown(uri)} is not an address of an image: it should begin with /, http, s3, gs or data.")

    def _read_inline(self, uri: str) -> bytes:
        head, comma, body = uri.partition(",")
        try:
            content = base64.b64decode(body, validate=True) if head.endswith(";base64") else unquote_to_bytes(body)
        except binascii.Error:
            comma = ""
        if not comma:
            raise ImageRefused("The data URI in the task is not well-formed.")
        return content

    def _download(self, url: str, uri: str, *, everywhere: bool = False) -> bytes:
        deadline = time.monotonic() + self._settings.image_timeout_s
        home = httpx.URL(self._settings.label_studio_url)
        at_home = True
        for _ in range(REDIRECTS + 1):
            address = _parse(url, uri)
            # Once away from Label Studio there is no way back: a stranger's redirect must not spend the token.
            at_home = at_home and _origin(address) == _origin(home)
            if not at_home and not everywhere:
                self._check_host(address.host, uri)
            with self._asking(address, uri, self._authorisation() if at_home else {}) as response:
                if not response.has_redirect_location:
                    self._check_status(response, uri, at_home=at_home)
                    return self._drain(response, uri, deadline)
                url = str(response.url.join(response.headers["location"]))
        raise ImageRefused(f"{shown(uri)} is redirected more than {REDIRECTS} times.")

    @contextmanager
    def _asking(self, address: httpx.URL, uri: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        try:
            with self._client.stream("GET", address, headers=headers) as response:
                yield response
        except httpx.InvalidURL as exc:
            raise ImageRefused(f"{shown(uri)} leads to an address that will not do.") from exc
        except httpx.HTTPError as exc:
            # Only the kind of error: its text may hold a presigned URL.
            raise ImageAway(f"{address.host} does not answer for {shown(uri)} ({type(exc).__name__}).") from exc

    def _check_host(self, host: str, uri: str) -> None:
        if host in self._settings.image_hosts:
            return
        try:
            addresses = {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, None)}
        except (OSError, UnicodeError) as exc:
            raise ImageAway(f"The host {host} of {shown(uri)} cannot be found.") from exc
        if not all(ipaddress.ip_address(address).is_global for address in addresses):
            raise ImageRefused(
                f"{shown(uri)} is on a private network; an administrator may add {host} to RSREFSEG_IMAGE_HOSTS.",
                "ours",
            )

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

    def _drain(self, response: httpx.Response, uri: str, deadline: float) -> bytes:
        content = bytearray()
        limit = self._settings.image_bytes_limit
        if int(response.headers.get("content-length") or 0) > limit:
            raise ImageRefused(f"{shown(uri)} is larger than {limit} bytes (RSREFSEG_IMAGE_BYTES_LIMIT).")
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > limit:
                raise ImageRefused(f"{shown(uri)} is larger than {limit} bytes (RSREFSEG_IMAGE_BYTES_LIMIT).")
            if time.monotonic() > deadline:
                raise ImageAway(
                    f"{shown(uri)} takes longer than {self._settings.image_timeout_s:g} s (RSREFSEG_IMAGE_TIMEOUT_S)."
                )
        return bytes(content)

    def _authorisation(self) -> dict[str, str]:
        key = self._settings.label_studio_api_key.get_secret_value()
        if not key:
            return {}
        try:
            # The SDK's own exchange of a personal token for one of five minutes; a legacy token it hands back.
            self._tokens = self._tokens or TokensClientExt(
                base_url=f"{self._settings.label_studio_url}/",
                api_key=key,
                client_wrapper=SimpleNamespace(httpx_client=SimpleNamespace(httpx_client=self._client)),
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


def decode(content: bytes, pixels_limit: int) -> NDArray[np.uint8]:
    """Decode an image file as a browser would show it.

    EXIF orientation is applied. What is not RGB becomes so as `rsrefseg.pictures.to_rgb` says.

    Args:
        content: The file.
        pixels_limit: Most pixels, checked before any is decoded.

    Returns:
        (h, w, 3) uint8 RGB.

    Raises:
        ImageRefused: If it is no image, a broken one, or too large; the reason completes a sentence.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of what it takes for a bomb at half of its own limit; ours is below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(content), formats=FORMATS)
        if picture.width * picture.height <= pixels_limit:
            return to_rgb(ImageOps.exif_transpose(picture))
    except Image.DecompressionBombError:
        pass  # Beyond even Pillow's limit.
    except UnidentifiedImageError as exc:
        raise ImageRefused(f"is not an image that can be read ({', '.join(FORMATS)}).") from exc
    except _MALFORMED as exc:
        raise ImageRefused("is a broken image file.") from exc
    raise ImageRefused(f"has more than {pixels_limit} pixels (RSREFSEG_IMAGE_PIXELS_LIMIT).")


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
