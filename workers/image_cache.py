"""Image files kept on disk, each with what its host needs in order to say that it has not changed.

Nothing is given out of here on its own word: whoever finds a file asks its host, and takes it only if the host says so.
Several processes may share a directory: a file appears whole or not at all, under a name that is a hash.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)

SETTLED_S = 60
"""How old a change must be before its date says enough: to the second, it hides a further change in the same one."""

HEAD_LIMIT = 8192
"""Longest first line of a file, in bytes."""

ORPHAN_S = 3600
"""After how long a file that is not finished is nobody's, in seconds."""

_LEDGER, _UNFINISHED = "total", ".unfinished"


@dataclass(frozen=True)
class Validators:
    """What a host said with a file, by which it will know whether the file has changed."""

    place: str
    """A hash of the address that gave the file; to another address they say nothing."""
    etag: str = ""
    last_modified: str = ""

    @classmethod
    def read(cls, place: str, headers: Mapping[str, str]) -> Validators | None:
        """Look whether an answer may be kept, and by what it would be known again.

        Args:
            place: A hash of the address that gave it.
            headers: Of the answer.

        Returns:
            What it is known by; None where it may not be kept, or a change could go unnoticed.
        """
        if "no-store" in headers.get("cache-control", "").lower() or "*" in headers.get("vary", ""):
            return None
        etag, last_modified = headers.get("etag", ""), headers.get("last-modified", "")
        if etag:
            return cls(place, etag=etag)
        try:
            now = parsedate_to_datetime(headers.get("date", ""))
            settled = (now - parsedate_to_datetime(last_modified)).total_seconds() >= SETTLED_S
        except (ValueError, TypeError):
            return None
        return cls(place, last_modified=last_modified) if settled else None

    def conditions(self, place: str) -> dict[str, str]:
        """Say how to ask for a file only if it has changed.

        Args:
            place: A hash of the address that is asked.

        Returns:
            Headers; none where that address is another.
        """
        if place != self.place:
            return {}
        return {"If-None-Match": self.etag} if self.etag else {"If-Modified-Since": self.last_modified}


class Kept:
    """A file in the cache; it stays readable while it is held, whoever throws it out meanwhile.

    Args:
        file: The file, behind its first line.
        validators: What it is known by.
        checksum: Of the content.
    """

    def __init__(self, file: BinaryIO, validators: Validators, checksum: int) -> None:
        self._file = file
        self.validators = validators
        self._checksum = checksum

    def content(self) -> bytes | None:
        """Read the file, and note that it was used.

        Returns:
            The content; None where the disk has lost some of it.
        """
        content = self._file.read()
        os.utime(self._file.fileno())
        return content if zlib.crc32(content) == self._checksum else None


class ImageCache:
    """Keeps files up to so many bytes in all; those not used for longest go first.

    Args:
        directory: Where; made when the first file comes.
        limit: Most bytes in all; 0 keeps nothing.
    """

    def __init__(self, directory: Path, limit: int) -> None:
        self._directory = directory
        self._limit = limit

    @contextmanager
    def find(self, name: str) -> Iterator[Kept | None]:
        """Look for a file, and hold it.

        Args:
            name: What it was kept by; never seen on the disk.

        Yields:
            The file, or None.
        """
        try:
            file = self._path(name).open("rb")
        except OSError:
            yield None
            return
        with file:
            try:
                head = json.loads(file.readline(HEAD_LIMIT))
                kept = Kept(file, Validators(**head["validators"]), int(head["checksum"]))
            except (ValueError, TypeError, KeyError, OSError):
                kept = None
            yield kept

    def keep(self, name: str, validators: Validators, content: bytes) -> None:
        """Keep a file in place of what was kept by its name; a disk that will not take it is no error.

        Args:
            name: What to find it by.
            validators: What it is known by.
            content: The file.
        """
        head = json.dumps({"validators": asdict(validators), "checksum": zlib.crc32(content)}).encode() + b"\n"
        size = len(head) + len(content)
        if len(head) > HEAD_LIMIT or size > self._limit:
            return
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._write(self._path(name), head, content, size)
        except OSError as exc:
            log.warning("image not kept", extra={"directory": str(self._directory), "reason": exc.strerror})

    def _write(self, path: Path, head: bytes, content: bytes, size: int) -> None:
        with tempfile.NamedTemporaryFile(dir=self._directory, suffix=_UNFINISHED, delete=False) as file:
            try:
                file.write(head)
                file.write(content)
                file.flush()
                with self._ledger() as ledger:
                    total = _total(ledger)
                    if total is None or total + size > self._limit:
                        total = self._make_room(size)
                    # Written first: a process that dies here leaves a total that is too high, and that is looked into.
                    ledger.seek(0)
                    ledger.truncate()
                    ledger.write(str(total + size - _size(path)).encode())
                    ledger.flush()
                    Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise

    @contextmanager
    def _ledger(self) -> Iterator[BinaryIO]:
        with os.fdopen(os.open(self._directory / _LEDGER, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as ledger:
            fcntl.flock(ledger, fcntl.LOCK_EX)
            yield ledger

    def _make_room(self, size: int) -> int:
        # More than is needed, so that not every file that comes has to look through all.
        wanted = min(self._limit - size, self._limit * 9 // 10)
        files = []
        for path in self._directory.iterdir():
            with suppress(OSError):
                stat = path.stat()
                if path.suffix == _UNFINISHED and time.time() - stat.st_mtime > ORPHAN_S:
                    path.unlink()
                elif path.suffix == "" and path.name != _LEDGER:
                    files.append((stat.st_mtime_ns, stat.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, freed, path in sorted(files):
            if total <= wanted:
                break
            path.unlink(missing_ok=True)
            total -= freed
        return total

    def _path(self, name: str) -> Path:
        return self._directory / hashlib.sha256(name.encode()).hexdigest()


def _total(ledger: BinaryIO) -> int | None:
    try:
        return int(ledger.read())
    except ValueError:
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
