"""SocioSeg (arXiv 2601.10477): a folder for each question about a satellite image.

Source:
    AMAP-ML/SocioReasoner README.md @ 7ba0c65.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from rsrefseg.datasets.layout import SampleNames, require, require_split
from rsrefseg.datasets.sample import CorruptRow, MaskFile, Sample


def read_socioseg(root: Path, split: str) -> Iterator[Sample | CorruptRow]:
    """Read the samples of a split in the order of their names; the map is left aside.

    Args:
        root: Holds `<split>/<id>/` with `sat.png`, `mask.png` and `question.json`.
        split: "train", "val" or "test".

    Yields:
        Samples named by their folders, and folders that cannot be used.
    """
    layout = "<split>/<id>/sat.png, mask.png and question.json"
    require(root, "socioseg", layout)
    require_split(split, (path.name for path in root.iterdir() if path.is_dir()), root)
    folders = sorted(path.name for path in (root / split).iterdir() if path.is_dir())
    if not folders:
        require(root / split / "<id>" / "question.json", "socioseg", layout)
    names = SampleNames()
    for name in folders:
        folder, place = root / split / name, f"{split}/{name}"
        try:
            problem = json.loads((folder / "question.json").read_bytes())["problem"]
        except OSError as exc:
            yield CorruptRow(place, f"question.json cannot be read: {exc.strerror}")
            continue
        except (ValueError, KeyError, TypeError):
            yield CorruptRow(place, "question.json holds no problem")
            continue
        if not isinstance(problem, str) or not problem.strip():
            yield CorruptRow(place, "the expression is empty")
            continue
        yield Sample(names.take(name), folder / "sat.png", problem.strip(), None, MaskFile(folder / "mask.png"), place)
