"""What the readers of benchmarks share: what has to lie in a folder, and names for its samples."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from rsrefseg.errors import BadDataset


def require(path: Path, benchmark: str, layout: str) -> None:
    """Refuse a folder in which something is missing.

    Args:
        path: What has to be there.
        benchmark: Its name.
        layout: Where everything lies, in one line.

    Raises:
        BadDataset: If it is not there.
    """
    if not path.exists():
        raise BadDataset(f"{path} is missing: --root for {benchmark} is a folder ROOT with {layout}")


def require_split(split: str, existing: Iterable[str], root: Path) -> None:
    """Refuse a split that is not there.

    Args:
        split: Asked for.
        existing: Those that are.
        root: Where.

    Raises:
        BadDataset: If it is not among them.
    """
    names = sorted(set(existing))
    if split not in names:
        raise BadDataset(f"{root} has no split {split!r}; it has: {', '.join(names) or 'none'}")


class SampleNames:
    """Names that are unique within a split and safe as names of files."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, wanted: object) -> str:
        """Name one more sample.

        Args:
            wanted: What the benchmark calls it; several samples may be called the same.

        Returns:
            That name, with "-2", "-3" and so on behind it where it is taken, and "_" for what file systems refuse.
        """
        plain = re.sub(r"[^\w.-]", "_", str(wanted), flags=re.ASCII)[:120].lstrip(".") or "_"
        name, number = plain, 1
        while name in self._taken:
            number += 1
            name = f"{plain}-{number}"
        self._taken.add(name)
        return name
