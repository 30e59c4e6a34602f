"""The field's benchmarks, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from rsrefseg.datasets.phrases import read_refsegrs, read_risbench
from rsrefseg.datasets.referring_lines import read_referring_lines
from rsrefseg.datasets.rrsis_d import read_rrsis_d
from rsrefseg.datasets.sample import CorruptRow, Sample
from rsrefseg.datasets.socioseg import read_socioseg
from rsrefseg.errors import BadDataset

_READERS: dict[str, Callable[[Path, str], Iterator[Sample | CorruptRow]]] = {
    "coco": read_referring_lines,
    "refsegrs": read_refsegrs,
    "risbench": read_risbench,
    "rrsis-d": read_rrsis_d,
    "socioseg": read_socioseg,
}

BENCHMARKS = tuple(_READERS)
"""Names that `read_benchmark` knows."""


def read_benchmark(name: str, root: Path, split: str) -> Iterator[Sample | CorruptRow]:
    """Read a split in the benchmark's own layout; images and masks are read when a sample is asked for them.

    Args:
        name: One of `BENCHMARKS`.
        root: Its folder.
        split: Such as "test".

    Returns:
        Its samples, and the rows that are none. What is missing in the folder is said when the first is taken.

    Raises:
        BadDataset: If no benchmark has that name.
    """
    reader = _READERS.get(name)
    if reader is None:
        raise BadDataset(f"there is no benchmark {name!r}; there are: {', '.join(BENCHMARKS)}")
    return reader(root, split)
