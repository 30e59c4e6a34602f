"""A referring benchmark as one JSON object a line, as KyanChen/RSRefSeg keeps all of its own.

Source:
    KyanChen/RSRefSeg tools_RSRefSeg/convert_data_to_jsonl.py @ c20e056, whose `segmentation` is a list with one
    run-length object; KyanChen/RSRefSeg2 tools_RSRefSeg2/data_tools/ @ 7cda8cd, where it is the object itself, and
    category and box are missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsrefseg.datasets.layout import SampleNames, require, require_split
from rsrefseg.datasets.sample import CorruptRow, LineAt, Sample
from rsrefseg.errors import BadDataset


def read_referring_lines(root: Path, split: str) -> Iterator[Sample | CorruptRow]:
    """Read the samples of a split line by line.

    Args:
        root: Holds `images/`, and `<split>.jsonl` or one `<anything>_<split>.jsonl`.
        split: Such as "test".

    Yields:
        Samples named by `ref_id`, else `ann_id`, else their image, and lines that cannot be used.

    Raises:
        BadDataset: If several files fit the split.
    """
    layout = "images/ and <split>.jsonl or <anything>_<split>.jsonl"
    require(root / "images", "coco", layout)
    files = sorted(root.glob("*.jsonl"))
    if not files:
        require(root / f"{split}.jsonl", "coco", layout)
    fitting = [file for file in files if file.stem == split or file.stem.endswith(f"_{split}")]
    if not fitting:
        require_split(split, (file.stem.rpartition("_")[2] for file in files), root)
    if len(fitting) > 1:
        raise BadDataset(f"several files in {root} fit the split: {', '.join(file.name for file in fitting)}")
    names = SampleNames()
    start = 0
    with fitting[0].open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _row(line, LineAt(fitting[0], start), f"{fitting[0].name}, line {number}", root, names)
            start += len(line)


def _row(line: bytes, truth: LineAt, place: str, root: Path, names: SampleNames) -> Sample | CorruptRow:
    try:
        row: Any = json.loads(line)
    except ValueError as exc:
        return CorruptRow(place, f"it is not JSON: {exc}")
    if not isinstance(row, dict):
        return CorruptRow(place, "it is not a record")
    missing = [field for field in ("sent", "file_name", "segmentation") if row.get(field) is None]
    if missing:
        return CorruptRow(place, f"it has no {' and no '.join(missing)}")
    sent, file = str(row["sent"]).strip(), str(row["file_name"])
    called = next((row[field] for field in ("ref_id", "ann_id") if row.get(field) is not None), Path(file).stem)
    name = names.take(called)
    if not sent:
        return CorruptRow(place, "the expression is empty")
    category = row.get("category_name")
    return Sample(
        name,
        root / "images" / file,
        sent,
        None if category is None else str(category),
        truth,
        place,
    )
