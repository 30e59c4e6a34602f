"""Files and folders that appear as a whole or not at all, whoever is killed when.

.NAME.3fa94c12    written and synced --> NAME
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

LEFT_OVER_S = 24 * 3600
"""After so many seconds what is half written was left by one that was killed."""

_PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}")


def partial_of(path: Path) -> Path:
    """Name what is written before it appears.

    Args:
        path: Where it is to appear.

    Returns:
        A name beside it that nobody else uses.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def replace(path: Path, text: str) -> None:
    """Write a file in place of another, if there is one; after a power cut it may be the other again.

    Args:
        path: Where, in a folder that is there.
        text: What it holds.
    """
    _written(path, text).replace(path)


def appear(path: Path, text: str) -> bool:
    """Write a file that never takes the place of another.

    Args:
        path: Where, in a folder that is there.
        text: What it holds.

    Returns:
        Whether it was written; not where there is one.
    """
    partial = _written(path, text)
    try:
        path.hardlink_to(partial)
    except FileExistsError:
        return False
    finally:
        partial.unlink()
    sync(path.parent)
    return True


def sync(path: Path) -> None:
    """See to it that a file, or the names in a folder, outlive a power cut.

    Args:
        path: The file or the folder.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """See to it that a folder with everything in it outlives a power cut.

    Args:
        folder: The folder.
    """
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def sweep(folder: Path) -> int:
    """Remove what was left half written long ago.

    Args:
        folder: Where.

    Returns:
        How much of it there was.
    """
    removed = 0
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if not _PARTIAL.fullmatch(entry.name):
                continue
            with suppress(FileNotFoundError):  # It appeared just now, or another sweeps too.
                # Not the time of modification, which `copytree` copies too.
                if time.time() - entry.stat().st_ctime > LEFT_OVER_S:
                    if entry.is_dir():
                        shutil.rmtree(entry.path)
                    else:
                        Path(entry.path).unlink()
                    removed += 1
    return removed


def _written(path: Path, text: str) -> Path:
    partial = partial_of(path)
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return partial
