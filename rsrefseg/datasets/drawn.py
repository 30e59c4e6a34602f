"""Drawn scenes kept on disk, since drawing one takes as long as learning from several."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
from rich.progress import track

from rsrefseg.datasets.labelled import LabelledImage
from rsrefseg.expressions import SYNONYMS
from rsrefseg.scenes import draw_scene


class DrawnScenes(Sequence[LabelledImage]):
    """Scenes of consecutive seeds, drawn once and mapped into memory.

    Args:
        folder: Where they are kept; filled on first use, and begun again if it holds other scenes.
        first_seed: Seed of the first.
        count: How many.
        size: Side in pixels.
    """

    def __init__(self, folder: Path, first_seed: int, count: int, size: int) -> None:
        described = {"first_seed": first_seed, "count": count, "size": size}
        index = folder / "index.json"
        if not index.exists() or json.loads(index.read_text())["described"] != described:
            folder.mkdir(parents=True, exist_ok=True)
            images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, size, size, 3))
            ids = np.lib.format.open_memmap(folder / "ids.npy", "w+", np.uint8, (count, size, size))
            labels = []
            for i in track(range(count), description="drawing scenes"):
                scene = draw_scene(first_seed + i, size)
                packed = LabelledImage.of(scene.image, scene.things, tuple(SYNONYMS))
                images[i], ids[i] = packed.image, packed.ids
                labels.append([packed.categories, packed.colours])
            images.flush()
            ids.flush()
            index.write_text(json.dumps({"described": described, "labels": labels}))
        self._labels = json.loads(index.read_text())["labels"]
        self._images = np.load(folder / "images.npy", mmap_mode="r")
        self._ids = np.load(folder / "ids.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self._labels)

    @overload
    def __getitem__(self, index: int) -> LabelledImage: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LabelledImage]: ...
    def __getitem__(self, index: int | slice) -> LabelledImage | Sequence[LabelledImage]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        categories, colours = self._labels[index]
        return LabelledImage(
            np.array(self._images[index]),
            np.array(self._ids[index]),
            tuple(categories),
            tuple(colours),
            tuple(SYNONYMS),
        )
