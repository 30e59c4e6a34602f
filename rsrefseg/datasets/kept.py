"""Labelled images kept on disk and mapped into memory: drawn scenes, and photographs at the size they are read at."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, overload

import cv2
import numpy as np
from rich.progress import track

from rsrefseg.datasets.labelled import LabelledImage
from rsrefseg.expressions import SYNONYMS
from rsrefseg.scenes import draw_scene


class KeptImages(Sequence[LabelledImage]):
    """Square images in two large files, which every process that reads them shares.

    Args:
        folder: Filled by `keep`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        index = json.loads((folder / "index.json").read_text())
        self._labels: list[list[Any]] = index["labels"]
        self._images = np.load(folder / "images.npy", mmap_mode="r")
        self._ids = np.load(folder / "ids.npy", mmap_mode="r")

    @classmethod
    def keep(
        cls, folder: Path, described: dict[str, Any] | None, count: int, size: int, images: Iterable[LabelledImage]
    ) -> KeptImages:
        """Fill a folder, unless it holds these images already.

        Args:
            folder: Begun again if it holds others.
            described: What tells these images from others, in what JSON has; None where only looking would: then the
                folder is always begun again.
            count: How many.
            size: Their side in pixels.
            images: As many, squares of that side; not looked at where they are kept already.

        Returns:
            The images.
        """
        index = folder / "index.json"
        if not described or not index.exists() or json.loads(index.read_text())["described"] != described:
            folder.mkdir(parents=True, exist_ok=True)
            index.unlink(missing_ok=True)
            pixels = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, size, size, 3))
            ids = np.lib.format.open_memmap(folder / "ids.npy", "w+", np.uint8, (count, size, size))
            labels = []
            for i, image in enumerate(images):
                pixels[i], ids[i] = image.image, image.ids
                labels.append([image.categories, image.colours, image.vocabulary])
            pixels.flush()
            ids.flush()
            index.write_text(json.dumps({"described": described, "labels": labels}))
        return cls(folder)

    def __reduce__(self) -> tuple[type[KeptImages], tuple[Path]]:
        return type(self), (self._folder,)  # another process maps the files by itself

    def __len__(self) -> int:
        return len(self._labels)

    @overload
    def __getitem__(self, index: int) -> LabelledImage: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LabelledImage]: ...
    def __getitem__(self, index: int | slice) -> LabelledImage | Sequence[LabelledImage]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        labels = (tuple(part) for part in self._labels[index])
        return LabelledImage(np.array(self._images[index]), np.array(self._ids[index]), *labels)


def drawn_scenes(folder: Path, first_seed: int, count: int, size: int, workers: int = 0) -> KeptImages:
    """Keep scenes of consecutive seeds, since drawing one takes as long as learning from several.

    Args:
        folder: Where; filled on first use.
        first_seed: Seed of the first.
        count: How many.
        size: Side in pixels.
        workers: Processes that draw; with 0 this one does.

    Returns:
        The scenes in the order of their seeds.
    """
    described = {"first_seed": first_seed, "count": count, "size": size}
    seeds = range(first_seed, first_seed + count)
    return KeptImages.keep(folder, described, count, size, _all_drawn(seeds, size, workers))


def resized_images(folder: Path, images: Iterable[LabelledImage], size: int) -> KeptImages:
    """Keep images at the size they are read at, where other processes find them.

    Args:
        folder: Where; filled anew each time, since the images may have changed.
        images: Of any size.
        size: Side in pixels.

    Returns:
        The images in their order, as squares.
    """
    resized = [one.resized(size) for one in images]
    return KeptImages.keep(folder, None, len(resized), size, resized)


def _all_drawn(seeds: range, size: int, workers: int) -> Iterator[LabelledImage]:
    # Nobody asks for the first where all are kept already, so no process is started.
    draw = partial(_drawn, size)
    if not workers:
        yield from map(draw, track(seeds, description="drawing scenes"))
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), cv2.setNumThreads, (1,)) as processes:
        yield from track(processes.map(draw, seeds, chunksize=8), "drawing scenes", len(seeds))


def _drawn(size: int, seed: int) -> LabelledImage:
    scene = draw_scene(seed, size)
    return LabelledImage.of(scene.image, scene.things, tuple(SYNONYMS))
