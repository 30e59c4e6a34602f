"""Large published files, brought here whole or not at all; what was cut off goes on where it stopped."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx

from rsrefseg.errors import DownloadFailed, MissingWeights

Watch = Callable[[int], None]
"""Told how many bytes of a file are here."""

_BLOCK = 1 << 20
_TRIES_WITHOUT_PROGRESS = 5


@dataclass(frozen=True)
class WebFile:
    """A file at an address of its own."""

    address: str

    def request(self) -> tuple[str, dict[str, str]]:
        """Say how to ask for it.

        Returns:
            The address and the headers.
        """
        return self.address, {}


@dataclass(frozen=True)
class HubFile:
    """A file of one revision of a repository on the Hugging Face hub."""

    repository: str
    revision: str
    name: str
    endpoint: str | None = None
    """Of another hub; None for the one that huggingface_hub is set up for."""

    @property
    def address(self) -> str:
        """Where a person finds it."""
        return f"https://huggingface.co/{self.repository}"

    def request(self) -> tuple[str, dict[str, str]]:
        """Say how to ask for it: mirror, token and offline switch are huggingface_hub's.

        Returns:
            The address and the headers.

        Raises:
            DownloadFailed: If the hub is switched off.
        """
        from huggingface_hub import constants, get_token, hf_hub_url

        if constants.HF_HUB_OFFLINE:
            raise DownloadFailed(f"HF_HUB_OFFLINE is set, so {self.repository} is not asked; use --from DIR")
        url = hf_hub_url(self.repository, self.name, revision=self.revision, endpoint=self.endpoint)
        token = get_token()
        return url, {"Authorization": f"Bearer {token}"} if token else {}


@dataclass(frozen=True)
class RemoteFile:
    """A published file, known to the last bit."""

    path: str
    """Where it lies below the folder of such files, slashes between."""
    size: int
    sha256: str
    source: WebFile | HubFile
    also: tuple[str, ...] = ()
    """Other places below the folder where the same weights may lie, in another layout."""

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.path.rpartition("/")[2]


def size_words(size: int) -> str:
    """Write a number of bytes for people.

    Args:
        size: In bytes.

    Returns:
        For example "3.5 GB" or "0.8 MB".
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def download(file: RemoteFile, folder: Path, watch: Watch = lambda _: None, wait_s: float = 2.0) -> Path:
    """Bring a file from the network.

    Args:
        file: What to bring.
        folder: The folder of such files.
        watch: Told of progress.
        wait_s: Pause after a failure; the next ones are longer.

    Returns:
        Where it lies, its checksum verified.

    Raises:
        DownloadFailed: If it does not come; another call goes on where this one stopped.
    """
    target, part = _places(file, folder)
    if _is_here(file, target, watch):
        return target
    _make_room(file, part)
    failures = 0
    while (before := _length(part)) < file.size:
        try:
            _continue(file, part, watch)
        except (httpx.TransportError, httpx.HTTPStatusError) as exc:
            failures = 1 if _length(part) > before else failures + 1
            if failures == _TRIES_WITHOUT_PROGRESS or _is_final(exc):
                raise DownloadFailed(
                    f"{file.name} did not come from {file.source.address} ({_reason(exc)}); "
                    f"{size_words(_length(part))} of {size_words(file.size)} are here, another try goes on from there"
                ) from exc
            time.sleep(wait_s * failures)
        except OSError as exc:
            raise DownloadFailed(f"{part} cannot be written: {exc.strerror or exc}") from exc
    _settle(file, part, target, _digest(part, watch))
    return target


def copy(file: RemoteFile, origin: Path, folder: Path, watch: Watch = lambda _: None) -> Path:
    """Take a file from a folder that was filled on another machine.

    Args:
        file: What to take.
        origin: The folder; the file may lie anywhere below it under its own name.
        folder: The folder of such files.
        watch: Told of progress.

    Returns:
        Where it lies, its checksum verified.

    Raises:
        MissingWeights: If it is not there.
        DownloadFailed: If the files of that name are others, or cannot be copied.
    """
    target, part = _places(file, folder)
    if _is_here(file, target, watch):
        return target
    named = [path for path in sorted(origin.rglob(file.name)) if path.is_file()]
    if not named:
        raise MissingWeights(f"{file.name} is not below {origin}; it comes from {file.source.address}")
    sized = [path for path in named if path.stat().st_size == file.size]
    if not sized:
        raise DownloadFailed(f"{named[0]} has {named[0].stat().st_size} bytes, the published file has {file.size}")
    _make_room(file, part)
    try:
        with sized[0].open("rb") as source, part.open("wb") as sink:
            digest = _copied(source, sink, watch)
    except OSError as exc:
        raise DownloadFailed(f"{sized[0]} cannot be copied to {part}: {exc.strerror or exc}") from exc
    _settle(file, part, target, digest)
    return target


def _places(file: RemoteFile, folder: Path) -> tuple[Path, Path]:
    target = folder / file.path
    return target, target.with_name(f"{target.name}.part")


def _is_here(file: RemoteFile, target: Path, watch: Watch) -> bool:
    if not target.exists():
        return False
    if _digest(target, watch) != file.sha256:
        raise DownloadFailed(f"{target} is not the published file; move it away to have that one")
    return True


def _make_room(file: RemoteFile, part: Path) -> None:
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise DownloadFailed(f"{part.parent} cannot be made: {exc.strerror or exc}") from exc
    free, needed = shutil.disk_usage(part.parent).free, file.size - _length(part)
    if free < needed:
        raise DownloadFailed(
            f"{part.parent} has {size_words(free)} left and {file.name} needs {size_words(needed)}: choose another --to"
        )


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _continue(file: RemoteFile, part: Path, watch: Watch) -> None:
    here = _length(part)
    url, headers = file.source.request()
    headers = {**headers, "Accept-Encoding": "identity", **({"Range": f"bytes={here}-"} if here else {})}
    with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=30) as response:
        response.raise_for_status()
        if response.status_code != httpx.codes.PARTIAL_CONTENT or not _goes_on_at(response, here):
            here = 0  # the server begins anew, so do we
        with part.open("ab" if here else "wb") as sink:
            for block in response.iter_raw():
                here += len(block)
                if here > file.size:
                    break
                sink.write(block)
                watch(here)
    if here > file.size:
        part.unlink()
        raise DownloadFailed(f"{file.source.address} sends more than the {file.size} bytes of {file.name}")


def _goes_on_at(response: httpx.Response, here: int) -> bool:
    begins: str = response.headers.get("Content-Range", "")
    return begins.startswith(f"bytes {here}-")


def _is_final(exc: Exception) -> bool:
    if not isinstance(exc, httpx.HTTPStatusError):
        return False
    status = exc.response.status_code
    return 400 <= status < 500 and status not in {408, 425, 429}


def _reason(exc: Exception) -> str:
    if isinstance(exc, httpx.HTTPStatusError):
        return f"it answered {exc.response.status_code}"
    return str(exc) or type(exc).__name__


def _blocks(source: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: source.read(_BLOCK), b"")


def _copied(source: BinaryIO, sink: BinaryIO, watch: Watch) -> str:
    digest, here = hashlib.sha256(), 0
    for block in _blocks(source):
        digest.update(block)
        sink.write(block)
        here += len(block)
        watch(here)
    return digest.hexdigest()


def _digest(path: Path, watch: Watch) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    watch(path.stat().st_size)
    return digest


def _settle(file: RemoteFile, part: Path, target: Path, digest: str) -> None:
    if digest != file.sha256:
        part.unlink()
        raise DownloadFailed(
            f"{file.name} came damaged and was removed: its sha256 is {digest}, the published one {file.sha256}"
        )
    part.replace(target)
